"""The objective: task losses on one or two rotated views, and losses between two views, which need no labels.

    L = w_E |ΔE| / N / s + w_F mean_i ‖ΔF_i‖₂ / s [+ w_S ‖Δσ‖ V / N / s] + w_eq dist(T(u₀, r), u₁)
        [+ w_g ‖∂E/∂rotation‖ / s]
        [+ w_c (w_E |E₁ − E₀| / N / s + w_F mean_i ‖F₁ − r F₀‖₂ / s)]

Controls are settings of the same code: no augmentation, one view, two views without the latent loss, and the last
term, which asks the outputs what the latent loss asks the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch, Prediction, segment_mean, segment_sum
from transip.config import ObjectiveSettings
from transip.model.potential import Potential, centred
from transip.rotations import Rotations, rotate, rotate_vectors
from transip.symmetry.latent import LatentEquivariance

Turns = Float[Tensor, "views structures 3 3"]


class Share(NamedTuple):
    """What one process's batch is divided by, so that gradients averaged over processes are exact.

    Each number is the global one divided by the number of processes. The first two count labelled views, the last two
    count structures, labelled or not, that are seen in two views.
    """

    structures: float
    atoms: float
    paired_structures: float
    paired_atoms: float = 0.0


class Losses(NamedTuple):
    """Loss terms, each already multiplied by its weight; `total` is their sum."""

    total: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor
    latent: Tensor
    equigrad: Tensor
    consistency: Tensor


class Twice(NamedTuple):
    """Structures and their orientations in two views."""

    batch: Batch
    turns: Turns


class TwoViews(NamedTuple):
    """The structures seen in two views: the first `paired` of the labelled ones, and the pool.

    Attributes:
        batch: these structures.
        relative: the rotation from the first view to the second.
        structures: how many are labelled, labelled and paired, in the pool.
        atoms: the same, in atoms.
    """

    batch: Batch
    relative: Rotations
    structures: tuple[int, ...]
    atoms: tuple[int, ...]

    @classmethod
    def of(cls, batch: Batch, paired: Twice | None, pool: Twice | None) -> TwoViews:
        """The pairs among the labelled structures `batch` and in the pool; there is at least one."""
        parts = [part for part in (paired, pool) if part is not None]
        each = (batch, paired and paired.batch, pool and pool.batch)
        return cls(
            batch=reduce(Batch.concatenate, [part.batch for part in parts]),
            relative=torch.cat([part.turns[1] @ part.turns[0].mT for part in parts]),
            structures=tuple(0 if part is None else len(part) for part in each),
            atoms=tuple(0 if part is None else part.num_atoms for part in each),
        )

    def split(self, values: Iterable[Tensor], sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Values in the first and in the second view.

        Args:
            values: together, a row for each labelled structure (or atom) in the first view, each paired one in the
                second, each of the pool in the first, each of the pool in the second.
            sizes: `structures` or `atoms`.
        """
        labelled, paired, pool = sizes
        first, second, pool_first, pool_second = torch.cat(list(values)).split((labelled, paired, pool, pool))
        return torch.cat([first[:paired], pool_first]), torch.cat([second, pool_second])


class Objective(nn.Module):
    """A potential and, if asked for, a latent action, together with the loss that trains them."""

    def __init__(self, potential: Potential, settings: ObjectiveSettings, bf16: bool = False):
        super().__init__()
        self.potential, self.settings, self.bf16 = potential, settings, bf16
        wanted = settings.latent.weight > 0
        self.latent = LatentEquivariance(settings.latent, potential.settings.width) if wanted else None
        self.layers = settings.latent.layers if wanted else ()

    def forward(
        self, batch: Batch, turns: Turns, paired: int, share: Share, progress: float, pool: Twice | None = None
    ) -> Losses:
        """Loss of one process's batch.

        Args:
            batch: labelled structures.
            turns: the orientation of each structure in each view.
            paired: structures, from the first on, that get the second view.
            share: normalisation, see `Share`.
            progress: 0 … 1 of training, for the latent loss's warm-up.
            pool: unlabelled structures (labels are ignored).
        """
        again = Twice(batch.head(paired), turns[:, :paired]) if len(turns) == 2 else None
        labelled, unlabelled = [rotate(batch, turns[0])], []
        if again is not None:
            second = rotate(again.batch, again.turns[1])
            (labelled if self.settings.second_view_labels else unlabelled).append(second)
        if pool is not None:
            unlabelled += [rotate(pool.batch, turn) for turn in pool.turns]
        views = reduce(Batch.concatenate, labelled)
        # Only the network runs in reduced precision: rotating positions in bfloat16 would move the atoms.
        with torch.autocast(views.positions.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            prediction = self.potential(views, self.layers)
            others, embedded = self._see(unlabelled)
        energy, forces, stress = self._task_losses(views, prediction, share)
        latent = consistency = equigrad = energy.new_zeros(())
        pairs = TwoViews.of(batch, again, pool) if self.settings.comparison else None
        if pairs is not None and self.latent is not None:
            weight = self.settings.latent.weight * warm(progress, self.settings.latent.warmup)
            latents = zip(prediction.embeddings, *embedded, strict=True)
            first, second = zip(*(pairs.split(layer, pairs.atoms) for layer in latents), strict=True)
            loss = self.latent(first, second, pairs.relative, pairs.batch).sum()
            latent = weight * loss / share.paired_structures
        if pairs is not None and self.settings.consistency:
            consistency = self.settings.consistency * self._distance(pairs, [prediction, *others], share)
        if self.settings.equigrad_weight:
            penalty = rotation_gradient(views, prediction.forces).sum() / self.potential.scale
            equigrad = self.settings.equigrad_weight * penalty / share.structures
        total = energy + forces + stress + latent + equigrad + consistency
        return Losses(total, energy, forces, stress, latent, equigrad, consistency)

    def _see(self, views: list[Batch]) -> tuple[list[Prediction], list[tuple[Tensor, ...]]]:
        """Predictions (none where no loss needs them) and embeddings of views without labels, all in one pass."""
        if not views:
            return [], []
        joined = reduce(Batch.concatenate, views)
        if not self.settings.consistency:
            return [], [self.potential.embeddings(joined, self.layers)]
        prediction = self.potential(joined, self.layers)
        return [prediction], [prediction.embeddings]

    def _task_losses(self, batch: Batch, prediction: Prediction, share: Share) -> tuple[Tensor, Tensor, Tensor]:
        if batch.energy is None or batch.forces is None:
            raise ValueError("training needs labelled structures")
        scale, settings = self.potential.scale, self.settings
        energy_error = (prediction.energy - batch.energy).abs() / batch.atom_counts / scale
        force_error = norm(prediction.forces - batch.forces) / scale
        energy = settings.energy_weight * energy_error.sum() / share.structures
        stress = force_error.new_zeros(())
        if settings.stress_weight and prediction.stress is not None and batch.stress is not None:
            stress = settings.stress_weight * stress_error(batch, prediction.stress).sum() / scale / share.structures
        return energy.to(force_error.dtype), settings.force_weight * force_error.sum() / share.atoms, stress

    def _distance(self, pairs: TwoViews, predictions: list[Prediction], share: Share) -> Tensor:
        """The task losses with the first view's prediction, turned, in the place of the second's labels."""
        energy, found_energy = pairs.split((p.energy for p in predictions), pairs.structures)
        forces, found_forces = pairs.split((p.forces for p in predictions), pairs.atoms)
        turned = rotate_vectors(forces, pairs.relative, pairs.batch)
        energy_change = ((found_energy - energy).abs() / pairs.batch.atom_counts).sum() / share.paired_structures
        force_change = norm(found_forces - turned).sum() / share.paired_atoms
        energy_part = self.settings.energy_weight * energy_change.to(force_change.dtype)
        return (energy_part + self.settings.force_weight * force_change) / self.potential.scale


def norm(vectors: Float[Tensor, "*rest components"]) -> Float[Tensor, "*rest"]:
    """Length of vectors, with a finite gradient at zero."""
    return (vectors.square().sum(-1) + 1e-12).sqrt()


def stress_error(batch: Batch, stress: Float[Tensor, "structures 3 3"]) -> Float[Tensor, "structures"]:
    """‖Δσ‖_F · volume / atoms in eV, as large as errors of energies per atom; 0 where there is no label."""
    assert batch.stress is not None and batch.cell is not None
    labelled = batch.stress.isfinite().flatten(1).all(1)
    difference = (stress - batch.stress).where(labelled[:, None, None], 0.0)
    return norm(difference.flatten(1)) * torch.linalg.det(batch.cell).abs() / batch.atom_counts * labelled


def rotation_gradient(batch: Batch, forces: Float[Tensor, "atoms 3"]) -> Float[Tensor, "structures"]:
    """‖∂E/∂G‖_F in eV for x → x exp(G − Gᵀ) at G = 0 (equigrad, Orb-v3), from the forces alone.

    With A = −Σ_i x_i F_iᵀ the derivative is A − Aᵀ, the net torque written as a matrix: no further backward pass.
    """
    outer = torch.einsum("ai,aj->aij", centred(batch.positions, batch), forces)
    virial = segment_sum(outer.flatten(1), batch).view(-1, 3, 3)
    return ((virial - virial.mT).square().sum((1, 2)) + 1e-12).sqrt()


def warm(progress: float, warmup: float) -> float:
    """0 → 1 over the share `warmup` of training."""
    return 1.0 if warmup == 0 else min(progress / warmup, 1.0)


@torch.no_grad()
def not_finite(potential: Potential, batch: Batch) -> list[int]:
    """Dataset indices of the structures of `batch` whose predictions, or labels if there are any, are not finite."""
    if batch.index is None:
        return []
    prediction = potential(batch)
    energy, forces = prediction.energy, prediction.forces
    if batch.energy is not None and batch.forces is not None:
        energy, forces = energy - batch.energy, forces - batch.forces
    error = energy + segment_mean(norm(forces), batch)
    return batch.index[~error.isfinite()].tolist()
