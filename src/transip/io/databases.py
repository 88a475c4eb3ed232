"""Rows of ASE databases and of OMol25's `.aselmdb` shards, read from files that nobody vouches for.

ASE's own readers trust a file: they follow its page numbers through a C library, make arrays as large as it says, and
add tables to it. Here nothing is written, nothing that a file holds is run, and no more memory is taken than the file
has bytes (ten times that for JSON). LMDB's library cannot be made safe: opened read-only and without lock, it ended
the interpreter with a bus error on 38 of 40 truncated shards and on 3 of 40 with one damaged page (py-lmdb 3.0), so the
tree of pages is read here.

A row is a dictionary with ASE's names: ``numbers``, ``positions``, ``cell``, ``pbc``, ``key_value_pairs``, ``data`` and
results such as ``energy``. Damage raises ValueError, KeyError, TypeError, IndexError, `struct.error`, `zlib.error` or
`sqlite3.Error`.
"""

from __future__ import annotations

import json
import math
import mmap
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from transip.errors import InputError
from transip.io.frame import RawFrame

Row = dict[str, Any]
WRITTEN_BY_ASE = "give a database written by ase.db, or convert the file to extxyz"


def read_database(rows: Callable[[Path], Iterator[Row]], path: Path) -> Iterator[RawFrame]:
    """Frames of an ASE database, whose rows come from `rows`."""
    from ase.calculators.calculator import all_properties

    for row in rows(path):
        cell = row.get("cell")
        yield RawFrame(
            np.asarray(row["numbers"]),
            np.asarray(row["positions"]),
            cell.get("array") if isinstance(cell, dict) else cell,
            row.get("pbc", False),
            info=(row.get("key_value_pairs") or {}) | (row.get("data") or {}),
            results={name: row[name] for name in all_properties if row.get(name) is not None},
        )


# ---------------------------------------------------------------------------------------------- JSON with arrays


def loads_ndarray_json(text: str | bytes, blob: bytes = b"") -> Any:
    """JSON in which ``{"__ndarray__": [shape, dtype, values]}`` is an array.

    Args:
        text: the JSON.
        blob: where the numbers of the arrays are, if `values` is an offset.
    """

    def arrays(tree: dict[str, Any]) -> Any:
        if "__ndarray__" not in tree:
            return tree
        shape, kind, values = tree["__ndarray__"]
        return _array(shape, kind, values, blob)

    return json.loads(text, object_hook=arrays)


def _array(shape: Any, kind: Any, values: Any, blob: bytes) -> np.ndarray | None:
    """The array; None if it does not hold real numbers, which alone can be labels."""
    try:
        dtype = np.dtype(str(kind))
    except TypeError:
        return None
    if dtype.kind not in "biuf":
        return None
    if isinstance(values, int):
        return np.frombuffer(blob, dtype, math.prod(shape), values).reshape(shape)
    return np.array(values, dtype).reshape(shape)  # as many as there are, not as many as `shape` says


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of an ASE database that is a JSON file, in the order of its ``ids``.

    Raises:
        InputError: it is JSON of another kind.
    """
    rows = loads_ndarray_json(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, dict) or not {"ids", "1"} & rows.keys():
        raise InputError("is not an ASE database", where=str(path), remedy=WRITTEN_BY_ASE)
    numbers = np.asarray(rows.get("ids", [1])).tolist()
    yield from (rows[str(number)] for number in dict.fromkeys(numbers))


# ---------------------------------------------------------------------------------------------- SQLite


def _blob(kind: str, *shape: int) -> Callable[[Any], np.ndarray | None]:
    return lambda value: None if value is None else np.frombuffer(value, kind).reshape(shape)


def _tree(value: Any) -> Any:
    """JSON text or, in newer databases, arrays, JSON and, before both, where the JSON begins."""
    if isinstance(value, bytes):
        (start,) = struct.unpack_from("<q", value)
        return loads_ndarray_json(value[start:], value)
    return None if value is None else loads_ndarray_json(value)


def _scalar(value: Any) -> Any:
    return value


def _directions(bits: int | None) -> list[bool]:
    return [bool((bits or 0) >> axis & 1) for axis in range(3)]


SQLITE_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "numbers": _blob("<i4", -1),
    "positions": _blob("<f8", -1, 3),
    "pbc": _directions,
    "cell": _blob("<f8", 3, 3),
    "key_value_pairs": _tree,
    "data": _tree,
    "energy": _scalar,
    "free_energy": _scalar,
    "forces": _blob("<f8", -1, 3),
    "stress": _blob("<f8", -1),
    "dipole": _blob("<f8", -1),
    "magmom": _scalar,
    "magmoms": _blob("<f8", -1),
    "charges": _blob("<f8", -1),
}
SELECTING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)


def sqlite_rows(path: Path) -> Iterator[Row]:
    """Rows of an ASE database that is an SQLite file, by ascending id.

    Raises:
        InputError: it is the database of another program, or somebody is writing it.
    """
    for suffix in ("-wal", "-journal"):  # changes that an immutable view of the file would not show
        other = path.with_name(path.name + suffix)
        if other.exists() and other.stat().st_size:
            raise InputError(
                "is being written, or its writer was killed",
                where=str(path),
                remedy=f"wait until {other.name} is gone, or open the database once with ASE",
            )
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(path.stat().st_size, 1_000_000))
        # no function, recursion or attached file, whatever a view in the place of a table asks for
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in SELECTING else sqlite3.SQLITE_DENY)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "systems" not in tables:
            raise InputError("is not an ASE database", where=str(path), remedy=WRITTEN_BY_ASE)
        last = -1
        for number, *values in connection.execute(f"SELECT id, {', '.join(SQLITE_COLUMNS)} FROM systems ORDER BY id"):
            if number <= last:  # pages that lead back to themselves would never end
                raise ValueError(f"row {number} follows row {last}")
            last = number
            columns = zip(SQLITE_COLUMNS.items(), values, strict=True)
            yield {name: read(value) for (name, read), value in columns}


# ---------------------------------------------------------------------------------------------- LMDB

MAGIC, VERSION, NO_PAGE = 0xBEEFC0DE, 1, 2**64 - 1
BRANCH, LEAF, LARGE = 1, 2, 1  # flags of pages; of a value that has pages of its own
HEADER = 16  # bytes before the pointers or the value of a page
MAX_ROW_BYTES = 2**26  # bytes of one decompressed row: far above the largest molecules


def lmdb_rows(path: Path) -> Iterator[Row]:
    """Rows of an `.aselmdb` shard, by ascending id."""
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        value_slices = _lmdb_items(content)
        numbers = sorted(int(key) for key in value_slices if key.isdigit())
        following = _decompress(content[value_slices[b"nextid"]]) if b"nextid" in value_slices else 1
        deleted = _decompress(content[value_slices[b"deleted_ids"]]) if b"deleted_ids" in value_slices else []
        if len(numbers) != (expected := following - 1 - len(deleted)):
            raise ValueError(f"{len(numbers)} of {expected} rows are there")
        yield from (_decompress(content[value_slices[b"%d" % number]]) for number in numbers)


def _decompress(packed: bytes) -> Any:
    stream = zlib.decompressobj()
    text = stream.decompress(packed, MAX_ROW_BYTES)
    if not stream.eof:
        raise ValueError("a row is cut short or larger than any molecule")
    return loads_ndarray_json(text)


def _lmdb_items(content: mmap.mmap) -> dict[bytes, slice]:
    """Keys of an LMDB file and where their values are, by its tree of pages (layout of LMDB 0.9, 64 bits)."""
    if len(content) < HEADER + 136:
        raise ValueError("is too short for an LMDB file")
    (page_size,) = struct.unpack_from("<I", content, HEADER + 24)
    if page_size < 256 or 2 * page_size > len(content):
        raise ValueError("has no second page")
    # two pages describe the tree; the one with the higher transaction is valid
    metas = [struct.unpack_from("<II64xIH34xQQQ", content, HEADER + k * page_size) for k in (0, 1)]
    if any(meta[:2] != (MAGIC, VERSION) for meta in metas):
        raise ValueError("is not an LMDB file")
    *_, flags, root, last, _ = max(metas, key=lambda meta: meta[-1])
    if flags:
        raise ValueError("holds several values of one key")
    if (last + 1) * page_size > len(content):
        raise ValueError(f"{len(content)} of {(last + 1) * page_size} bytes are there")
    items: dict[bytes, slice] = {}
    stack, visited = [] if root == NO_PAGE else [root], set()
    while stack:
        page = stack.pop()
        if page > last or page in visited:
            raise ValueError(f"page {page} is not there, or twice")
        visited.add(page)
        for key, value in _lmdb_nodes(content, page, page_size):
            if isinstance(value, int):
                stack.append(value)
            elif key in items or value.stop > len(content):
                raise ValueError(f"{key!r} is there twice, or not in full")
            else:
                items[key] = value
    return items


def _lmdb_nodes(content: mmap.mmap, page: int, page_size: int) -> Iterator[tuple[bytes, int | slice]]:
    """Of a branch the pages below it, of a leaf its keys and where their values are."""
    base = page * page_size
    number, flags, lower = struct.unpack_from("<Q2xHH", content, base)
    if number != page or flags not in (BRANCH, LEAF) or not HEADER <= lower <= page_size:
        raise ValueError(f"page {page} is damaged")
    for pointer in struct.unpack_from(f"<{(lower - HEADER) // 2}H", content, base + HEADER):
        low, high, more, key_size = struct.unpack_from("<HHHH", content, base + pointer)
        start = base + pointer + 8 + key_size
        length = low | high << 16
        if flags == BRANCH:
            yield b"", length | more << 32
            continue
        if more == LARGE:
            start_page, *_ = struct.unpack_from("<Q", content, start)
            value = slice(HEADER + start_page * page_size, HEADER + start_page * page_size + length)
        elif more == 0:
            value = slice(start, start + length)
        else:
            raise ValueError(f"page {page} has values of another kind")
        yield content[base + pointer + 8 : base + pointer + 8 + key_size], value
