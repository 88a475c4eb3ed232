"""Errors and rotation errors of a model on a dataset, batch by batch, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from transip.batch import Batch, Prediction
from transip.config import BatchSettings
from transip.data.dataset import Dataset
from transip.data.sampler import sorted_batches
from transip.metrics.errors import TERMS, Metrics, per_structure_errors, reduce_metrics
from transip.symmetry.latent import LatentEquivariance
from transip.symmetry.measure import measure_symmetry

ROTATIONS = 4  # orientations per structure in which symmetry is measured
SYMMETRY_SEED = 0  # the same structures and orientations for every model, so that numbers compare


def validation_metrics(
    model: nn.Module,
    dataset: Dataset,
    batch: BatchSettings,
    *,
    rank: int = 0,
    processes: int = 1,
    reduce: Callable[[Tensor], Tensor] | None = None,
    symmetry_structures: int = 64,
) -> Metrics:
    """The metrics of `reduce_metrics`, and the rotation errors of `measure_symmetry`, for evaluation during training.

    Args:
        model: maps (Batch, layers) to a Prediction.
        dataset: labelled structures.
        batch: limits of one batch.
        rank: this process evaluates batches rank, rank + processes, …
        processes: how many share the work.
        reduce: sums a tensor over the processes, e.g. ``accelerator.reduce``.
        symmetry_structures: structures for the rotation errors, the same in every process; 0: leave them out.
    """
    batches = sorted_batches(dataset.atom_counts, batch)[rank::processes]
    sums = torch.zeros(len(TERMS), dtype=torch.float64, device=device_of(model))  # there: adding waits for nothing
    for _, labelled, prediction in iter_predictions(model, dataset, batches):
        sums += per_structure_errors(labelled, prediction).sum(0)
    metrics = reduce_metrics(reduce(sums) if reduce else sums)
    if symmetry_structures:
        errors = sampled_symmetry(model, dataset, batch, structures=symmetry_structures)
        metrics |= {name: value for name, value in errors.items() if name != "layers"}
    return metrics


def iter_predictions(
    model: nn.Module, dataset: Dataset, batches: Sequence[Int64[np.ndarray, "_"]]
) -> Iterator[tuple[Int64[np.ndarray, "_"], Batch, Prediction]]:
    """Predict `batches` (indices) of `dataset` on the model's device."""
    device = device_of(model)
    for indices in batches:
        labelled = dataset.get_batch(indices).to(device)
        with torch.no_grad():
            prediction = model(labelled)
        yield indices, labelled, prediction


def sampled_symmetry(
    model: nn.Module,
    dataset: Dataset,
    batch: BatchSettings,
    layers: Sequence[int] = (),
    *,
    structures: int = 64,
    rotations: int = ROTATIONS,
    latent: LatentEquivariance | None = None,
    seed: int = SYMMETRY_SEED,
) -> dict[str, Any]:
    """`measure_symmetry` on at most `structures` of the dataset, drawn at random and the same for equal seeds."""
    number = min(structures, len(dataset))
    chosen = np.random.default_rng(seed).choice(len(dataset), number, replace=False)
    sample = dataset.select(np.sort(chosen))
    batches = (sample.get_batch(indices).to(device_of(model)) for indices in sorted_batches(sample.atom_counts, batch))
    return measure_symmetry(model, batches, rotations=rotations, layers=layers, latent=latent, seed=seed)


def all_layers(model: nn.Module) -> tuple[int, ...]:
    """Numbers of the layers of `model`; none if it does not say how deep it is."""
    return tuple(range(getattr(getattr(model, "settings", None), "depth", 0)))


def device_of(model: nn.Module) -> torch.device:
    """The device that holds the weights of `model`."""
    return next(model.parameters()).device
