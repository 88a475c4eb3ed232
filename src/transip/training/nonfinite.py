"""Losses, gradients and weights that are not finite: on which structures, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from transip.batch import Batch, segment_mean
from transip.errors import NonFiniteLoss
from transip.model.potential import Potential
from transip.training.terms import safe_norm
from transip.training.view_sampler import ViewBatch

NAMED = 8  # structures, at most, that a message names


@torch.no_grad()
def find_nonfinite(potential: Potential, batch: Batch) -> list[int]:
    """Dataset indices of the structures of `batch` whose predictions, or labels if there are any, are not finite."""
    if batch.index is None:
        return []
    prediction = potential(batch)
    energy, forces = prediction.energy, prediction.forces
    if batch.energy is not None and batch.forces is not None:
        energy, forces = energy - batch.energy, forces - batch.forces
    error = energy + segment_mean(safe_norm(forces), batch)
    return batch.index[~error.isfinite()].tolist()


def nonfinite_loss(
    potential: Potential, shards: Iterable[ViewBatch], step: int, folder: Path, rank: int, num_processes: int
) -> NonFiniteLoss:
    """The error to raise for `shards`, what this process sees at a step; it names the structures concerned."""
    device = next(potential.parameters()).device
    samples = [views for shard in shards for views in shard.samples]
    culprits = [(views.dataset, i) for views in samples for i in find_nonfinite(potential, views.load(device).batch)]
    if not culprits and num_processes == 1:
        culprits = [(views.dataset, int(i)) for views in samples for i in views.indices]
    names = "; ".join(dataset.describe(i) for dataset, i in culprits[:NAMED]) + ("; …" if culprits[NAMED:] else "")
    # Not gathered: a loss may be infinite in one process alone, and the others would never come to the meeting.
    elsewhere = f"structures of another process than {rank}, which names them, or on none by itself"
    return NonFiniteLoss(
        f"the loss or its gradient is not finite at step {step}, on {names or elsewhere}",
        where=str(folder),
        remedy="check these structures, or lower the learning rate; "
        f"the last good checkpoint is kept ({folder / 'checkpoints'})",
    )


def check_weights(tensors: Iterable[Tensor], step: int, folder: Path) -> None:
    """Before weights are kept: a finite gradient may still have led too far. Waits for the device once.

    Raises:
        NonFiniteLoss: one is NaN or infinite.
    """
    if not bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all()):
        raise NonFiniteLoss(
            f"the weights are not finite after step {step}",
            where=str(folder),
            remedy=f"lower the learning rate; the last good checkpoint is kept ({folder / 'checkpoints'})",
        )
