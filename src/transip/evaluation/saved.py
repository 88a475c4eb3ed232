"""Errors, symmetry and cost of a potential on a dataset, as a whole and per chemical domain."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from transip.batch import Batch, Prediction
from transip.config import BatchSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.data.sampler import sorted_batches
from transip.data.split import changed_packs, load_full_splits
from transip.data.store import UNKNOWN, concat_ranges
from transip.errors import InputError, InputWarning
from transip.evaluation.result import Evaluation
from transip.files import RECIPE
from transip.inference.predict import load_for_inference
from transip.metrics.errors import TERMS, per_structure_errors, reduce_metrics
from transip.metrics.validation import all_layers, device_of, iter_predictions, sampled_symmetry
from transip.model.files import load_model, resolve_model_folder
from transip.model.potential import Potential
from transip.symmetry.average import with_rotation_average
from transip.symmetry.committee import members, num_rotations
from transip.symmetry.latent import LatentEquivariance, load_latent
from transip.version import __version__


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch: BatchSettings,
    symmetry: bool = True,
    symmetry_structures: int = 64,
    latent: LatentEquivariance | None = None,
    progress: bool = True,
) -> Evaluation:
    """Predict all of `dataset` on the model's device and compare with its labels.

    Args:
        model: maps (Batch, layers) to a Prediction; a `Potential` or anything alike.
        dataset: labelled structures.
        batch: limits of one batch.
        symmetry: also measure rotation errors, in all layers if the model says how deep it is.
        symmetry_structures: how many structures, drawn at random, serve for that.
        latent: the action learned in training; gives its error per layer.
        progress: show a progress bar on standard error.

    Memory grows by about 50 bytes per atom of `dataset`: predictions, labels and geometries.

    Raises:
        InputError: nothing to evaluate, no labels, a structure larger than a batch may be, or a prediction that
            is not a finite number; the structure is named.
    """
    if not len(dataset):
        raise InputError("has no structures", where="evaluation", remedy="choose a dataset that is not empty")
    arrays = _empty_arrays(dataset)
    terms = np.zeros((len(dataset), len(TERMS)))
    first = np.cumsum(dataset.atom_counts) - dataset.atom_counts
    seconds = 0.0
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluating", total=len(dataset))
        started = time.perf_counter()
        for indices, labelled, prediction in iter_predictions(
            model, dataset, sorted_batches(dataset.atom_counts, batch)
        ):
            terms[indices] = per_structure_errors(labelled, prediction).cpu().numpy()
            seconds = time.perf_counter() - started  # reading the terms has waited for the device
            atoms = concat_ranges(first[indices], dataset.atom_counts[indices])
            _store(arrays, indices, atoms, labelled, prediction)
            _check_finite(arrays, indices, atoms, dataset)
            bar.advance(task, len(indices))
    rotation_errors = None
    if symmetry:
        sample = {"structures": symmetry_structures, "latent": latent}
        rotation_errors = sampled_symmetry(model, dataset, batch, all_layers(model), **sample)
    return Evaluation(
        overall=reduce_metrics(torch.from_numpy(terms.sum(0))),
        domains={
            str(domain): reduce_metrics(torch.from_numpy(terms[dataset.domains == domain].sum(0)))
            for domain in np.unique(dataset.domains)
        },
        symmetry=rotation_errors,
        cost=_cost(dataset, seconds, model),
        predictions=arrays,
    )


def _empty_arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    """Arrays of `Evaluation.predictions`, those that the dataset gives already filled in."""
    structures, atoms = len(dataset), int(dataset.atom_counts.sum())
    return {
        "ids": np.array([dataset.source(i) or str(i) for i in range(structures)], dtype=np.str_),
        "natoms": dataset.atom_counts,
        "domain": dataset.domains,
        "energy": np.empty(structures),
        "forces": np.empty((atoms, 3), dtype=np.float32),
        "reference_energy": np.empty(structures),
        "reference_forces": np.empty((atoms, 3), dtype=np.float32),
        "numbers": np.empty(atoms, dtype=np.uint8),
        "positions": np.empty((atoms, 3), dtype=np.float32),
    }


def _store(
    arrays: dict[str, np.ndarray], indices: np.ndarray, atoms: np.ndarray, batch: Batch, prediction: Prediction
) -> None:
    assert batch.energy is not None and batch.forces is not None  # or there were no error terms
    arrays["energy"][indices] = prediction.energy.detach().cpu().numpy()
    arrays["forces"][atoms] = prediction.forces.detach().cpu().numpy()
    arrays["reference_energy"][indices] = batch.energy.cpu().numpy()
    arrays["reference_forces"][atoms] = batch.forces.cpu().numpy()
    arrays["numbers"][atoms] = batch.numbers.cpu().numpy()
    arrays["positions"][atoms] = batch.positions.cpu().numpy()


def _check_finite(arrays: dict[str, np.ndarray], indices: np.ndarray, atoms: np.ndarray, dataset: Dataset) -> None:
    finite = np.isfinite(arrays["energy"][indices])
    broken = np.repeat(indices, dataset.atom_counts[indices])[~np.isfinite(arrays["forces"][atoms]).all(-1)]
    bad = [*indices[~finite], *broken]
    if bad:
        raise InputError(
            "the model predicts NaN or infinite numbers",
            where=dataset.describe(int(bad[0])),
            remedy="the model is broken or the structure is far outside what it was trained on",
        )


def _cost(dataset: Dataset, seconds: float, model: nn.Module) -> dict[str, Any]:
    atoms = int(dataset.atom_counts.sum())
    return {
        "forward_passes": len(dataset) * num_rotations(model) * max(1, len(members(model))),
        "atoms": atoms,
        "seconds": seconds,
        "atoms_per_second": atoms / seconds,
        "hardware": _hardware(device_of(model)),
        "versions": {
            "transip": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def evaluate_checkpoint(
    model: str | Path,
    packs: Sequence[str | Path] = (),
    *,
    committee: Sequence[str | Path] = (),
    device: str = "auto",
    average: int | None = None,
) -> Evaluation:
    """Evaluate a saved model on `packs`, or, if there are none, on what the recipe of the run `model` held out.

    With a `committee` of further models the mean of all is evaluated; with `average`, the mean over so many rotations,
    see `transip.symmetry.average.averaged`.

    Raises:
        InputError: the model or data cannot be read, or there are no packs and `model` is not a run folder.
    """
    potential = load_for_inference([model, *committee], device, "float32")
    latent = load_latent(resolve_model_folder(model), potential.settings) if isinstance(potential, Potential) else None
    data = load_validation_set(model, packs)
    return evaluate(with_rotation_average(potential, average), data, batch=batch_limits_for(data), latent=latent)


def default_folder(model: str | Path, committee: Sequence[str | Path] = (), average: int | None = None) -> Path:
    """Where the evaluation of `model` is written: in its own folder, or in runs/NAME for a model that is known by name.

    With a committee or a rotational average, a folder of that name in it.
    """
    model = Path(model)
    folder = model if model.is_dir() else model.parent if model.exists() else Path("runs") / model.name
    ways = {"committee": len(committee) + 1 if committee else None, "average": average}
    return folder / "-".join(f"{way}-{number}" for way, number in ways.items() if number)


def load_validation_set(model: str | Path, packs: Sequence[str | Path] = ()) -> Dataset:
    """`packs`, or, if there are none, all that the recipe of the run `model` held out.

    Warns (`InputWarning`) if `packs` were labelled at another level of theory than `model` was trained on, or if the
    packs of the recipe have changed since.

    Raises:
        InputError: the model or data cannot be read, or there are no packs and `model` is not a run folder.
    """
    if packs:
        data, level = Dataset.open(packs), load_model(model).card.get("level_of_theory", UNKNOWN)
        if UNKNOWN not in (level, data.level_of_theory) and level != data.level_of_theory:
            warnings.warn(
                f"{model} was trained on {level}, the data are labelled with {data.level_of_theory}: what is called "
                "an error is for the most part the difference between the two",
                InputWarning,
                stacklevel=2,
            )
        return data
    if not (recipe := Path(model) / RECIPE).is_file():
        raise InputError("is not a run folder", where=str(model), remedy="name the packs to evaluate on")
    settings = load(Recipe, recipe).data
    split = (*settings.train, *settings.validation)
    if changed := [path for path in changed_packs(settings, Path(model)) if path in split]:
        warnings.warn(
            f"{', '.join(changed)}: not the structures that {model} was trained on: among what would be held out "
            "today are some that it has learned",
            InputWarning,
            stacklevel=2,
        )
    return load_full_splits(settings)[1]


def batch_limits_for(data: Dataset) -> BatchSettings:
    """Batches for inference: the default budget, raised if a single structure exceeds it."""
    default, largest = BatchSettings(batch_size=128), int(data.atom_counts.max(initial=0))
    return default.model_copy(update={"max_atoms": max(default.max_atoms, largest)})
