"""Rotational averaging: predict in several orientations, turn back, take the mean, and keep the spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from transip.batch import Batch, Prediction
from transip.config import BatchSettings
from transip.errors import InputError
from transip.rotations import Rotations, random_rotations, rotate, rotate_vectors, rotation_group

SEED = 0  # of random rotations: the same ones every time, so that the average is one function of the positions
LIMITS = BatchSettings(pairs=200_000)


@dataclass(frozen=True, eq=False, kw_only=True)
class Averaged(Prediction):
    """Mean prediction over rotations, and how far single orientations are from it.

    Attributes:
        energy_std: standard deviation of the total energy over orientations in eV, (structures,).
        forces_std: root mean square length of each force's deviation from its mean in eV/Å, (atoms,).
    """

    energy_std: Float64[Tensor, "structures"]
    forces_std: Float[Tensor, "atoms"]


class RotationAverage(nn.Module):
    """A potential averaged over rotations: mean of g⁻¹ f(g x), equivariant under the group that the rotations form.

    The average of gradient forces is the gradient of the average energy. Nothing is drawn at random in a call.

    Args:
        model: maps a Batch to a Prediction; its weights are shared, not copied.
        rotations: at least two.
        weights: of the rotations, summing to 1; None: equal.
        limits: atoms and padded pairs that one forward pass may have, unless the batch alone has more.

    Raises:
        InputError: fewer than two rotations.
    """

    def __init__(
        self,
        model: nn.Module,
        rotations: Float64[Tensor, "rotations 3 3"],
        weights: Float64[Tensor, "rotations"] | None = None,
        limits: BatchSettings = LIMITS,
    ):
        super().__init__()
        if len(rotations) < 2:
            raise InputError(f"average over {len(rotations)} rotations", remedy="2 is the least")
        self.model, self.limits = model, limits
        # No buffers: they would be cast with the network, and weights of single precision spoil total energies.
        equal = torch.full((len(rotations),), 1 / len(rotations), dtype=torch.float64)
        self.rotations, self.weights = rotations, equal if weights is None else weights

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Averaged:
        """Predict energies (eV), forces (eV/Å) and their standard deviations.

        Raises:
            InputError: `layers` are asked for; embeddings do not turn in a known way, so they have no average.
        """
        if layers:
            raise InputError("a rotational average has no embeddings", remedy="ask the model itself for them")
        pairs = len(batch) * batch.largest**2
        chunk = max(1, min(self.limits.atoms // batch.num_atoms, self.limits.pairs // pairs))
        chunks = self.rotations.to(batch.positions).split(chunk)
        views = [self._predict_turned(batch, rotations) for rotations in chunks]
        energy, energies, forces = (torch.cat(parts) for parts in zip(*views, strict=True))
        mean_energy, mean_forces = self._mean(energy), self._mean(forces)
        return Averaged(
            energy=mean_energy,
            energies=self._mean(energies),
            forces=mean_forces,
            energy_std=self._std((energy - mean_energy).detach().square()),
            forces_std=self._std((forces - mean_forces).detach().square().sum(-1)),
        )

    def _predict_turned(self, batch: Batch, rotations: Rotations) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, atoms' energies and forces turned back of `batch` in each of `rotations`, in one forward pass."""
        many, each = _repeated(batch, len(rotations)), rotations.repeat_interleave(len(batch), 0)
        found: Prediction = self.model(rotate(many, each))
        forces = rotate_vectors(found.forces, each.mT, many)
        shape = (len(rotations), -1)
        return found.energy.view(shape), found.energies.view(shape), forces.view(*shape, 3)

    def _mean(self, values: Float[Tensor, "rotations *rest"]) -> Float[Tensor, "*rest"]:
        return torch.tensordot(self.weights.to(values), values, 1)

    def _std(self, squares: Float[Tensor, "rotations items"]) -> Float[Tensor, "items"]:
        """Standard deviation from squared deviations, unbiased as if the rotations had been drawn independently."""
        return (self._mean(squares) / (1 - float(self.weights.square().sum()))).sqrt()


def averaged(model: nn.Module, rotations: int | None) -> nn.Module:
    """`model` averaged over a group of 12, 24 or 60 rotations or another number of random ones; None: `model`.

    Raises:
        InputError: fewer than two rotations.
    """
    if rotations is None:
        return model
    if rotations < 2:
        raise InputError(f"average is {rotations}", remedy="choose 12, 24 or 60 (groups), or another number from 2")
    return RotationAverage(model, rotation_set(rotations))


def rotation_set(number: int) -> Float64[Tensor, "rotations 3 3"]:
    """The group of this order if there is one (12, 24, 60), else as many random rotations, always the same ones."""
    if number in (12, 24, 60):
        return rotation_group(number)
    return random_rotations(number, torch.Generator().manual_seed(SEED), torch.float64)


def _repeated(batch: Batch, times: int) -> Batch:
    """`batch` so many times, one after another, without labels."""
    offsets = torch.arange(times, device=batch.structure.device) * len(batch)
    return Batch(
        numbers=batch.numbers.repeat(times),
        positions=batch.positions.repeat(times, 1),
        structure=(offsets[:, None] + batch.structure).view(-1),
        counts=batch.counts.repeat(times),
        charge=batch.charge.repeat(times),
        spin=batch.spin.repeat(times),
        largest=batch.largest,
    )
