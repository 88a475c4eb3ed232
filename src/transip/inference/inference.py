"""From structures to labelled structures: in batches, in constant memory, in the order given."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from transip.batch import Batch, Prediction
from transip.config import BatchSettings
from transip.data.sampler import sorted_batches
from transip.errors import InputError, InputWarning
from transip.inference.scope import Scope
from transip.model.compiled import compile_network
from transip.model.files import load_model
from transip.model.potential import Potential
from transip.structure import Structure
from transip.symmetry.average import Averaged, averaged
from transip.symmetry.committee import Committee, calibrated, potentials

Precision = Literal["float32", "float64"]
Model = str | Path | Potential
Models = Model | Sequence[Model]

CHUNK = 2048  # structures held at a time, and sorted by size among themselves
# Attention's temporaries stay below 0.1 GB.
INFERENCE = BatchSettings(batch_size=256, max_atoms=4096, pairs=200_000)
# Spreads only of a committee or rotational average, uncertainties only of a calibrated one.
LABELS: tuple[str, ...] = ("energy", "forces", "energy_std", "forces_std", "energy_uncertainty", "forces_uncertainty")


@dataclass(frozen=True, eq=False)
class AveragedStructure(Structure):
    """A structure labelled by a committee or rotational average.

    Attributes:
        energy_std: standard deviation of the energy over models and rotations, eV.
        forces_std: root mean square deviation of each atom's force over models and rotations, eV/Å, (atoms,).
        energy_uncertainty: eV; 68 % of errors were smaller on molecules not seen; None without a calibration.
        forces_uncertainty: eV/Å, (atoms,); likewise of the length of each force's error.
    """

    energy_std: float = 0.0
    forces_std: Float64[np.ndarray, "atoms"] | None = None
    energy_uncertainty: float | None = None
    forces_uncertainty: Float64[np.ndarray, "atoms"] | None = None

    @property
    def spreads(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Spreads and, if they are known, uncertainties: those of the structure, and those of its atoms."""
        of_structure = {"energy_std": self.energy_std, "energy_uncertainty": self.energy_uncertainty}
        of_atoms = {"forces_std": self.forces_std, "forces_uncertainty": self.forces_uncertainty}
        if self.forces_uncertainty is not None:
            of_structure["max_force_uncertainty"] = float(self.forces_uncertainty.max())
        return (
            {name: value for name, value in of_structure.items() if value is not None},
            {name: values for name, values in of_atoms.items() if values is not None},
        )


def prepare(
    model: Models, device: str | torch.device, dtype: Precision, *, compile: bool = False
) -> Potential | Committee:
    """Load a model (by folder or name, see `load_model`) or copy one that is there, for inference on `device`.

    Several models make a `Committee`. With `compile`, see `compile_network`.

    Raises:
        InputError: a model cannot be read, they do not fit together, or the device, the precision or a compiler is not
            available.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}", remedy="choose float32 or float64")
    # Copies: neither must the caller's model change here, nor these results when it is trained further.
    members = [copy.deepcopy(one) if isinstance(one, Potential) else load_model(one) for one in listed(model)]
    own = members[0] if len(members) == 1 else Committee(members)
    try:
        own = own.to(torch.device(device), getattr(torch, dtype)).eval().requires_grad_(False)
    except (RuntimeError, AssertionError, TypeError) as error:  # what torch raises depends on how it was built
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used: {reason}", remedy="use device='cpu'") from error
    for one in potentials(own) if compile else ():
        compile_network(one, torch.device(device))
    return own


def listed(model: Models) -> Sequence[Model]:
    """The members of a committee, or the one model that there is."""
    return model if isinstance(model, Sequence) and not isinstance(model, str) else [model]


def predictor_of(model: nn.Module, average: int | None) -> nn.Module:
    """What predicts with `model`: its mean over `average` orientations, with uncertainties if it is calibrated.

    Raises:
        InputError: fewer than two orientations.
    """
    return calibrated(averaged(model, average))


def predict(
    model: nn.Module,
    structures: Iterable[Structure],
    batch: BatchSettings = INFERENCE,
    scope: Scope | None = None,
) -> Iterator[Structure]:
    """Yield each of `structures` with predicted energy (eV) and forces (eV/Å), in the order given.

    Reads `CHUNK` structures ahead and never holds more. A structure larger than the limits of `batch` is
    predicted all the same; the limits then grow to its size.

    Raises:
        InputError: a structure is outside `scope`, too uncertain for it, does not fit into memory, or has no finite
            energy.
    """
    scope = scope or Scope(model, "ignore")
    remaining = iter(structures)
    while chunk := [scope.check(structure) for structure in islice(remaining, CHUNK)]:
        counts = np.array([len(structure) for structure in chunk])
        largest = int(counts.max())
        limits = {"max_atoms": max(batch.max_atoms, largest), "pairs": max(batch.pairs, largest**2)}
        labelled: list[Structure | None] = [None] * len(chunk)
        for indices in sorted_batches(counts, batch.model_copy(update=limits)):
            for i, result in zip(indices, predict_batch(model, [chunk[i] for i in indices]), strict=True):
                labelled[i] = result
        yield from (scope.check_result(structure) for structure in labelled if structure is not None)


def predict_batch(model: nn.Module, structures: list[Structure]) -> list[Structure]:
    """Label `structures` in one forward pass; in two halves, and so on, if the device's memory is too small.

    Raises:
        InputError: one structure alone does not fit into memory, or its energy or forces are not finite.
    """
    try:
        prediction = evaluate(model, structures)
    except torch.OutOfMemoryError:
        if len(structures) == 1:
            raise InputError(
                f"{len(structures[0])} atoms do not fit into the device's memory",
                where=structures[0].source,
                remedy="use a device with more memory or device='cpu'",
            ) from None
        prediction = None
    if prediction is None:  # not inside `except`, where the traceback keeps the tensors alive
        half = len(structures) // 2
        return predict_batch(model, structures[:half]) + predict_batch(model, structures[half:])
    return [with_labels(s, found) for s, found in zip(structures, results(structures, prediction), strict=True)]


def results(structures: list[Structure], prediction: Prediction) -> Iterator[dict[str, Any]]:
    """What `prediction` says about each structure.

    Yields:
        Values of `LABELS` in eV and eV/Å.

    Raises:
        InputError: energy or forces are not finite.
    """
    ends = np.cumsum([len(structure) for structure in structures])[:-1]
    columns = [prediction.energy.tolist(), _split(prediction.forces, ends)]
    if isinstance(prediction, Averaged):
        columns += [prediction.energy_std.tolist(), _split(prediction.forces_std, ends)]
        if prediction.energy_uncertainty is not None and prediction.forces_uncertainty is not None:
            columns += [prediction.energy_uncertainty.tolist(), _split(prediction.forces_uncertainty, ends)]
    stresses = None if prediction.stress is None else iter(prediction.stress.double().cpu().numpy())
    for structure, *values in zip(structures, *columns, strict=True):
        found = dict(zip(LABELS, values, strict=False))
        check_finite(found["energy"], found["forces"], structure.source or structure.formula)
        yield found if stresses is None or np.isnan(stress := next(stresses)).any() else found | {"stress": stress}


def with_labels(structure: Structure, found: Mapping[str, Any]) -> Structure:
    """`structure` labelled with what `results` has found about it, and with nothing else."""
    labels = {"stress": None, **found}
    if "energy_std" in found:
        return AveragedStructure(**(vars(structure) | labels))
    return replace(structure, **labels)


def _split(values: Tensor, ends: Int64[np.ndarray, "_"]) -> list[np.ndarray]:
    return np.split(values.double().cpu().numpy(), ends)


@torch.no_grad()
def evaluate(model: nn.Module, structures: list[Structure]) -> Prediction:
    """One forward pass, on the model's device and in its precision."""
    weight = next(model.parameters())
    return model(Batch.collate(structures, weight.dtype).to(weight.device))


def check_finite(energy: float, forces: Float64[np.ndarray, "atoms 3"], where: str) -> None:
    """Check predicted labels.

    Raises:
        InputError: NaN or infinity.
    """
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise InputError(
            "the model's energy or forces are not finite",
            where=where,
            remedy="the geometry is far from what the model was trained on, or the model is damaged",
        )


def has_direct_forces(model: nn.Module) -> bool:
    """Whether forces of `model` are anything but the derivative of its energy."""
    return any(part.settings.forces == "direct" for part in potentials(model))


def warn_if_direct(model: nn.Module) -> None:
    """Warn that forces of a direct model only approximate the derivative of its energy."""
    if has_direct_forces(model):
        warnings.warn(
            "this model predicts forces directly: they are not exactly the derivative of its energy, so relaxations "
            "may not settle, energy drifts in NVE and frequencies are approximate; models with conservative "
            "forces do not have this limit",
            InputWarning,
            stacklevel=2,
        )
