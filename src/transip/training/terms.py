"""The loss terms of the package.

    L = w_E |ΔE| / N / s + w_F mean_i ‖ΔF_i‖₂ / s [+ w_S ‖Δσ‖ V / N / s] [+ w_eq dist(T(u₀, r), u₁)]
        [+ w_g ‖∂E/∂rotation‖ / s] [+ w_q (|Δq| + |Δs|) + w_l (|Q − Σq⁰| + |2S − Σv|) + w_μ ‖Δμ‖₂ / N]

with the scale s of the potential (eV; forces in eV/Å are divided by the same number). Errors are means over the
labelled structures (energy, stress) or atoms (forces) of all views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch, centered, segment_sum
from transip.config import LatentSettings, Recipe
from transip.model.potential import Potential
from transip.symmetry.latent import LatentEquivariance
from transip.training.objective import LossContext, LossTerm


def build_loss_terms(recipe: Recipe, potential: Potential) -> list[LossTerm]:
    """The terms that the recipe asks for."""
    settings = recipe.objective
    terms: list[LossTerm] = [Energy(settings.energy_weight), Forces(settings.force_weight)]
    if settings.stress_weight and potential.settings.forces == "conservative" and potential.settings.cutoff is not None:
        terms.append(Stress(settings.stress_weight))
    if potential.has_charges and settings.charge_weight:
        terms.append(Charges(settings.charge_weight))
    if potential.has_charges and settings.dipole_weight:
        terms.append(Dipole(settings.dipole_weight))
    if potential.settings.charges == "local" and settings.locality_weight:
        terms.append(Locality(settings.locality_weight))
    if settings.latent.weight:
        terms.append(Latent(settings.latent, potential.backbone.width))
    if settings.equigrad_weight:
        terms.append(Equigrad(settings.equigrad_weight))
    return terms


@dataclass(frozen=True)
class Energy:
    """Absolute error of the energy per atom."""

    weight: float
    name: str = "energy"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w |ΔE| / N / s, mean over structures."""
        views, prediction = ctx.labelled_views, ctx.prediction
        assert views.energy is not None
        error = (prediction.energy - views.energy).abs() / views.atom_counts / ctx.scale
        return (self.weight * error.sum() / ctx.normalizer.structures).to(prediction.forces.dtype)


@dataclass(frozen=True)
class Forces:
    """Length of the error of each atom's force."""

    weight: float
    name: str = "force"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w ‖ΔF‖₂ / s, mean over atoms."""
        assert ctx.labelled_views.forces is not None
        error = safe_norm(ctx.prediction.forces - ctx.labelled_views.forces) / ctx.scale
        return self.weight * error.sum() / ctx.normalizer.atoms


@dataclass(frozen=True)
class Stress:
    """Error of the stress, in eV per atom, where there are labels and the model predicts it (periodic structures)."""

    weight: float
    name: str = "stress"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w ‖Δσ‖_F V / N / s, mean over structures, of which those without a label count as 0."""
        views, stress = ctx.labelled_views, ctx.prediction.stress
        if views.stress is None or stress is None:
            return ctx.prediction.forces.new_zeros(())
        return self.weight * stress_error(views, stress).sum() / ctx.scale / ctx.normalizer.structures


@dataclass(frozen=True)
class Charges:
    """Errors of partial charges and spin populations, where there are labels."""

    weight: float
    name: str = "charge"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w (|Δq| + |Δs|), mean over atoms, of which those without a label count as 0."""
        views, prediction = ctx.labelled_views, ctx.prediction
        labelled = (prediction.charges, views.charges), (prediction.spin_populations, views.spin_populations)
        errors = [masked(p - label).abs().sum() for p, label in labelled if p is not None and label is not None]
        return self.weight * sum(errors, prediction.forces.new_zeros(())) / ctx.normalizer.atoms


@dataclass(frozen=True)
class Locality:
    """What of the total charge and of the unpaired electrons the atoms' surroundings do not say."""

    weight: float
    name: str = "locality"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w (|Q − Σ q⁰| + |2S − Σ v|), mean over structures."""
        unassigned = ctx.prediction.unassigned
        assert unassigned is not None
        return self.weight * unassigned.abs().sum() / ctx.normalizer.structures


@dataclass(frozen=True)
class Dipole:
    """Error of the dipole moment, where there are labels."""

    weight: float
    name: str = "dipole"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w ‖Δμ‖₂ / N, mean over structures, of which those without a label count as 0."""
        views, dipole = ctx.labelled_views, ctx.prediction.dipole
        if views.dipole is None or dipole is None:
            return ctx.prediction.forces.new_zeros(())
        error = safe_norm(masked(dipole - views.dipole)) / views.atom_counts
        return self.weight * error.sum() / ctx.normalizer.structures


class Latent(nn.Module):
    """Latent equivariance (TransIP, arXiv 2510.00027): the embedding of one view must follow from the other's."""

    name, layers = "latent", (-1,)

    def __init__(self, settings: LatentSettings, width: int):
        super().__init__()
        self.weight, self.warmup = settings.weight, settings.warmup
        self.equivariance = LatentEquivariance(settings, width)

    def forward(self, ctx: LossContext) -> Tensor:
        """w dist(T(u₀, r), u₁), mean over structures seen in two views; w rises from 0 over the warm-up."""
        pairs = ctx.pairs
        distances = self.equivariance(*ctx.pair_embeddings(), pairs.relative_rotation, pairs.batch)
        weight = self.weight * warmup_factor(ctx.progress, self.warmup)
        return weight * distances.sum() / ctx.normalizer.paired_structures


@dataclass(frozen=True)
class Equigrad:
    """The derivative of the energy by rotations (equigrad, Orb-v3), which vanishes where the energy is invariant."""

    weight: float
    name: str = "equigrad"

    def __call__(self, ctx: LossContext) -> Tensor:
        """w ‖∂E/∂rotation‖_F / s, mean over structures."""
        penalty = rotational_gradient(ctx.labelled_views, ctx.prediction.forces).sum() / ctx.scale
        return self.weight * penalty / ctx.normalizer.structures


def masked(difference: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`difference` of predictions and labels, 0 where there is no label, without a trace in derivatives."""
    return difference.where(difference.isfinite(), 0.0)


def safe_norm(vectors: Float[Tensor, "*rest components"]) -> Float[Tensor, "*rest"]:
    """Length of vectors, with a finite gradient at zero."""
    return (vectors.square().sum(-1) + 1e-12).sqrt()


def stress_error(batch: Batch, stress: Float[Tensor, "structures 3 3"]) -> Float[Tensor, "structures"]:
    """‖Δσ‖_F · volume / atoms in eV, as large as errors of energies per atom; 0 where there is no label."""
    assert batch.stress is not None and batch.cell is not None
    labelled = batch.stress.isfinite().flatten(1).all(1)
    difference = (stress - batch.stress).where(labelled[:, None, None], 0.0)
    return safe_norm(difference.flatten(1)) * torch.linalg.det(batch.cell).abs() / batch.atom_counts * labelled


def rotational_gradient(batch: Batch, forces: Float[Tensor, "atoms 3"]) -> Float[Tensor, "structures"]:
    """‖∂E/∂G‖_F in eV for x → x exp(G − Gᵀ) at G = 0 (equigrad, Orb-v3), from the forces alone.

    With A = −Σ_i x_i F_iᵀ the derivative is A − Aᵀ, the net torque written as a matrix: no further backward pass.
    """
    outer = torch.einsum("ai,aj->aij", centered(batch.positions, batch), forces)
    virial = segment_sum(outer.flatten(1), batch).view(-1, 3, 3)
    return ((virial - virial.mT).square().sum((1, 2)) + 1e-12).sqrt()


def warmup_factor(progress: float, warmup: float) -> float:
    """0 → 1 over the fraction `warmup` of training."""
    return 1.0 if warmup == 0 else min(progress / warmup, 1.0)
