"""What a run says while it runs: metrics.jsonl on disk, and a live line on the terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from transip.files import unwritable, write_all, write_text
from transip.quantities import ENERGY_MAE, FORCE_MAE, ROTATION_ERROR


class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended.

    Attributes:
        reached: step of the last line that there was, 0 if there was none.
    """

    def __init__(self, path: Path, last_step: int):
        """Open `path`; lines after `last_step` (of a run that was killed past its checkpoint) are dropped.

        Raises:
            InputError: it cannot be written.
        """
        before = _lines(path)
        self._path, self.reached = path, max((line["step"] for line in before), default=0)
        write_text(path, "".join(json.dumps(line) + "\n" for line in before if line["step"] <= last_step))
        try:
            self._handle = path.open("ab", buffering=0)
        except OSError as error:
            raise unwritable(path, error) from error

    def write(self, line: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            InputError: the disk is full.
        """
        try:
            write_all(self._handle, json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(self._path, error, "the last checkpoint is kept") from error

    def sync(self) -> None:
        """Have all lines on the disk, as a checkpoint soon will be.

        Raises:
            InputError: the disk is full.
        """
        try:
            os.fsync(self._handle.fileno())
        except OSError as error:
            raise unwritable(self._path, error, "the last checkpoint is kept") from error

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # torn by a kill or a full disk
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class Live:
    """A progress bar with loss, force error, speed, memory and time left."""

    def __init__(self, name: str, enabled: bool):
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._progress.add_task(name, total=1.0, status="")
        self._force_mae = ""

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def train(self, progress: float, line: dict[str, Any]) -> None:
        """Show a training line."""
        status = (
            f"step {line['step']}  loss {line['loss']:.3f}{self._force_mae}  "
            f"{line['atoms_per_second']:,.0f} atoms/s  {line['memory_mb']:,.0f} MB"
        )
        self._progress.update(self._task, completed=progress, status=status)

    def evaluated(self, line: dict[str, Any]) -> None:
        """Remember the newest force error for the status, and print it where no bar is drawn."""
        self._force_mae = f"  F {FORCE_MAE.with_unit(line)}"
        self._progress.console.print(
            f"step {line['step']:>7}  forces {FORCE_MAE.with_unit(line):>13}  energy {ENERGY_MAE.with_unit(line):>15}  "
            f"rotation error {ROTATION_ERROR.with_unit(line):>13}",
            highlight=False,
        ) if not self._progress.disable else None


def memory_mb(device: torch.device) -> float:
    """Peak memory of this process (or of its accelerator) in MB; 0 on Windows, which does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
