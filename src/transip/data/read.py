"""Labelled structures from extxyz files, ASE databases, OMol25's `.aselmdb` shards and packed datasets.

Readers differ only in how they turn a file into `Record`s; what is a label, a charge or an error is decided
once. Nothing is unpickled and no input is written to.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress

from transip.config import KeySettings, UnitSettings
from transip.data.databases import Row, json_rows, lmdb_rows, sqlite_rows
from transip.data.store import Pack
from transip.data.units import ENERGY, LENGTH, check_lengths, check_units, force_unit
from transip.errors import InputError, printable
from transip.structure import Structure, parse_int, periodic_cell

Labels = Literal["required", "optional", "ignored"]
USUAL_KEYS = {
    "energy": ("energy", "REF_energy"),
    "forces": ("forces", "REF_forces"),
    "stress": ("stress", "REF_stress"),
}
DEFAULT_KEYS, DEFAULT_UNITS = KeySettings.model_validate({}), UnitSettings.model_validate({})
GIVE_IT = "add it to the file or give it for every structure (--{name}, {name}=...)"
SAMPLE = 64  # structures by which units are judged
LONGEST = 1000  # characters of a name
PLAIN = re.compile(r"species:S:1:pos:R:3(?::(\w*forces):R:3)?")  # columns of most extxyz files
PAIR = re.compile(r"""(\w+=(?:"[^"\\]*"|[^\s"'\\{}\[\]=]+))(?:\s+|$)""")  # key=value or key="text" of their comments


@dataclass(frozen=True, eq=False)
class Record:
    """One entry of a file as it stands there: nothing converted, nothing checked."""

    numbers: np.ndarray
    positions: np.ndarray
    cell: Any
    pbc: Any
    info: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    comment: str = ""

    def text(self, key: str) -> str | None:
        """What stands there as `key`, to the letter: ASE reads numbers and truth values into names such as 007 or F."""
        value = self.info.get(key)
        if value is None or isinstance(value, str) or PAIR.sub("", self.comment.strip()):
            return None if value is None else str(value)
        pairs = dict(pair.split("=", 1) for pair in PAIR.findall(self.comment))
        return pairs.get(key, str(value)).strip('"')

    @property
    def keys(self) -> list[str]:
        """Names of everything that could be a label."""
        return sorted(({*self.info, *self.arrays, *self.results}) - {"numbers", "positions"})

    def values(self, key: str | None, label: str) -> list[tuple[str, Any]]:
        """Candidates for `label`: what is stored as `key`, or under the usual names if `key` is None."""
        names = USUAL_KEYS[label] if key is None else (key,)
        places = (self.results, self.info, self.arrays)
        return [(name, place[name]) for name in names for place in places if place.get(name) is not None]


def read_structures(
    path: str | Path,
    keys: KeySettings = DEFAULT_KEYS,
    units: UnitSettings = DEFAULT_UNITS,
    *,
    labels: Labels = "required",
    charge: int | None = None,
    spin: int | None = None,
    when_missing: str = GIVE_IT,
) -> Iterator[Structure]:
    """Structures of a file or folder one after another, in eV and Å, each checked.

    Args:
        path: `.xyz` / `.extxyz`, an ASE database (`.db`, `.json`), an `.aselmdb` shard, a folder of shards,
            or a pack.
        keys: where labels, charge and spin are stored; not used for packs.
        units: in which the file is written; not used for packs.
        labels: whether a structure without energy or forces is an error; ignored: structures come without labels.
        charge: total charge of every structure, in place of what the file says.
        spin: multiplicity of every structure, likewise.
        when_missing: how users of the caller can supply the ``{name}`` (charge or spin) that a file does not hold.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt or of an unknown kind; a structure is
            impossible; charge, spin or a required label is missing or ambiguous; the units cannot
            be right.
    """
    path = Path(path)
    given = {name: value for name, value in (("charge", charge), ("spin", spin)) if value is not None}
    if is_pack(path):
        yield from _from_pack(Pack.open(path), path, labels, given)
        return
    records = _records(path)
    if given:
        said = {getattr(keys, name): value for name, value in given.items()}
        records = ((where, replace(record, info=record.info | said)) for where, record in records)
    structures = (_structure(record, keys, units, labels, when_missing, where) for where, record in records)
    sample = list(islice(structures, SAMPLE))
    if labels == "ignored":
        check_lengths(sample, units, str(path), remedy="write the file in Å")
    else:
        check_units(sample, units, str(path))
    yield from chain(sample, structures)


def keys_found(path: str | Path, keys: KeySettings = DEFAULT_KEYS) -> dict[str, list[str]]:
    """Which keys of a file stand for what, by its first structure; ``"unused"`` lists the others.

    Raises:
        InputError: as `read_structures`.
    """
    _, record = next(_records(Path(path)))
    wanted = {label: [name for name, _ in record.values(getattr(keys, label), label)] for label in USUAL_KEYS}
    wanted |= {name: [getattr(keys, name)] for name in ("charge", "spin", "domain", "source")}
    found = {label: [key for key in dict.fromkeys(names) if key in record.keys] for label, names in wanted.items()}
    if not found["stress"]:  # which most files have no place for
        del found["stress"]
    used = set(chain.from_iterable(found.values()))
    return found | {"unused": [key for key in record.keys if key not in used]}


def is_pack(path: str | Path) -> bool:
    """Whether `path` is a packed dataset, or claims to be one by its name."""
    return Path(path).suffix == ".pack" or (Path(path) / "meta.json").is_file()


# ---------------------------------------------------------------------------------------------- one structure


def _structure(
    record: Record, keys: KeySettings, units: UnitSettings, labels: Labels, when_missing: str, where: str
) -> Structure:
    numbers, positions, cell = _geometry(record, where)
    energy = forces = stress = None
    if labels != "ignored":
        energy = _label(record, keys.energy, "energy", (), labels, where)
        forces = _label(record, keys.forces, "forces", (len(numbers), 3), labels, where)
        stress = None if cell is None or not cell.any(1).all() else _stress(record, keys, units, where)
    source = record.text(keys.source)
    return Structure(
        numbers=numbers,
        positions=positions * LENGTH[units.length],
        charge=_whole_number(record, "charge", (keys.charge,), when_missing, where),
        spin=_whole_number(record, "spin", (keys.spin, "spin_multiplicity"), when_missing, where),
        energy=None if energy is None else float(energy) * ENERGY[units.energy],
        forces=None if forces is None else forces * force_unit(units),
        cell=None if cell is None else cell * LENGTH[units.length],
        stress=stress,
        domain=printable(record.text(keys.domain) or "")[:LONGEST],
        source=printable(where.rpartition("/")[2] if source is None else source)[:LONGEST],
    ).check(where)


def _geometry(record: Record, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Elements, positions and periodic lattice vectors as they stand in the file."""
    try:
        numbers = np.asarray(record.numbers).astype(np.int64, casting="same_kind").reshape(-1)
        positions = np.array(record.positions, dtype=np.float64).reshape(len(numbers), 3)
        if not np.any(record.pbc):
            return numbers, positions, None
        cell = np.zeros((3, 3)) if record.cell is None else np.array(record.cell, dtype=np.float64).reshape(3, 3)
        return numbers, positions, periodic_cell(cell, record.pbc, where)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            "does not have one atomic number and three coordinates per atom, and a sound cell if it is periodic",
            where=where,
            remedy="the file is corrupt: recreate it, or leave the structure out",
        ) from None


def _whole_number(record: Record, name: str, keys: tuple[str, ...], when_missing: str, where: str) -> int:
    value = next((record.info[key] for key in keys if record.info.get(key) is not None), None)
    if value is None:
        raise InputError(
            f"{name} is missing: there is no {keys[0]!r}",
            where=where,
            remedy=f"{when_missing.format(name=name)}; keys that exist: {_listing(record)}",
        )
    return parse_int(value, name, where)


def _label(
    record: Record, key: str | None, label: str, shape: tuple[int, ...], labels: Labels, where: str
) -> np.ndarray | None:
    found = _value(record, key, label, labels == "optional", where)
    if found is None:
        return None
    try:
        return np.array(found[1], dtype=np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{label} ({found[0]!r}) is not {'one number' if shape == () else 'three numbers per atom'}",
            where=where,
            remedy=f"name another key (--{label}-key, keys.{label}); keys that exist: {_listing(record)}",
        ) from None


def _value(record: Record, key: str | None, label: str, optional: bool, where: str) -> tuple[str, Any] | None:
    """Key and value of `label` as it stands there; None if it is `optional`, has no `key` of its own and is missing."""
    found = record.values(key, label)
    if not found:
        if optional and key is None:
            return None
        raise InputError(
            f"has no {label}: there is no {' or '.join(map(repr, (key,) if key else USUAL_KEYS[label]))}",
            where=where,
            remedy=f"name its key (--{label}-key, keys.{label}); keys that exist: {_listing(record)}",
        )
    if any(not np.array_equal(value, found[0][1]) for _, value in found[1:]):
        raise InputError(
            f"{label} is ambiguous: {' and '.join(dict.fromkeys(repr(name) for name, _ in found))} differ",
            where=where,
            remedy=f"say which one to use (--{label}-key, keys.{label}), or remove one of equal name",
        )
    return found[0]


def _stress(record: Record, keys: KeySettings, units: UnitSettings, where: str) -> np.ndarray | None:
    """As a matrix in eV/Å³, from six (xx, yy, zz, yz, xz, xy) or nine numbers; None if there is none."""
    found = _value(record, keys.stress, "stress", True, where)
    if found is None:
        return None
    try:
        values = np.array(found[1], dtype=np.float64).ravel()
        matrix = voigt_6_to_full_3x3_stress(values) if values.size == 6 else values.reshape(3, 3)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"stress ({found[0]!r}) is neither six nor nine numbers", where=where, remedy="correct or remove it"
        ) from None
    return (matrix + matrix.T) / 2 * ENERGY[units.energy] / LENGTH[units.length] ** 3


def _listing(record: Record) -> str:
    return printable(", ".join(map(str, record.keys)))[:LONGEST] or "none"


def _from_pack(pack: Pack, path: Path, labels: Labels, given: dict[str, int]) -> Iterator[Structure]:
    if labels == "required" and not pack.labelled:
        raise InputError("has no energies and forces", where=str(path), remedy="give a labelled pack")
    for i in range(len(pack)):
        structure = pack.structure(i)
        without = {"energy": None, "forces": None, "stress": None} if labels == "ignored" else {}
        changed = replace(structure, source=printable(structure.source), **given, **without)
        yield changed.check(f"{path}, structure {i}")


# ---------------------------------------------------------------------------------------------- files


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    """(how messages name it, record) of everything at `path`; a reader that fails means a damaged file."""
    for file in _files(path):
        number = 0
        try:
            for record in _READERS[file.suffix.lower()](file):
                yield f"{file}, structure {number}", record
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


def _files(path: Path) -> list[Path]:
    """The files to read: `path` itself or, of a folder, its shards in the order of their numbers."""
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


def _read_extxyz(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as handle:
        for number, frame in enumerate(_frames(handle)):
            try:
                yield _plain_frame(frame) or _any_frame(frame)
            except KeyError as error:
                raise InputError(
                    f"has an unknown element or column type {error}",
                    where=f"{path}, structure {number}",
                    remedy="use element symbols H to Rn",
                ) from error


def _frames(handle: IO[str]) -> Iterator[list[str]]:
    """The lines of one structure after another; ASE would go through the whole file first."""
    head = handle.readline()
    while head.strip():
        frame = [head, *islice(handle, int(head) + 1)]
        while (head := handle.readline()).lstrip().startswith("VEC"):
            frame.append(head)
        yield frame
    if handle.read().strip():
        raise ValueError("text follows an empty line")


def _plain_frame(frame: list[str]) -> Record | None:
    """A molecule with nothing per atom but perhaps forces, several times faster than through ASE; None if it is not."""
    info = _info(frame[1]) if frame[1:] and not frame[1].isspace() else {}
    columns = PLAIN.fullmatch(str(info.pop("Properties", "species:S:1:pos:R:3")))
    if columns is None or "Lattice" in info:
        return None
    width = 4 if columns[1] is None else 7
    words, atoms = "".join(frame[2:]).split(), int(frame[0])
    if not words or len(frame) != atoms + 2 or len(words) != atoms * width:
        return None
    try:
        numbers = np.array([atomic_numbers[symbol.capitalize()] for symbol in words[::width]])
        del words[::width]
        values = np.array(list(map(float, words))).reshape(atoms, width - 1)
    except (KeyError, ValueError):  # let ASE say what is wrong
        return None
    arrays = {} if columns[1] is None else {columns[1]: values[:, 3:]}
    return Record(numbers, values[:, :3], None, info.pop("pbc", False), info, arrays, comment=frame[1])


def _info(comment: str) -> dict[str, Any]:
    """Keys and values of a comment, as ASE reads them; most pairs are the same from structure to structure."""
    comment = comment.strip()
    if PAIR.sub("", comment):  # brackets, escapes, bare words
        return dict(_parsed(comment))
    return {key: value for pair in PAIR.findall(comment) for key, value in _parsed(pair).items()}


@lru_cache(1024)
def _parsed(text: str) -> dict[str, Any]:
    from ase.io.extxyz import key_val_str_to_dict

    return key_val_str_to_dict(text)


def _any_frame(frame: list[str]) -> Record:
    from ase.io.extxyz import read_extxyz

    # ASE makes a list as long as the columns that a file announces, be they 10¹⁹
    announced = str(_info(frame[1]).get("Properties", "")).split(":")[2::3] if frame[1:] else []
    if sum(map(int, announced)) > max((len(row.split()) for row in frame[2:3]), default=0):
        raise ValueError("Properties announces more columns than there are")
    (atoms,) = read_extxyz(io.StringIO("".join(frame)), index=slice(None))  # pyright: ignore[reportArgumentType]
    results = dict(atoms.calc.results) if atoms.calc else {}
    cell, arrays = atoms.cell.array, dict(atoms.arrays)
    return Record(atoms.numbers, atoms.positions, cell, atoms.pbc, atoms.info, arrays, results, frame[1])


def _read_rows(rows: Callable[[Path], Iterator[Row]], path: Path) -> Iterator[Record]:
    from ase.calculators.calculator import all_properties

    for row in rows(path):
        cell = row.get("cell")
        yield Record(
            np.asarray(row["numbers"]),
            np.asarray(row["positions"]),
            cell.get("array") if isinstance(cell, dict) else cell,
            row.get("pbc", False),
            info=(row.get("key_value_pairs") or {}) | (row.get("data") or {}),
            results={name: row[name] for name in all_properties if row.get(name) is not None},
        )


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".xyz": _read_extxyz,
    ".extxyz": _read_extxyz,
    ".db": partial(_read_rows, sqlite_rows),
    ".json": partial(_read_rows, json_rows),
    ".aselmdb": partial(_read_rows, lmdb_rows),
}
