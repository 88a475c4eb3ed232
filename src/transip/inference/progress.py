"""What the commands on files share: a progress bar, totals, and outputs that replace nothing unasked."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from transip.data.read import is_pack
from transip.data.store import Pack
from transip.errors import InputError
from transip.files import output_lock, resolve_output, unwritable, write_all

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], title: str, progress: bool, total: int | None = None) -> Iterator[Item]:
    """Pass `items` on, counting them on the terminal's error stream if `progress` is true."""
    columns = [SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()]
    if total is not None:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        yield from bar.track(items, total=total, description=title)


def count_structures(path: str | Path) -> int | None:
    """How many structures a pack or an extxyz file holds, without parsing them; None of others and damaged ones."""
    path = Path(path)
    with suppress(InputError, OSError, ValueError):
        if is_pack(path):
            return len(Pack.open(path))
        if path.suffix.lower() in (".xyz", ".extxyz"):
            with path.open("rb") as handle:
                return sum(1 for _ in _frame_ends(handle))
    return None


def _frame_ends(handle: io.BufferedReader) -> Iterator[int]:
    """Positions in an extxyz file after each of its whole frames.

    Raises:
        ValueError: where a frame should begin there is no number of atoms.
    """
    while (head := handle.readline()).strip():
        if head.lstrip().startswith(b"VEC"):
            continue
        lines = [handle.readline() for _ in range(int(head) + 1)]
        if not lines[-1].endswith(b"\n"):
            return
        yield handle.tell()


def check_output(output: str | Path, overwrite: bool) -> Path:
    """Where `output` is going to be written: what a symbolic link points to.

    Raises:
        InputError: its folder does not exist, or there is something that is not to be overwritten.
    """
    target = resolve_output(output)
    if not target.parent.is_dir():
        raise InputError("is not an existing folder", where=str(target.parent), remedy="create it, or correct --output")
    if target.exists() and not overwrite:
        raise InputError("exists already", where=str(output), remedy="choose another output, or pass --overwrite")
    return target


class FrameWriter:
    """Appends frames to ``NAME.partial.xyz``, each in one write, so that a kill leaves whole ones.

    Attributes:
        partial: that file.
        resumed: how many frames it had from before.
    """

    def __init__(self, partial: Path, handle: io.FileIO, resumed: int):
        self.partial, self.resumed, self._handle = partial, resumed, handle

    def write(self, frame: str) -> None:
        """Append the text of a frame.

        Raises:
            OSError: the disk is full; the file then ends with the frame before.
        """
        begin = self._handle.seek(0, os.SEEK_END)
        try:
            write_all(self._handle, frame)
        except OSError:
            self._handle.truncate(begin)
            raise


@contextmanager
def frame_writer(output: Path, *, resume: bool, overwrite: bool) -> Iterator[FrameWriter]:
    """Write frames beside `output`, which appears when the block succeeds; frames of one that fails are kept.

    Args:
        output: as returned by `check_output`.
        resume: append to the frames that a stopped run has left, if there are any.
        overwrite: begin anew where a stopped run has left frames.

    Raises:
        InputError: frames of a stopped run would be lost, another process writes them, or the disk is full.
    """
    partial = output.with_name(f"{output.stem}.partial.xyz")
    with output_lock(partial):
        if partial.exists() and not (resume or overwrite):
            raise InputError(
                f"holds {count_structures(partial) or 0} frames of a run that was stopped",
                where=str(partial),
                remedy="go on from there with --resume, or begin anew with --overwrite",
            )
        ends = []
        try:
            if resume and partial.exists():
                with partial.open("rb") as reader, suppress(ValueError):
                    ends.extend(_frame_ends(reader))
                os.truncate(partial, ends[-1] if ends else 0)  # what was being written at the time of a kill
            with partial.open("ab" if resume else "wb", buffering=0) as handle:
                yield FrameWriter(partial, handle, len(ends))
                os.fsync(handle.fileno())
            os.replace(partial, output)
        except OSError as error:
            raise unwritable(output, error, f"frames so far are in {partial}") from error
        finally:
            with suppress(OSError):
                if partial.stat().st_size == 0:
                    partial.unlink()
