"""Training state as data: one safetensors file per checkpoint holds everything that a resumed run needs."""

from __future__ import annotations

import json
import math
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from transip.errors import InputError, InputWarning
from transip.files import atomic_path
from transip.model.files import load_tensors

FORMAT = 1
KEEP = 2  # the newest may be damaged by a failing disk; the one before it is the way back


@dataclass
class TrainingState:
    """Where a run stands: counters that a resumed run continues.

    Attributes:
        step: optimiser steps made.
        batches: global batches drawn, skipped ones included.
        seconds: spent on training.
        forward_passes: of one structure each, in all processes.
        atoms_processed: atoms that have passed through the network, in all processes.
        best_force_mae: on the validation set, eV/Å.
        evaluations_without_gain: since the best one.
        start_force_mae: of the model that training began from, eV/Å; None from scratch.
        classes: by which code the run is trained: the class of the backbone and of each loss term.
    """

    step: int = 0
    batches: int = 0
    seconds: float = 0.0
    forward_passes: int = 0
    atoms_processed: int = 0
    best_force_mae: float = float("inf")
    evaluations_without_gain: int = 0
    start_force_mae: float | None = None
    classes: dict[str, str] = field(default_factory=dict)

    def is_best(self, force_mae: float) -> bool:
        """Count an evaluation; returns whether its force MAE is the best so far."""
        force_mae = force_mae if math.isfinite(force_mae) else math.inf  # nothing is below NaN
        best = force_mae < self.best_force_mae or self.best_force_mae == math.inf
        if best:
            self.best_force_mae, self.evaluations_without_gain = force_mae, 0
        else:
            self.evaluations_without_gain += 1
        return best


def save_checkpoint(folder: Path, state: TrainingState, groups: dict[str, dict[str, Tensor]]) -> Path:
    """Write ``folder/00000500.safetensors`` atomically and drop checkpoints older than the last two."""
    tensors = {
        f"{group}:{name}": value.detach().cpu().contiguous()
        for group, values in groups.items()
        for name, value in values.items()
    }
    target = folder / _name(state.step)
    counters = json.dumps(asdict(state))
    metadata = {"format": str(FORMAT), "state": counters, "checksum": _checksum(counters, tensors)}
    with atomic_path(target) as partial:
        save_file(tensors, partial, metadata)
    prune(folder, state.step)
    return target


def prune(folder: Path, step: int) -> None:
    """Of the checkpoints up to `step`, keep the last two."""
    for old in [path for path in checkpoints(folder) if path.name <= _name(step)][:-KEEP]:
        old.unlink()


def _name(step: int) -> str:
    return f"{step:08d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def load_checkpoint(folder: Path) -> tuple[TrainingState, dict[str, dict[str, Tensor]]] | None:
    """The newest sound checkpoint, or None if there is none at all.

    A damaged checkpoint, be it by one bit, is named in a warning and the one before it is used.

    Raises:
        InputError: there are checkpoints, but none can be read.
    """
    problem: InputError | None = None
    for path in reversed(checkpoints(folder)):
        try:
            return _read(path)
        except InputError as error:
            warnings.warn(f"{error}; falling back to the checkpoint before it", InputWarning, stacklevel=2)
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def _read(path: Path) -> tuple[TrainingState, dict[str, dict[str, Tensor]]]:
    tensors = load_tensors(path)
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata() or {}
    version, counters = metadata.get("format", ""), metadata.get("state", "{}")
    if not version.isdigit() or int(version) > FORMAT:
        raise InputError(
            f"has checkpoint format {version or 'unknown'}, this transip reads up to {FORMAT}",
            where=str(path),
            remedy="upgrade transip, or train anew",
        )
    if metadata.get("checksum") != _checksum(counters, tensors):
        raise InputError("is corrupt: it does not have the checksum it was written with", where=str(path))
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition(":")
        groups.setdefault(group, {})[rest] = value
    return TrainingState(**json.loads(counters)), groups


def _checksum(counters: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of all that a checkpoint holds; safetensors itself checks only that the file has its length."""
    checksum = zlib.crc32(counters.encode())
    for name, value in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"
