"""Rotational averaging: predict in several orientations, turn back, take the mean, and keep the spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """Mean prediction over orientations, models or both, and how far a single one is from it.

    Attributes:
        energy_std: standard deviation of the total energy in eV, (structures,).
        forces_std: root mean square length of each force's deviation from its mean in eV/Å, (atoms,).
        energy_uncertainty: eV, (structures,): 68 % of errors are smaller; None if that has not been measured.
        forces_uncertainty: likewise of the length of each force's error, eV/Å, (atoms,).
    """

    energy_std: Float64[Tensor, "structures"]
    forces_std: Float[Tensor, "atoms"]
    energy_uncertainty: Float64[Tensor, "structures"] | None = None
    forces_uncertainty: Float[Tensor, "atoms"] | None = None


class RotationAverage(nn.Module):
    """A potential averaged over rotations: mean of g⁻¹ f(g x), equivariant under the group that the rotations form.

    The average of conservative forces is the gradient of the average energy. Nothing is drawn at random in a call.

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
        """Predict energies (eV), forces (eV/Å), their standard deviations and, of cells, stress (eV/Å³).

        Raises:
            InputError: `layers` are asked for; embeddings do not turn in a known way, so they have no average.
        """
        if layers:
            raise InputError("a rotational average has no embeddings", remedy="ask the model itself for them")
        pairs = len(batch) * batch.max_num_atoms**2
        chunk = max(1, min(self.limits.max_atoms // batch.num_atoms, self.limits.pairs // pairs))
        chunks = self.rotations.to(batch.positions).split(chunk)
        views = [self._predict_turned(batch, rotations) for rotations in chunks]
        return combined([torch.cat(parts) for parts in zip(*views, strict=True)], self.weights)

    def _predict_turned(self, batch: Batch, rotations: Rotations) -> list[Tensor]:
        """What `view_of` says, turned back, of `batch` in each of `rotations`, in one forward pass."""
        many, each = _repeated(batch, len(rotations)), rotations.repeat_interleave(len(batch), 0)
        found: Prediction = self.model(rotate(many, each))
        stress = None if found.stress is None else each.mT @ found.stress @ each
        turned = replace(found, forces=rotate_vectors(found.forces, each.mT, many), stress=stress)
        return [part.unflatten(0, (len(rotations), -1)) for part in view_of(turned)]


def view_of(found: Prediction) -> tuple[Tensor, ...]:
    """Energy, energies, forces, the variances of energy and forces, zero unless `found` is a mean, and any stress."""
    if isinstance(found, Averaged):
        variances = (found.energy_std.square(), found.forces_std.square())
    else:
        variances = (torch.zeros_like(found.energy), torch.zeros_like(found.forces[:, 0]))
    stress = () if found.stress is None else (found.stress,)
    return (found.energy, found.atom_energies, found.forces, *(part.detach() for part in variances), *stress)


def combined(views: Sequence[Tensor], weights: Float64[Tensor, "views"]) -> Averaged:
    """The mean over views; the variance within them adds to that between.

    Args:
        views: the parts of `view_of`, each of them stacked: (views, structures), (views, atoms), (views, atoms, 3), …
        weights: of the views, summing to 1; their variance is unbiased as if they had been drawn independently.
    """

    def mean(values: Tensor) -> Tensor:
        return torch.tensordot(weights.to(values), values, 1)

    energy, energies, forces, energy_variance, forces_variance, *stress = views
    mean_energy, mean_forces = mean(energy), mean(forces)
    unbiased = 1 - float(weights.square().sum())
    return Averaged(
        energy=mean_energy,
        atom_energies=mean(energies),
        forces=mean_forces,
        stress=mean(stress[0]) if stress else None,
        energy_std=(mean((energy - mean_energy).detach().square()) / unbiased + mean(energy_variance)).sqrt(),
        forces_std=(mean((forces - mean_forces).detach().square().sum(-1)) / unbiased + mean(forces_variance)).sqrt(),
    )


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
    offsets = torch.arange(times, device=batch.structure_index.device) * len(batch)
    return Batch(
        numbers=batch.numbers.repeat(times),
        positions=batch.positions.repeat(times, 1),
        structure_index=(offsets[:, None] + batch.structure_index).view(-1),
        atom_counts=batch.atom_counts.repeat(times),
        charge=batch.charge.repeat(times),
        spin=batch.spin.repeat(times),
        max_num_atoms=batch.max_num_atoms,
        cell=None if batch.cell is None else batch.cell.repeat(times, 1, 1),
    )
