"""Which files there are to read, and a reader for each kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from transip.errors import InputError
from transip.io.databases import json_rows, lmdb_rows, read_database, sqlite_rows
from transip.io.extxyz import read_extxyz
from transip.io.frame import RawFrame

_READERS: dict[str, Callable[[Path], Iterator[RawFrame]]] = {
    ".xyz": read_extxyz,
    ".extxyz": read_extxyz,
    ".db": partial(read_database, sqlite_rows),
    ".json": partial(read_database, json_rows),
    ".aselmdb": partial(read_database, lmdb_rows),
}


def read_frames(path: Path) -> Iterator[tuple[str, RawFrame]]:
    """Frames of a file or of a folder of `.aselmdb` shards, each after its name for messages.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt or of an unknown kind.
    """
    for file in find_files(path):
        number = 0
        try:
            for frame in _READERS[file.suffix.lower()](file):
                yield f"{file}, structure {number}", frame
                number += 1
        except InputError:
            raise
        except Exception as error:  # damage can make a parser fail in any way; none of them is a defect of ours
            detail = f"{type(error).__name__}: {error}".strip(": ")
            raise InputError(
                f"structure {number} cannot be read: the file is truncated or corrupt ({detail})",
                where=str(file),
                remedy="recreate or copy the file again, or cut it before this structure",
            ) from error
        if not number:
            raise InputError("holds no structures", where=str(file), remedy="leave the file out")


def find_files(path: Path) -> list[Path]:
    """The files to read: `path` itself or, of a folder, its shards in the order of their numbers.

    Raises:
        InputError: there is none that could be read.
    """
    if path.is_dir():
        shards = sorted(path.glob("*.aselmdb"), key=_shard_number)
        if not shards:
            raise InputError("is a folder without .aselmdb files", where=str(path), remedy="name the files to read")
        return shards
    if not path.is_file():
        raise InputError("does not exist", where=str(path), remedy="check the path")
    if path.suffix.lower() not in _READERS:
        raise InputError(
            f"is of unknown kind {path.suffix!r}",
            where=str(path),
            remedy=f"convert it to one of {', '.join(_READERS)} or a folder of .aselmdb files",
        )
    if path.stat().st_size == 0:
        raise InputError("is empty", where=str(path), remedy="leave the file out or create it again")
    return [path]


def _shard_number(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.stem)], file.stem
