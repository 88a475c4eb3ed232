"""Training state as data: one safetensors file per checkpoint holds everything that a resumed run needs."""

from __future__ import annotations

import json
import warnings
import zlib
from dataclasses import asdict, dataclass
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
class Progress:
    """Where a run stands: counters that a resumed run continues."""

    step: int = 0
    batches: int = 0
    seconds: float = 0.0
    forward_passes: int | float = 0  # a view that only some blocks see is a fraction of one
    atoms_processed: int = 0
    best_force_mae: float = float("inf")
    evaluations_without_gain: int = 0


def save_checkpoint(folder: Path, progress: Progress, groups: dict[str, dict[str, Tensor]]) -> Path:
    """Write ``folder/00000500.safetensors`` atomically and drop checkpoints older than the last two."""
    tensors = {
        f"{group}:{name}": value.detach().cpu().contiguous()
        for group, values in groups.items()
        for name, value in values.items()
    }
    target = folder / _name(progress.step)
    counters = json.dumps(asdict(progress))
    metadata = {"format": str(FORMAT), "progress": counters, "checksum": _checksum(counters, tensors)}
    with atomic_path(target) as partial:
        save_file(tensors, partial, metadata)
    drop_old(folder, progress.step)
    return target


def drop_old(folder: Path, step: int) -> None:
    """Of the checkpoints up to `step`, keep the last two."""
    for old in [path for path in checkpoints(folder) if path.name <= _name(step)][:-KEEP]:
        old.unlink()


def _name(step: int) -> str:
    return f"{step:08d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def load_checkpoint(folder: Path) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
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


def _read(path: Path) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    tensors = load_tensors(path)
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata() or {}
    version, counters = metadata.get("format", ""), metadata.get("progress", "{}")
    if not version.isdigit() or int(version) > FORMAT:
        raise InputError(
            f"has checkpoint format {version or 'unknown'}, this transip reads up to {FORMAT}",
            where=str(path),
            remedy="upgrade transip, or train anew",
        )
    if metadata.get("checksum", "") not in ("", _checksum(counters, tensors)):  # the first versions wrote none
        raise InputError("is corrupt: it does not have the checksum it was written with", where=str(path))
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition(":")
        groups.setdefault(group, {})[rest] = value
    return Progress(**json.loads(counters)), groups


def _checksum(counters: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of all that a checkpoint holds; safetensors itself checks only that the file has its length."""
    found = zlib.crc32(counters.encode())
    for name, value in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), found)
        found = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
