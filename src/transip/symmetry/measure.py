"""How equivariant a model is: the equivariance errors of its outputs, and what its embeddings hold of orientation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from transip.batch import Batch, Prediction
from transip.rotations import Rotations, random_rotations, rotate
from transip.symmetry.average import rotate_back
from transip.symmetry.latent import LatentEquivariance

Model = Callable[..., Prediction]  # (Batch) or, where layers are asked for, (Batch, layers)


@dataclass(frozen=True, eq=False)
class RotatedPredictions:
    """Predictions of one batch in several orientations, rotated back into the original frame.

    Attributes:
        energy: total energies in eV, (rotations, structures).
        forces: forces rotated back, eV/Å, (rotations, atoms, 3).
        embeddings: not rotated back, one (rotations, atoms, width) per layer.
        rotations: the orientations, (rotations, structures, 3, 3).
    """

    energy: Float[Tensor, "rotations structures"]
    forces: Float[Tensor, "rotations atoms 3"]
    embeddings: tuple[Float[Tensor, "rotations atoms width"], ...]
    rotations: Float[Tensor, "rotations structures 3 3"]


def predict_rotated(
    model: Model, batch: Batch, rotations: Sequence[Rotations], layers: Sequence[int] = ()
) -> RotatedPredictions:
    """Predict `batch` in each of the orientations `rotations`."""
    asked = (tuple(layers),) if layers else ()
    predictions = [rotate_back(model(rotate(batch, r), *asked), r, batch) for r in rotations]
    return RotatedPredictions(
        energy=torch.stack([p.energy for p in predictions]),
        forces=torch.stack([p.forces for p in predictions]),
        embeddings=tuple(torch.stack(layer) for layer in zip(*(p.embeddings for p in predictions), strict=True)),
        rotations=torch.stack(list(rotations)),
    )


class EquivarianceErrors:
    """Sums for the equivariance errors of energies and forces, of structures in equally many orientations each."""

    def __init__(self) -> None:
        self.structures = self.components = 0
        self.energy_spread = self.energy_spread_per_atom = self.force_deviation = 0.0

    def add(
        self,
        energy: Float[Tensor, "rotations structures"],
        forces: Float[Tensor, "rotations atoms 3"],
        num_atoms: Int64[Tensor, "structures"],
    ) -> None:
        """Count structures of `num_atoms` atoms by their energies and their forces rotated back."""
        spread = energy.std(0)
        self.energy_spread += float(spread.sum())
        self.energy_spread_per_atom += float((spread / num_atoms).sum())
        unbiased = (len(forces) / (len(forces) - 1)) ** 0.5  # deviations from a sample mean are too small
        self.force_deviation += float((forces - forces.mean(0)).abs().double().mean(0).sum()) * unbiased
        self.structures += len(num_atoms)
        self.components += forces[0].numel()

    def result(self) -> dict[str, float]:
        """The first three values of `measure_symmetry`."""
        return {
            "energy_rotation_spread": self.energy_spread / self.structures,
            "energy_rotation_spread_per_atom": self.energy_spread_per_atom / self.structures,
            "force_rotation_error": self.force_deviation / self.components,
        }


@torch.no_grad()
def measure_symmetry(
    model: Model,
    batches: Iterable[Batch],
    *,
    rotations: int = 4,
    layers: Sequence[int] = (),
    latent: LatentEquivariance | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Equivariance errors of energies, forces and embeddings, averaged over `batches`.

    Args:
        model: any callable that maps a Batch to a Prediction and, if `layers` are given, (Batch, layers).
        batches: what to measure on, on the model's device.
        rotations: random orientations per structure; at least 2.
        layers: blocks whose embeddings are examined; -1 is the last.
        latent: the trained action, if there is one; gives the latent error of the last layer.
        seed: of the orientations.

    Returns:
        ``energy_rotation_spread`` (eV) and ``energy_rotation_spread_per_atom`` (eV/atom), the invariance error of the
        energy: its standard deviation over orientations; ``force_rotation_error`` (eV/Å), the equivariance error of
        the forces: mean absolute deviation of a force component from its mean over orientations, corrected for the
        finite number of them, so that it compares with the force MAE;
        ``layers``: for each layer ``invariant_share``, the fraction of the embeddings' variance that survives averaging
        over orientations (1: invariant, carries no direction), and ``latent_error`` (mean squared error of the learned
        action relative to predicting the mean embedding; None without an action).
    """
    generator = torch.Generator().manual_seed(seed)
    errors, statistics = EquivarianceErrors(), [_EmbeddingStatistics() for _ in layers]
    depth = getattr(getattr(model, "backbone", None), "depth", 0)
    last = depth - 1 if depth else max(layers, default=-1)
    for batch in batches:
        # Drawn structure by structure, so that the orientations do not depend on how structures fall into batches.
        dtype, device = batch.positions.dtype, batch.positions.device
        drawn = torch.stack([random_rotations(rotations, generator, dtype) for _ in range(len(batch))], 1)
        views = predict_rotated(model, batch, list(drawn.to(device)), layers)
        errors.add(views.energy, views.forces, batch.atom_counts)
        layer_numbers = _counted_from_zero(layers, depth)
        for layer, statistic, embeddings in zip(layer_numbers, statistics, views.embeddings, strict=True):
            statistic.add(embeddings)
            if latent is not None and layer == last:
                statistic.add_action(latent.to(device), embeddings, views.rotations, batch)
    return errors.result() | {
        "layers": [{"layer": layer, **statistic.result()} for layer, statistic in zip(layers, statistics, strict=True)]
    }


def _counted_from_zero(layers: Sequence[int], depth: int) -> list[int]:
    """Numbers of layers counted from 0; as they are if the depth is not known (0)."""
    return [layer % depth if depth else layer for layer in layers]


class _EmbeddingStatistics:
    """Sums for the variance of embeddings, and of their means over orientations."""

    def __init__(self) -> None:
        self.count, self.rotations = 0, 2
        self.total: Tensor | float = 0.0
        self.square = self.within = 0.0
        self.compared, self.action_error, self.target_square = 0, 0.0, 0.0
        self.target: Tensor | float = 0.0

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
        """Compare the action's prediction with the embedding of the second view."""
        predicted, second = latent.predict(embeddings[0], embeddings[1], rotations[1] @ rotations[0].mT, batch)
        second = second.double()
        self.action_error += float((predicted.double() - second).square().sum())
        self.compared += len(second)
        self.target = self.target + second.sum(0)
        self.target_square += float(second.square().sum())

    def result(self) -> dict[str, float | None]:
        """Invariant variance fraction and latent error."""
        mean = torch.as_tensor(self.total) / self.count
        within = self.within / self.count
        # The variance of means over a few orientations still holds 1/rotations of the variance within.
        between = self.square / self.count - float(mean.square().sum()) - within / self.rotations
        fraction = max(between, 0.0) / max(between + within, 1e-30)
        return {"invariant_share": fraction, "latent_error": self._latent_error()}

    def _latent_error(self) -> float | None:
        """Squared error of the action over that of the mean of all embeddings; None where these do not differ."""
        if self.compared < 2:
            return None
        variance = self.target_square - float(torch.as_tensor(self.target).square().sum()) / self.compared
        return self.action_error / variance if variance > 1e-12 * self.target_square else None
