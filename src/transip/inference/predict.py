"""From structures to predictions: in batches, in constant memory, in the order given; and `transip predict`."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from transip.batch import Batch, Prediction
from transip.config import BatchSettings, KeySettings
from transip.data.read import DEFAULT_KEYS, OnBad
from transip.data.sampler import sorted_batches
from transip.errors import InputError, InputWarning
from transip.files import atomic_path, output_lock
from transip.inference.domain import ApplicabilityDomain
from transip.inference.progress import check_output, count_structures, progress_bar
from transip.inference.result import Result, unbatch
from transip.io.extxyz import check_extxyz, format_frame
from transip.model.compiled import compile_network
from transip.model.files import load_model
from transip.model.potential import Potential
from transip.structure import Structure
from transip.symmetry.average import with_rotation_average
from transip.symmetry.committee import Committee, calibrated, members

if TYPE_CHECKING:
    from transip.inference.ase import TransIPCalculator

Precision = Literal["float32", "float64"]
Model = str | Path | Potential
Models = Model | Sequence[Model]

CHUNK = 2048  # structures held at a time, and sorted by size among themselves
INFERENCE_LIMITS = BatchSettings(batch_size=256, max_atoms=4096)
MAX_PAIRS = 200_000  # padded atoms² in a batch of several structures: attention's temporaries stay below 0.1 GB
LARGE = 2000  # atoms, from which on a single forward pass may take so long that one wants to know


def load_for_inference(
    model: Models, device: str | torch.device, dtype: Precision, *, compile: bool = False
) -> Potential | Committee:
    """Load a model (by folder or name, see `load_model`) or copy one in memory, for inference on `device`.

    Several models make a `Committee`. With `compile`, see `compile_network`.

    Raises:
        InputError: a model cannot be read, they do not fit together, or the device, the precision or a compiler is not
            available.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}", remedy="choose float32 or float64")
    device = pick_device(device)
    # Copies: neither must the caller's model change here, nor these results when it is trained further.
    loaded = [copy.deepcopy(m) if isinstance(m, Potential) else load_model(m) for m in as_list(model)]
    network = loaded[0] if len(loaded) == 1 else Committee(loaded)
    try:
        network = network.to(device, getattr(torch, dtype)).eval().requires_grad_(False)
    except (RuntimeError, AssertionError, TypeError) as error:  # what torch raises depends on how it was built
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used: {reason}", remedy="use device='cpu'") from error
    for potential in loaded if compile else ():
        compile_network(potential, device)
    return network


def pick_device(device: str | torch.device) -> torch.device:
    """The device of this name; ``"auto"``: a CUDA or XPU device if there is one, else the CPU.

    Apple's MPS is never picked: it has no float64, in which total energies are summed.

    Raises:
        InputError: there is no such kind of device.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used: {reason}", remedy="use device='cpu'") from error


def as_list(model: Models) -> Sequence[Model]:
    """The members of a committee, or the one model that there is."""
    return model if isinstance(model, Sequence) and not isinstance(model, str) else [model]


def build_predictor(model: nn.Module, average: int | None) -> nn.Module:
    """`model` or its mean over `average` orientations, with uncertainties if just this has been calibrated.

    Raises:
        InputError: fewer than two orientations.
    """
    return calibrated(with_rotation_average(model, average))


def iter_predictions(
    model: nn.Module,
    structures: Iterable[Structure],
    batch: BatchSettings = INFERENCE_LIMITS,
    domain: ApplicabilityDomain | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[Result]:
    """Yield the predictions (eV, eV/Å) of each of `structures`, in the order given.

    Reads `CHUNK` structures ahead and never holds more. A structure larger than the limits of `batch` is
    predicted all the same; the limits then grow to its size.

    Args:
        model: ready for inference.
        structures: what to predict.
        batch: limits of a forward pass.
        domain: checks structures and results; None: everything passes.
        on_bad: is told about each structure that cannot be predicted, which is then left out; None: it is an error.

    Raises:
        InputError: a structure is outside `domain`, too uncertain for it, does not fit into memory, or has no finite
            energy; unless there is `on_bad`.
    """
    domain = domain or ApplicabilityDomain(model, "ignore")
    remaining = iter(structures)
    while chunk := list(islice(remaining, CHUNK)):
        chunk = [structure for structure in chunk if _passes(domain.check, structure, on_bad)]
        if not chunk:
            continue
        num_atoms = np.array([len(structure) for structure in chunk])
        largest = int(num_atoms.max())
        limits = batch.model_copy(update={"max_atoms": max(batch.max_atoms, largest)})
        results: dict[int, Result] = {}
        for indices in sorted_batches(num_atoms, limits, MAX_PAIRS):
            results.update(zip(indices.tolist(), predict_batch(model, [chunk[i] for i in indices]), strict=True))
        for i in range(len(chunk)):
            result = results.pop(i)
            if _passes(Result.check_finite, result, on_bad) and _passes(domain.check_result, result, on_bad):
                yield result


def _passes(check: Callable[[Any], object], item: Any, on_bad: OnBad | None) -> bool:
    try:
        check(item)
    except InputError as error:
        if on_bad is None:
            raise
        on_bad(error)
        return False
    return True


def predict_batch(model: nn.Module, structures: list[Structure]) -> list[Result]:
    """Predict `structures` in one forward pass; in two halves, and so on, if the device's memory is too small.

    Raises:
        InputError: one structure alone does not fit into memory.
    """
    try:
        prediction = forward_structures(model, structures)
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
    return unbatch(structures, prediction)


@torch.no_grad()
def forward_structures(model: nn.Module, structures: list[Structure]) -> Prediction:
    """One forward pass, on the model's device and in its precision."""
    weight = next(model.parameters())
    return model(Batch.collate(structures, weight.dtype).to(weight.device))


def has_direct_forces(model: nn.Module) -> bool:
    """Whether forces of `model` are anything but the derivative of its energy."""
    return any(member.settings.forces == "direct" for member in members(model))


def has_charges(model: nn.Module) -> bool:
    """Whether predictions of `model` have partial charges and, of molecules, a dipole."""
    return all(member.has_charges for member in members(model))


def has_spin_populations(model: nn.Module) -> bool:
    """Whether predictions of `model` have the unpaired electrons of each atom."""
    return all(member.has_spin_populations for member in members(model))


def warn_of_direct_forces(model: nn.Module) -> None:
    """Warn that forces of a direct model only approximate the derivative of its energy."""
    if has_direct_forces(model):
        warnings.warn(
            "this model predicts forces directly: they are not exactly the derivative of its energy, so relaxations "
            "may not settle, energy drifts in NVE and frequencies are approximate; models with conservative forces do "
            "not have this limit",
            InputWarning,
            stacklevel=2,
        )


def warn_of_size(model: nn.Module, structure: Structure) -> Structure:
    """Return `structure`; if it is large, say first how long a forward pass will take about, by a part of it."""
    if len(structure) <= LARGE:
        return structure
    begin = time.perf_counter()
    nearest = np.argsort(np.linalg.norm(structure.positions - structure.positions.mean(0), axis=1))[: LARGE // 4]
    fragment = Structure(structure.numbers[nearest], structure.positions[nearest], structure.charge, structure.spin)
    forward_structures(model, [fragment])
    ratio = len(structure) / len(nearest)
    seconds = (time.perf_counter() - begin) * (ratio if all(m.settings.cutoff for m in members(model)) else ratio**2)
    warnings.warn(
        f"{structure.source or structure.formula}: {len(structure):,} atoms: energy and forces will take about "
        + (f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"),
        InputWarning,
        stacklevel=2,
    )
    return structure


def predict_file(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    keys: KeySettings = DEFAULT_KEYS,
    batch: BatchSettings = INFERENCE_LIMITS,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the structures of `source` to extxyz with predicted energies (eV) and forces (eV/Å).

    Memory does not grow with the file; `output` appears when it is complete. What was killed begins anew.

    Args:
        calculator: says which model, how, and what about structures outside its domain.
        source: any file that `transip.data.read` reads; labels in it are ignored.
        output: extxyz in a folder that exists; each frame has charge, spin, energy and forces, from a rotational
            average or several models also the spreads ``energy_std`` and ``forces_std``, and, if they have been
            calibrated, ``energy_uncertainty``, ``forces_uncertainty`` and ``max_force_uncertainty``.
        keys: where charge and spin are stored in `source`.
        batch: limits of a batch.
        overwrite: replace an `output` that exists.
        skip_bad: leave out structures that cannot be predicted.
        progress: show a progress bar.

    Returns:
        ``structures``, ``atoms``, ``seconds``, ``output`` and, one `InputError` each, what was ``skipped``.

    Raises:
        InputError: a structure or the output cannot be used, or another process is writing the output.
    """
    target = check_output(check_extxyz(output), overwrite)
    skipped: list[InputError] = []
    on_bad = skipped.append if skip_bad else None
    structures = calculator.read_file(source, keys, on_bad)
    structures = (warn_of_size(calculator.predictor, structure) for structure in structures)
    total = count_structures(source) if progress else None
    begin, count, atoms = time.perf_counter(), 0, 0
    results = iter_predictions(calculator.predictor, structures, batch, calculator.domain, on_bad)
    with output_lock(target), atomic_path(target) as partial, partial.open("w", encoding="utf-8") as handle:
        for result in progress_bar(results, "predict", progress, total):
            handle.write(format_frame(result.to_structure(), *result.spreads))
            count, atoms = count + 1, atoms + len(result)
    seconds = time.perf_counter() - begin
    return {"structures": count, "atoms": atoms, "seconds": seconds, "output": str(output), "skipped": skipped}
