"""Loss terms of the study that are no part of transip: what may stand in the place of the latent loss.

Each builder makes what `train` takes as ``loss_terms``: the recipe's own terms, with another one in the place of the
latent loss, whose weight and other settings are those of `objective.latent`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import segment_mean
from transip.config import LatentSettings, Recipe
from transip.model.potential import Potential
from transip.rotations import rotate_vectors
from transip.symmetry.latent import LatentEquivariance
from transip.training.objective import LossContext, LossTerm
from transip.training.terms import build_loss_terms, safe_norm, warmup_factor
from transip.training.trainer import BuildLossTerms

INFONCE_BLOCK = 1024  # InfoNCE compares within blocks of this many items, so memory stays linear
Embeddings = Float[Tensor, "items width"]
Distance = Callable[[Embeddings, Embeddings], Float[Tensor, "items"]]


def latent(**options: Any) -> BuildLossTerms:
    """A variant of the latent loss in its place; see `LatentVariant` for the options."""
    return lambda recipe, potential: _in_place_of_latent(
        recipe, potential, LatentVariant(recipe.objective.latent, potential.backbone.width, **options)
    )


def consistency(recipe: Recipe, potential: Potential) -> list[LossTerm]:
    """`Consistency` in the place of the latent loss."""
    return _in_place_of_latent(recipe, potential, Consistency(recipe))


def _in_place_of_latent(recipe: Recipe, potential: Potential, term: LossTerm) -> list[LossTerm]:
    return [term if own.name == "latent" else own for own in build_loss_terms(recipe, potential)]


class LatentVariant(nn.Module):
    """The latent loss with another distance, or on embeddings of other blocks.

    Args:
        settings: weight, warm-up, level and hidden width.
        width: of the embeddings.
        layers: blocks whose embeddings are compared, each with an action of its own.
        distance: between the action's prediction and the second view's embedding.
    """

    name = "latent"

    def __init__(
        self,
        settings: LatentSettings,
        width: int,
        *,
        layers: Sequence[int] = (-1,),
        distance: Distance = lambda u, v: (u - v).square().mean(-1),
    ):
        super().__init__()
        self.settings, self.layers, self.distance = settings, tuple(layers), distance
        self.losses = nn.ModuleList(LatentEquivariance(settings, width) for _ in layers)

    def forward(self, ctx: LossContext) -> Tensor:
        """As `transip.training.terms.Latent`, mean over the layers."""
        pairs, total = ctx.pairs, ctx.prediction.forces.new_zeros(())
        for loss, layer in zip(self.losses, self.layers, strict=True):
            predicted, target = loss.predict(*ctx.pair_embeddings(layer), pairs.relative_rotation, pairs.batch)
            distances = self.distance(predicted, target)
            is_per_atom = len(target) > len(pairs.batch)
            total = total + (segment_mean(distances, pairs.batch) if is_per_atom else distances).sum()
        weight = self.settings.weight * warmup_factor(ctx.progress, self.settings.warmup)
        return weight * total / len(self.layers) / ctx.normalizer.paired_structures


def cosine(predicted: Embeddings, target: Embeddings) -> Float[Tensor, "items"]:
    """1 − cos of the angle between predicted and found embedding, half the squared distance of unit vectors."""
    return 1 - functional.cosine_similarity(predicted, target, dim=-1)


def info_nce(predicted: Embeddings, target: Embeddings, temperature: float = 0.1) -> Float[Tensor, "items"]:
    """Cross-entropy of picking each item's own rotated embedding among the others of its block."""
    losses = []
    a, b = functional.normalize(predicted, dim=-1), functional.normalize(target, dim=-1)
    for x, y in zip(a.split(INFONCE_BLOCK), b.split(INFONCE_BLOCK), strict=True):
        own = torch.arange(len(x), device=x.device)
        losses.append(functional.cross_entropy(x @ y.T / temperature, own, reduction="none"))
    return torch.cat(losses)


class Consistency:
    """Asks the outputs what the latent loss asks the embeddings: one view's prediction must follow from the other's.

    w (w_E |E₁ − E₀| / N / s + w_F mean_i ‖F₁ − r F₀‖₂ / s)
    """

    name = "consistency"

    def __init__(self, recipe: Recipe):
        self.settings = recipe.objective

    def __call__(self, ctx: LossContext) -> Tensor:
        labelled, unlabelled, pairs = ctx.prediction, ctx.unlabelled_prediction, ctx.pairs
        energy, second_energy = ctx.split_views(labelled.energy, unlabelled and unlabelled.energy)
        forces, second_forces = ctx.split_views(labelled.forces, unlabelled and unlabelled.forces)
        rotated = rotate_vectors(forces, pairs.relative_rotation, pairs.batch)
        energy_error = ((second_energy - energy).abs() / pairs.batch.atom_counts).sum().to(forces.dtype)
        force_error = safe_norm(second_forces - rotated).sum()
        energy_term = self.settings.energy_weight * energy_error / ctx.normalizer.paired_structures
        force_term = self.settings.force_weight * force_error / ctx.normalizer.paired_atoms
        return self.settings.latent.weight * (energy_term + force_term) / ctx.scale
