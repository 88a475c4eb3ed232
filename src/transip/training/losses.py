"""The objective: task losses on one or two rotated views, and the latent-equivariance loss between them.

    L = w_E |ΔE| / N / s + w_F mean_i ‖ΔF_i‖₂ / s + w_eq dist(T(u₀, r), u₁) [+ w_g ‖∂E/∂rotation‖ / s]

Controls are settings of the same code: no augmentation, one view, two views without the latent loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch, Prediction, mean_by_structure, sum_by_structure
from transip.config import ObjectiveSettings
from transip.model.potential import Potential, centred
from transip.rotations import Rotations, rotate
from transip.symmetry.latent import LatentEquivariance


class Share(NamedTuple):
    """What one process's batch is divided by, so that gradients averaged over processes are exact.

    Each number is the global one divided by the number of processes; second views count.
    """

    structures: float
    atoms: float
    paired_structures: float


class Losses(NamedTuple):
    """Loss terms, each already multiplied by its weight; `total` is their sum."""

    total: Tensor
    energy: Tensor
    forces: Tensor
    latent: Tensor
    equigrad: Tensor


class Objective(nn.Module):
    """A potential and, if asked for, a latent action, together with the loss that trains them."""

    def __init__(self, potential: Potential, settings: ObjectiveSettings, bf16: bool = False):
        super().__init__()
        self.potential, self.settings, self.bf16 = potential, settings, bf16
        wanted = settings.latent.weight > 0
        self.latent = LatentEquivariance(settings.latent, potential.settings.width) if wanted else None

    def forward(
        self,
        batch: Batch,
        turns: Float[Tensor, "views structures 3 3"],
        paired: int,
        share: Share,
        progress: float,
    ) -> Losses:
        """Loss of one process's batch.

        Args:
            batch: labelled structures.
            turns: the orientation of each structure in each view.
            paired: structures, from the first on, that get the second view.
            share: normalisation, see `Share`.
            progress: 0 … 1 of training, for the latent loss's warm-up.
        """
        views, layers = rotate(batch, turns[0]), ()
        if len(turns) == 2:
            views = views.followed_by(rotate(batch.first(paired), turns[1][:paired]))
        if self.latent is not None:
            layers = self.settings.latent.layers
        # Only the network runs in reduced precision: rotating positions in bfloat16 would move the atoms.
        with torch.autocast(views.positions.device.type, torch.bfloat16, enabled=self.bf16):
            prediction = self.potential(views, layers)
        energy, forces = self._task_losses(views, prediction, share)
        latent = energy.new_zeros(())
        if self.latent is not None:
            weight = self.settings.latent.weight * warm(progress, self.settings.latent.warmup)
            latent = weight * self._latent_loss(batch.first(paired), prediction, turns) / share.paired_structures
        equigrad = energy.new_zeros(())
        if self.settings.equigrad:
            penalty = rotation_gradient(views, prediction.forces).sum() / self.potential.scale
            equigrad = self.settings.equigrad * penalty / share.structures
        return Losses(energy + forces + latent + equigrad, energy, forces, latent, equigrad)

    def _task_losses(self, batch: Batch, prediction: Prediction, share: Share) -> tuple[Tensor, Tensor]:
        if batch.energy is None or batch.forces is None:
            raise ValueError("training needs labelled structures")
        scale, settings = self.potential.scale, self.settings
        energy_error = (prediction.energy - batch.energy).abs() / batch.counts / scale
        force_error = norm(prediction.forces - batch.forces) / scale
        energy = settings.energy * energy_error.sum() / share.structures
        return energy.to(force_error.dtype), settings.forces * force_error.sum() / share.atoms

    def _latent_loss(self, paired: Batch, prediction: Prediction, turns: Tensor) -> Tensor:
        assert self.latent is not None
        atoms, total = paired.num_atoms, prediction.latents[0].shape[0]
        first = [latent[:atoms] for latent in prediction.latents]
        second = [latent[total - atoms :] for latent in prediction.latents]
        relative: Rotations = turns[1][: len(paired)] @ turns[0][: len(paired)].mT
        return self.latent(first, second, relative, paired).sum()


def norm(vectors: Float[Tensor, "*rest 3"]) -> Float[Tensor, "*rest"]:
    """Length of vectors, with a finite gradient at zero."""
    return (vectors.square().sum(-1) + 1e-12).sqrt()


def rotation_gradient(batch: Batch, forces: Float[Tensor, "atoms 3"]) -> Float[Tensor, "structures"]:
    """‖∂E/∂G‖_F in eV for x → x exp(G − Gᵀ) at G = 0 (equigrad, Orb-v3), from the forces alone.

    With A = −Σ_i x_i F_iᵀ the derivative is A − Aᵀ, the net torque written as a matrix: no further backward pass.
    """
    outer = torch.einsum("ai,aj->aij", centred(batch.positions, batch), forces)
    virial = sum_by_structure(outer.flatten(1), batch).view(-1, 3, 3)
    return ((virial - virial.mT).square().sum((1, 2)) + 1e-12).sqrt()


def warm(progress: float, warmup: float) -> float:
    """0 → 1 over the share `warmup` of training."""
    return 1.0 if warmup == 0 else min(progress / warmup, 1.0)


@torch.no_grad()
def not_finite(potential: Potential, batch: Batch) -> list[int]:
    """Dataset indices of the structures of `batch` whose labels or predictions are not finite."""
    if batch.energy is None or batch.forces is None or batch.index is None:
        return []
    prediction = potential(batch)
    error = prediction.energy - batch.energy + mean_by_structure(norm(prediction.forces - batch.forces), batch)
    return batch.index[~error.isfinite()].tolist()
