"""Loss terms of the study that are no part of transip: what may stand in the place of the latent loss.

Each function below returns what `train` takes as ``loss_terms``: the recipe's own terms, with another one in the place
of the latent loss or in addition to them. Where a term stands in its place, `objective.latent` has its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch, centered, segment_mean
from transip.config import LatentSettings, Recipe
from transip.model.potential import Potential
from transip.rotations import random_rotations, rotate, rotate_vectors
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
        recipe, potential, LatentVariant(recipe.objective.latent, potential.encoder.width, **options)
    )


def consistency() -> BuildLossTerms:
    """`Consistency` in the place of the latent loss."""
    return lambda recipe, potential: _in_place_of_latent(recipe, potential, Consistency(recipe))


def partial_second_view(weight: float, fraction: float, layer: int = -1) -> BuildLossTerms:
    """`PartialSecondView` in addition to the recipe's terms."""
    return lambda recipe, potential: [
        *build_loss_terms(recipe, potential),
        PartialSecondView(recipe, potential, weight, fraction, layer),
    ]


def infinitesimal(weight: float) -> BuildLossTerms:
    """`Infinitesimal` in addition to the recipe's terms."""
    return lambda recipe, potential: [
        *build_loss_terms(recipe, potential),
        Infinitesimal(recipe, potential, weight),
    ]


def _in_place_of_latent(recipe: Recipe, potential: Potential, term: LossTerm) -> list[LossTerm]:
    return [term if own.name == "latent" else own for own in build_loss_terms(recipe, potential)]


class LatentVariant(nn.Module):
    """The latent loss with another action or distance, or on embeddings of other blocks.

    Args:
        settings: weight, warm-up, level and hidden width.
        width: of the embeddings.
        layers: blocks whose embeddings are compared, each with an action of its own.
        distance: between the action's prediction and the second view's embedding.
        is_fixed: scalars stay, vectors rotate, and nothing is learned, see `FixedAction`.
    """

    name = "latent"

    def __init__(
        self,
        settings: LatentSettings,
        width: int,
        *,
        layers: Sequence[int] = (-1,),
        distance: Distance = lambda u, v: (u - v).square().mean(-1),
        is_fixed: bool = False,
    ):
        super().__init__()
        self.settings, self.layers, self.distance = settings, tuple(layers), distance
        self.losses = nn.ModuleList(LatentEquivariance(settings, width) for _ in layers)
        if is_fixed:
            for loss in self.losses:
                loss.action = FixedAction()

    def forward(self, ctx: LossContext) -> Tensor:
        """As `transip.training.terms.Latent`, mean over the layers."""
        pairs, total = ctx.pairs, ctx.prediction.forces.new_zeros(())
        for loss, layer in zip(self.losses, self.layers, strict=True):
            predicted, target = loss.predict(*ctx.pair_embeddings(layer), pairs.relative_rotation, pairs.batch)
            distances = self.distance(predicted, target)
            total = (
                total + (segment_mean(distances, pairs.batch) if len(target) > len(pairs.batch) else distances).sum()
            )
        weight = self.settings.weight * warmup_factor(ctx.progress, self.settings.warmup)
        return weight * total / len(self.layers) / ctx.normalizer.paired_structures


class FixedAction(nn.Module):
    """A fixed representation: the first quarter of the channels stays, the rest are vectors and rotate.

    It is a homomorphism by construction and cannot collapse to the identity, unlike a learned action.
    """

    def forward(self, embeddings: Embeddings, rotations: Float[Tensor, "items 3 3"]) -> Embeddings:
        """Embeddings after each item is rotated by its rotation."""
        num_scalars = embeddings.shape[-1] // 4
        vectors = embeddings[:, num_scalars:].unflatten(-1, (-1, 3))
        rotated = torch.einsum("iab,ivb->iva", rotations.to(embeddings.dtype), vectors)
        return torch.cat([embeddings[:, :num_scalars], rotated.flatten(1)], -1)


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


class PartialSecondView(nn.Module):
    """The latent loss where only a fraction of the batch has a second view, without labels, through the first blocks.

    For recipes with one view and one process; the second view's passes are not counted in the log.
    """

    name = "latent"

    def __init__(self, recipe: Recipe, potential: Potential, weight: float, fraction: float, layer: int):
        super().__init__()
        self.weight, self.fraction, self.layers = weight, fraction, (layer,)
        self.settings, self.seed = recipe.objective.latent, recipe.training.seed
        self.equivariance = LatentEquivariance(self.settings, potential.encoder.width)

    def forward(self, ctx: LossContext) -> Tensor:
        """As `transip.training.terms.Latent`, of the first structures of the batch."""
        first = ctx.labelled_views.head(max(round(self.fraction * len(ctx.labelled_views)), 1))
        rotations = random_rotations(len(first), _rng(self.seed, ctx)).to(first.positions)
        with ctx.autocast():
            (second,) = ctx.potential.embeddings(rotate(first, rotations), self.layers)
        embeddings = ctx.embeddings(self.layers[0])[: first.num_atoms]
        distances = self.equivariance(embeddings, second, rotations, first)
        return self.weight * warmup_factor(ctx.progress, self.settings.warmup) * distances.mean()


class Infinitesimal(nn.Module):
    """Infinitesimal rotations in the place of a second view: how the embeddings change with the angle.

    A molecule that rotates about the axis ω moves as ẋ = ω × x, and its embeddings change as u̇ = (∂u/∂x) ẋ, which
    forward-mode differentiation gives. What stands for the action T(u, r) of all rotations is its generator, a network
    linear in the axis: the loss is w · mean_i |u̇_i − A(u_i) ω|². A tangent takes nearly three times as long as a second
    view, and is not counted in the log.
    """

    name = "latent"

    def __init__(self, recipe: Recipe, potential: Potential, weight: float):
        super().__init__()
        self.weight, self.settings, self.seed = weight, recipe.objective.latent, recipe.training.seed
        width, hidden = potential.encoder.width, self.settings.hidden
        self.generator = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 3 * width))
        for parameter in self.generator[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, ctx: LossContext) -> Tensor:
        """Mean over the structures of the mean over their atoms."""
        view = ctx.labelled_views
        axes = functional.normalize(torch.randn(len(view), 3, generator=_rng(self.seed, ctx)), dim=-1).to(
            view.positions
        )
        embedding, change = embedding_and_change(ctx.potential, view, axes)
        predicted = self.generator(embedding).unflatten(-1, (-1, 3)) @ axes[view.structure_index][:, :, None]
        distance = segment_mean((change - predicted[..., 0]).square().mean(-1), view)
        return self.weight * warmup_factor(ctx.progress, self.settings.warmup) * distance.mean()


def embedding_and_change(
    potential: Potential, view: Batch, axes: Float[Tensor, "structures 3"]
) -> tuple[Float[Tensor, "atoms width"], Float[Tensor, "atoms width"]]:
    """The last embeddings, and their derivatives with respect to the angle of a rotation about `axes`."""
    motion = torch.linalg.cross(axes[view.structure_index], centered(view.positions, view))

    def embed(positions: Tensor) -> Tensor:
        return potential.embeddings(replace(view, positions=positions), (-1,))[0]

    return torch.func.jvp(embed, (view.positions,), (motion,))


def _rng(seed: int, ctx: LossContext) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 2**33) * 1_000_003 + ctx.batch.number)
