"""Rotational averages: predict in several orientations, rotate back, take the mean, and keep the spread.

Known as group averaging or test-time augmentation. `Moments` is what a committee of models averages, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from transip.batch import Batch, Prediction
from transip.errors import InputError
from transip.rotations import (
    Rotations,
    quaternions_to_matrices,
    random_rotations,
    rotate,
    rotate_vectors,
    rotation_group,
)

SEED = 0  # of random rotations: the same ones every time, so that the average is one function of the positions
MAX_ATOMS, MAX_PAIRS = 4096, 200_000  # of one forward pass, unless a batch alone has more
# Rotates the axes of the groups away from those along which symmetric molecules are built. Methane that lies along the
# axes would look the same in all twelve rotations of a tetrahedron, and its spread would be zero, whatever its error.
# With this quaternion all are at least 13 degrees from any symmetry of an octahedron or icosahedron along them.
GROUP_TILT = (0.02, 0.35, -0.53, 0.77)


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsemblePrediction(Prediction):
    """Mean prediction over orientations, models or both, and the spread of single ones about it.

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


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of predictions; those of several members have a leading axis for them.

    Fields with the name of one of `Prediction` are averaged; another output to average is another field here.
    The variances are those within a member that is itself a mean, zero of a single prediction.
    """

    energy: Tensor
    atom_energies: Tensor
    forces: Tensor
    stress: Tensor | None
    charges: Tensor | None
    spin_populations: Tensor | None
    dipole: Tensor | None
    energy_variance: Tensor
    forces_variance: Tensor

    @classmethod
    def from_prediction(cls, prediction: Prediction) -> Moments:
        """The moments of one prediction."""
        means = {f.name: getattr(prediction, f.name) for f in fields(cls) if hasattr(prediction, f.name)}
        if isinstance(prediction, EnsemblePrediction):
            variances = prediction.energy_std.square().detach(), prediction.forces_std.square().detach()
        else:
            variances = torch.zeros_like(prediction.energy), torch.zeros_like(prediction.forces[:, 0])
        return cls(**means, energy_variance=variances[0].detach(), forces_variance=variances[1].detach())

    @classmethod
    def stack(cls, members: Sequence[Moments], join: Callable[[list[Tensor]], Tensor] = torch.stack) -> Moments:
        """Those of all `members`; a field that one of them lacks is None."""
        columns = {f.name: [getattr(member, f.name) for member in members] for f in fields(cls)}
        joined: dict[str, Any] = {
            name: None if any(value is None for value in values) else join(values) for name, values in columns.items()
        }
        return cls(**joined)

    def mean(self, weights: Float64[Tensor, "members"]) -> EnsemblePrediction:
        """The mean over members; the variance within members adds to that between them.

        Args:
            weights: of the members, summing to 1; their variance is unbiased as if they had been drawn independently.
        """

        def mean(values: Tensor) -> Tensor:
            return torch.tensordot(weights.to(values), values, 1)

        averaged = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith("_variance")}
        means: dict[str, Any] = {name: None if values is None else mean(values) for name, values in averaged.items()}
        energy_square = (self.energy - means["energy"]).detach().square()
        forces_square = (self.forces - means["forces"]).detach().square().sum(-1)
        unbiased = 1 - float(weights.square().sum())
        return EnsemblePrediction(
            **means,
            energy_std=(mean(energy_square) / unbiased + mean(self.energy_variance)).sqrt(),
            forces_std=(mean(forces_square) / unbiased + mean(self.forces_variance)).sqrt(),
        )


class RotationEnsemble(nn.Module):
    """The mean of g⁻¹ f(g x) over rotations g, equivariant under the group that the rotations form.

    The average of conservative forces is minus the gradient of the average energy. Nothing is drawn in a call.

    Args:
        model: maps a Batch to a Prediction; its weights are shared, not copied.
        rotations: at least two.
        weights: of the rotations, summing to 1; None: equal.
        max_atoms: in one forward pass, unless the batch alone has more.
        max_pairs: padded pairs in one forward pass, likewise.

    Raises:
        InputError: fewer than two rotations.
    """

    def __init__(
        self,
        model: Callable[..., Prediction],
        rotations: Float64[Tensor, "rotations 3 3"],
        weights: Float64[Tensor, "rotations"] | None = None,
        max_atoms: int = MAX_ATOMS,
        max_pairs: int = MAX_PAIRS,
    ):
        super().__init__()
        if len(rotations) < 2:
            raise InputError(f"average over {len(rotations)} rotations", remedy="2 is the least")
        self.model, self.max_atoms, self.max_pairs = model, max_atoms, max_pairs
        # No buffers: they would be cast with the network, and weights of single precision spoil total energies.
        equal = torch.full((len(rotations),), 1 / len(rotations), dtype=torch.float64)
        self.rotations, self.weights = rotations, equal if weights is None else weights

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> EnsemblePrediction:
        """Predict energies (eV), forces (eV/Å), their standard deviations and, of cells, stress (eV/Å³).

        Raises:
            InputError: `layers` are asked for; embeddings rotate in no known way, so they have no average.
        """
        if layers:
            raise InputError("a rotational average has no embeddings", remedy="ask the model itself for them")
        pairs = len(batch) * batch.max_num_atoms**2
        chunk = max(1, min(self.max_atoms // batch.num_atoms, self.max_pairs // pairs))
        chunks = self.rotations.to(batch.positions).split(chunk)
        return Moments.stack([self._rotated(batch, rotations) for rotations in chunks], torch.cat).mean(self.weights)

    def _rotated(self, batch: Batch, rotations: Rotations) -> Moments:
        """The moments of `batch` in each of `rotations`, rotated back, from one forward pass."""
        copies, rotation = repeat_batch(batch, len(rotations)), rotations.repeat_interleave(len(batch), 0)
        prediction = rotate_back(self.model(rotate(copies, rotation)), rotation, copies)
        return Moments.stack(
            [Moments.from_prediction(prediction)], lambda values: values[0].unflatten(0, (len(rotations), -1))
        )


def rotate_back(prediction: Prediction, rotations: Rotations, batch: Batch) -> Prediction:
    """`prediction` of a batch that was rotated by `rotations`, in the frame that the batch had before."""
    back, stress, dipole = rotations.mT, prediction.stress, prediction.dipole
    return replace(
        prediction,
        forces=rotate_vectors(prediction.forces, back, batch),
        stress=None if stress is None else back @ stress @ rotations,
        dipole=None if dipole is None else (back.to(dipole) @ dipole[..., None])[..., 0],
    )


def with_rotation_average(model: nn.Module, rotations: int | None) -> nn.Module:
    """`model` averaged over a group of 12, 24 or 60 rotations or another number of random ones; None: `model`.

    Raises:
        InputError: fewer than two rotations.
    """
    if rotations is None:
        return model
    if rotations < 2:
        raise InputError(f"average is {rotations}", remedy="choose 12, 24 or 60 (groups), or another number from 2")
    return RotationEnsemble(model, rotation_set(rotations))


def rotation_set(number: int) -> Float64[Tensor, "rotations 3 3"]:
    """The group of this order if there is one (12, 24, 60), else as many random rotations, always the same ones.

    The axes of the groups are rotated by `GROUP_TILT`.
    """
    if number in (12, 24, 60):
        tilt = torch.tensor([GROUP_TILT], dtype=torch.float64)
        (tilt,) = quaternions_to_matrices(tilt / tilt.norm())
        return tilt.mT @ rotation_group(number) @ tilt
    return random_rotations(number, torch.Generator().manual_seed(SEED), torch.float64)


def repeat_batch(batch: Batch, times: int) -> Batch:
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
