"""How equivariant a potential has become: measured on its outputs and layer by layer, never assumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch, Prediction
from transip.rotations import Rotations, random_rotations, rotate, rotate_vectors
from transip.symmetry.latent import LatentEquivariance


@dataclass(frozen=True, eq=False)
class RotatedPredictions:
    """Predictions of one batch in several orientations, turned back into the original frame.

    Attributes:
        energy: total energies in eV, (rotations, structures).
        forces: forces turned back, eV/Å, (rotations, atoms, 3).
        embeddings: embeddings as they come, one (rotations, atoms, width) per layer.
        rotations: the orientations, (rotations, structures, 3, 3).
    """

    energy: Float[Tensor, "rotations structures"]
    forces: Float[Tensor, "rotations atoms 3"]
    embeddings: tuple[Float[Tensor, "rotations atoms width"], ...]
    rotations: Float[Tensor, "rotations structures 3 3"]


def predict_rotated(
    model: nn.Module, batch: Batch, rotations: Sequence[Rotations], layers: Sequence[int] = ()
) -> RotatedPredictions:
    """Predict `batch` in each of the orientations `rotations`."""
    predictions: list[Prediction] = [model(rotate(batch, r), tuple(layers)) for r in rotations]
    back = [rotate_vectors(p.forces, r.mT, batch) for p, r in zip(predictions, rotations, strict=True)]
    embeddings = tuple(torch.stack(views) for views in zip(*(p.embeddings for p in predictions), strict=True))
    return RotatedPredictions(
        torch.stack([p.energy for p in predictions]), torch.stack(back), embeddings, torch.stack(list(rotations))
    )


@torch.no_grad()
def measure_symmetry(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    rotations: int = 4,
    layers: Sequence[int] = (),
    latent: LatentEquivariance | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rotation errors of energies, forces and embeddings, averaged over `batches`.

    Args:
        model: maps (Batch, layers) to a Prediction.
        batches: what to measure on.
        rotations: random orientations per structure; at least 2.
        layers: blocks whose embeddings are examined; -1 is the last.
        latent: the trained action, if there is one; gives the latent error of the last layer.
        seed: of the orientations.

    Returns:
        ``energy_rotation_spread`` (eV) and ``energy_rotation_spread_per_atom`` (eV/atom): standard deviation over
        orientations; ``force_rotation_error`` (eV/Å): mean absolute deviation of a force component from its mean
        over orientations, corrected for the finite number of them, so that it compares with the force MAE;
        ``layers``: for each layer ``invariant_share`` (share of the embeddings' variance that survives averaging over
        orientations; 1: invariant, carries no direction) and ``latent_error`` (mean squared error of the learned
        action relative to predicting the mean embedding; None without an action).
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    latent = latent.to(device) if latent is not None else None
    totals = {"spread": 0.0, "spread_per_atom": 0.0, "force": 0.0}
    structures, components = 0, 0
    moments = [_Moments() for _ in layers]
    depth = len(getattr(getattr(model, "transformer", None), "blocks", ()))
    last = depth - 1 if depth else max(layers, default=-1)
    for batch in batches:
        # Drawn structure by structure, so that the orientations do not depend on how structures fall into batches.
        dtype = batch.positions.dtype
        drawn = torch.stack([random_rotations(rotations, generator, dtype) for _ in range(len(batch))], 1)
        views = predict_rotated(model, batch, list(drawn.to(device)), layers)
        spread = views.energy.std(0)
        totals["spread"] += float(spread.sum())
        totals["spread_per_atom"] += float((spread / batch.atom_counts).sum())
        unbiased = (rotations / (rotations - 1)) ** 0.5  # deviations from a sample mean are too small
        deviation = (views.forces - views.forces.mean(0)).abs().double() * unbiased
        totals["force"] += float(deviation.mean(0).sum())
        structures += len(batch)
        components += views.forces[0].numel()
        for layer, moment, embeddings in zip(_from_the_first(layers, depth), moments, views.embeddings, strict=True):
            moment.add(embeddings)
            if latent is not None and layer == last:
                moment.add_action(latent, embeddings, views.rotations, batch)
    return {
        "energy_rotation_spread": totals["spread"] / structures,
        "energy_rotation_spread_per_atom": totals["spread_per_atom"] / structures,
        "force_rotation_error": totals["force"] / components,
        "layers": [{"layer": layer, **moment.result()} for layer, moment in zip(layers, moments, strict=True)],
    }


def _from_the_first(layers: Sequence[int], depth: int) -> list[int]:
    """Numbers of layers counted from 0; as they are if the depth is not known (0)."""
    return [layer % depth if depth else layer for layer in layers]


class _Moments:
    """Sums for the variance of embeddings, and of their means over orientations."""

    def __init__(self) -> None:
        self.count, self.rotations = 0, 2
        self.total: Tensor | float = 0.0
        self.square = self.within = 0.0
        self.compared, self.action_error, self.found_square = 0, 0.0, 0.0
        self.found: Tensor | float = 0.0

    def add(self, embeddings: Float[Tensor, "rotations atoms width"]) -> None:
        """Count the embeddings of one batch."""
        embeddings = embeddings.double()
        mean = embeddings.mean(0)
        self.rotations = len(embeddings)
        self.count += embeddings.shape[1]
        self.total = self.total + mean.sum(0)
        self.square += float(mean.square().sum())
        self.within += float((embeddings - mean).square().sum()) / (self.rotations - 1)

    def add_action(self, latent: LatentEquivariance, embeddings: Tensor, rotations: Tensor, batch: Batch) -> None:
        """Compare the action's prediction with the embedding found, view 0 → view 1."""
        predicted, second = latent.predict(embeddings[0], embeddings[1], rotations[1] @ rotations[0].mT, batch)
        second = second.double()
        self.action_error += float((predicted.double() - second).square().sum())
        self.compared += len(second)
        self.found = self.found + second.sum(0)
        self.found_square += float(second.square().sum())

    def result(self) -> dict[str, float | None]:
        """Invariant share and latent error."""
        mean = torch.as_tensor(self.total) / self.count
        within = self.within / self.count
        # The variance of means over a few orientations still holds 1/rotations of the variance within.
        between = self.square / self.count - float(mean.square().sum()) - within / self.rotations
        share = max(between, 0.0) / max(between + within, 1e-30)
        return {"invariant_share": share, "latent_error": self._latent_error()}

    def _latent_error(self) -> float | None:
        """Squared error of the action over that of the mean of all embeddings; None where these do not differ."""
        if self.compared < 2:
            return None
        spread = self.found_square - float(torch.as_tensor(self.found).square().sum()) / self.compared
        return self.action_error / spread if spread > 1e-12 * self.found_square else None
