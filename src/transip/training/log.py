"""What a run says while it runs: metrics.jsonl on disk, and a live line on the terminal."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from transip.files import unwritable, write_all, write_text
from transip.quantities import ENERGY_MAE, FORCE_MAE, REFERENCES, ROTATION_ERROR


class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended.

    Attributes:
        last_logged_step: step of the last line that there was, 0 if there was none.
    """

    def __init__(self, path: Path, last_step: int):
        """Open `path`; lines after `last_step` (of a run that was killed past its checkpoint) are dropped.

        Raises:
            InputError: it cannot be written.
        """
        before = _lines(path)
        self._path, self.last_logged_step = path, max((line["step"] for line in before), default=0)
        write_text(path, "".join(json.dumps(line) + "\n" for line in before if line["step"] <= last_step > 0))
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


class ProgressDisplay:
    """A progress bar with loss, force error, speed, memory and time left."""

    def __init__(self, name: str, enabled: bool):
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._progress.add_task(name, total=1.0, status="", left="")
        self._force_mae = ""

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, record: dict[str, Any], progress: float, seconds_left: float | None) -> None:
        """Show a record of the log, and when training will be over."""
        if record["kind"] == "train":
            left = "" if seconds_left is None else f"{timedelta(seconds=round(seconds_left))} left"
            status = (
                f"step {record['step']}  loss {record['loss']:.3f}{self._force_mae}  "
                f"{record['atoms_per_second']:,.0f} atoms/s  {record['memory_mb']:,.0f} MB"
            )
            self._progress.update(self._task, completed=progress, status=status, left=left)
        elif record["kind"] == "evaluation" and not self._progress.disable:
            self._force_mae = f"  F {FORCE_MAE.with_unit(record)}"
            self._progress.console.print(
                f"step {record['step']:>7}  forces {FORCE_MAE.with_unit(record):>13}  "
                f"energy {ENERGY_MAE.with_unit(record):>15}  rotation error {ROTATION_ERROR.with_unit(record):>13}",
                highlight=False,
            )
        elif record["kind"] == "references" and not self._progress.disable:
            for spec in REFERENCES:
                if spec.key in record:
                    self._progress.console.print(f"{spec.name}: {spec.with_unit(record)}", highlight=False)


def memory_mb(device: torch.device) -> float:
    """Peak memory of this process (or of its accelerator) in MB; 0 on Windows, which does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
