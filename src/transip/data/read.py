"""Labelled structures from extxyz files, ASE databases, OMol25's `.aselmdb` shards and packed datasets.

`transip.io` turns files into `RawFrame`s; which values are labels, charge and spin is decided here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from transip.config import KeySettings, UnitSettings
from transip.data.store import Pack
from transip.data.units import DIPOLE, ENERGY, LENGTH, check_lengths, check_units, force_unit
from transip.errors import InputError, InputWarning, printable
from transip.io.files import read_frames
from transip.io.frame import RawFrame
from transip.structure import LABELS, Structure, parse_int, periodic_cell

Labels = Literal["required", "optional", "ignored"]
OnBad = Callable[[InputError], None]
USUAL_KEYS = {
    "energy": ("energy", "REF_energy"),
    "forces": ("forces", "REF_forces"),
    "stress": ("stress", "REF_stress"),
    "charges": ("charges",),
    "spin_populations": ("magmoms",),
    "dipole": ("dipole",),
}
SHAPES = {"energy": "one number", "forces": "three numbers per atom", "dipole": "three numbers"}
SHAPES |= dict.fromkeys(("charges", "spin_populations"), "one number per atom")
CHARGE_TOLERANCE = 0.01  # e, times √atoms: what rounding to two decimals can do to a sum
DEFAULT_KEYS, DEFAULT_UNITS = KeySettings.model_validate({}), UnitSettings.model_validate({})
GIVE_IT = "add it to the file or give it for every structure (--{name}, {name}=...)"
SAMPLE = 64  # structures by which units are judged
LONGEST = 1000  # characters of a name


def read_structures(
    path: str | Path,
    keys: KeySettings = DEFAULT_KEYS,
    units: UnitSettings = DEFAULT_UNITS,
    *,
    labels: Labels = "required",
    charge: int | None = None,
    spin: int | None = None,
    when_missing: str = GIVE_IT,
    on_bad: OnBad | None = None,
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
        on_bad: is told about each structure that cannot be used, which is then left out; None: it is an error.

    Warns (`InputWarning`) of partial charges that do not sum to the total charge, which are left out, and of named
    labels that no structure has.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt or of an unknown kind; a structure is
            impossible; charge, spin or a required label is missing or ambiguous; the units cannot
            be right.
    """
    path = Path(path)
    given = {name: value for name, value in (("charge", charge), ("spin", spin)) if value is not None}
    if is_pack(path):
        yield from _read_pack(Pack.open(path), path, labels, given)
        return
    frames = read_frames(path)
    if given:
        said = {getattr(keys, name): value for name, value in given.items()}
        frames = ((where, replace(frame, info=frame.info | said)) for where, frame in frames)
    convert = partial(_structure, keys=keys, units=units, labels=labels, when_missing=when_missing)
    structures = _convert(frames, convert, on_bad)
    sample = list(islice(structures, SAMPLE))
    if labels == "ignored":
        check_lengths(sample, units, str(path), remedy="write the file in Å")
    else:
        check_units(sample, units, str(path))
    optional = ("charges", "spin_populations", "dipole") if labels != "ignored" else ()
    absent = {name: key for name in optional if (key := getattr(keys, name))}
    for structure in chain(sample, structures):
        absent = {name: key for name, key in absent.items() if getattr(structure, name) is None}
        yield structure
    for name, key in absent.items():
        warnings.warn(f"{path}: no structure has {name}: there is no usable {key!r}", InputWarning, stacklevel=2)


def inspect_keys(path: str | Path, keys: KeySettings = DEFAULT_KEYS) -> dict[str, list[str]]:
    """Which keys of a file stand for what, by its first structure; ``"unused"`` lists the others.

    Raises:
        InputError: as `read_structures`.
    """
    _, frame = next(read_frames(Path(path)))
    candidates = {
        label: [name for name, _ in frame.lookup(*_names(getattr(keys, label), label))] for label in USUAL_KEYS
    }
    candidates |= {name: [getattr(keys, name)] for name in ("charge", "spin", "domain", "source")}
    present = {label: [key for key in dict.fromkeys(names) if key in frame.keys] for label, names in candidates.items()}
    for label in USUAL_KEYS.keys() - {"energy", "forces"}:  # which most files have no place for
        if not present[label] and getattr(keys, label) is None:
            del present[label]
    used = set(chain.from_iterable(present.values()))
    return present | {"unused": [key for key in frame.keys if key not in used]}


def missing_keys(path: str | Path, keys: KeySettings = DEFAULT_KEYS) -> dict[str, str]:
    """Which of charge and spin the first structure of a file lacks, with the key under which it was looked for.

    Raises:
        InputError: as `read_structures`.
    """
    _, frame = next(read_frames(Path(path)))
    accepted = _charge_and_spin(keys).items()
    return {name: names[0] for name, names in accepted if all(frame.info.get(key) is None for key in names)}


def is_pack(path: str | Path) -> bool:
    """Whether `path` is a packed dataset, or claims to be one by its name."""
    return Path(path).suffix == ".pack" or (Path(path) / "meta.json").is_file()


# ---------------------------------------------------------------------------------------------- one structure


def _convert(
    frames: Iterable[tuple[str, RawFrame]], convert: Callable[..., Structure], on_bad: OnBad | None
) -> Iterator[Structure]:
    warned = False
    for where, frame in frames:
        try:
            structure = convert(frame, where=where)
        except InputError as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        total = structure.charge if structure.charges is None else structure.charges.sum()
        if abs(total - structure.charge) > CHARGE_TOLERANCE * len(structure) ** 0.5:
            structure = replace(structure, charges=None)
            problem = f"partial charges sum to {total:+.2f} e, the total charge is {structure.charge:+d} e"
            if not warned:
                warnings.warn(f"{where}: {problem}; such are left out", InputWarning, stacklevel=2)
            warned = True
        yield structure


def _structure(
    frame: RawFrame, keys: KeySettings, units: UnitSettings, labels: Labels, when_missing: str, where: str
) -> Structure:
    numbers, positions, cell = _geometry(frame, where)
    energy = forces = stress = charges = spin_populations = dipole = None
    if labels != "ignored":
        energy = _label(frame, keys.energy, "energy", (), labels, where)
        forces = _label(frame, keys.forces, "forces", (len(numbers), 3), labels, where)
        charges = _label(frame, keys.charges, "charges", (len(numbers),), "optional", where)
        spin_populations = _label(frame, keys.spin_populations, "spin_populations", (len(numbers),), "optional", where)
        stress = None if cell is None or not cell.any(1).all() else _stress(frame, keys, units, where)
        dipole = None if cell is not None else _label(frame, keys.dipole, "dipole", (3,), "optional", where)
    source = frame.text(keys.source)
    structure = Structure(
        numbers=numbers,
        positions=positions * LENGTH[units.length],
        charge=_integer(frame, "charge", _charge_and_spin(keys)["charge"], when_missing, where),
        spin=_integer(frame, "spin", _charge_and_spin(keys)["spin"], when_missing, where),
        energy=None if energy is None else float(energy) * ENERGY[units.energy],
        forces=None if forces is None else forces * force_unit(units),
        cell=None if cell is None else cell * LENGTH[units.length],
        stress=stress,
        charges=charges,
        spin_populations=spin_populations,
        dipole=None if dipole is None else dipole * DIPOLE[units.dipole or f"e*{units.length}"],
        domain=printable(frame.text(keys.domain) or "")[:LONGEST],
        source=printable(where.rpartition("/")[2] if source is None else source)[:LONGEST],
    ).check(where)
    if structure.dipole is None:
        return structure
    return replace(structure, dipole=structure.dipole - structure.charge * structure.center_of_mass)  # was about origin


def _geometry(frame: RawFrame, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Elements, positions and periodic lattice vectors as they stand in the file."""
    try:
        numbers = np.asarray(frame.numbers).astype(np.int64, casting="same_kind").reshape(-1)
        positions = np.array(frame.positions, dtype=np.float64).reshape(len(numbers), 3)
        if not np.any(frame.pbc):
            return numbers, positions, None
        cell = np.zeros((3, 3)) if frame.cell is None else np.array(frame.cell, dtype=np.float64).reshape(3, 3)
        return numbers, positions, periodic_cell(cell, frame.pbc, where)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            "does not have one atomic number and three coordinates per atom, and a sound cell if it is periodic",
            where=where,
            remedy="the file is corrupt: recreate it, or leave the structure out",
        ) from None


def _integer(frame: RawFrame, name: str, keys: tuple[str, ...], when_missing: str, where: str) -> int:
    value = next((frame.info[key] for key in keys if frame.info.get(key) is not None), None)
    if isinstance(value, np.ndarray | list) and np.size(value) == 1:  # as SchNetPack's databases hold every number
        value = np.ravel(value)[0]
    if value is None:
        raise InputError(
            f"{name} is missing: there is no {keys[0]!r}",
            where=where,
            remedy=f"{when_missing.format(name=name)}; keys that exist: {_listing(frame)}",
        )
    return parse_int(value, name, where)


def _label(
    frame: RawFrame, key: str | None, label: str, shape: tuple[int, ...], labels: Labels, where: str
) -> np.ndarray | None:
    stored = _value(frame, key, label, labels == "optional", where)
    if stored is None:
        return None
    try:
        return np.array(stored[1], dtype=np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{label} ({stored[0]!r}) is not {SHAPES[label]}",
            where=where,
            remedy=f"name another key (--{label}-key, keys.{label}); keys that exist: {_listing(frame)}",
        ) from None


def _value(frame: RawFrame, key: str | None, label: str, optional: bool, where: str) -> tuple[str, Any] | None:
    """Key and value of `label` as it stands there; None if it is `optional` and missing.

    What has a `key` of its own must not be missing, but for what many structures of a file have not.
    """
    candidates = frame.lookup(*_names(key, label))
    if not candidates:
        if optional and (key is None or label in ("charges", "spin_populations", "dipole")):
            return None
        raise InputError(
            f"has no {label}: there is no {' or '.join(map(repr, _names(key, label)))}",
            where=where,
            remedy=f"name its key (--{label}-key, keys.{label}); keys that exist: {_listing(frame)}",
        )
    if any(not np.array_equal(value, candidates[0][1]) for _, value in candidates[1:]):
        raise InputError(
            f"{label} is ambiguous: {' and '.join(dict.fromkeys(repr(name) for name, _ in candidates))} differ",
            where=where,
            remedy=f"say which one to use (--{label}-key, keys.{label}), or remove one of equal name",
        )
    return candidates[0]


def _stress(frame: RawFrame, keys: KeySettings, units: UnitSettings, where: str) -> np.ndarray | None:
    """As a matrix in eV/Å³, from six (xx, yy, zz, yz, xz, xy) or nine numbers; None if there is none."""
    stored = _value(frame, keys.stress, "stress", True, where)
    if stored is None:
        return None
    try:
        values = np.array(stored[1], dtype=np.float64).ravel()
        matrix = voigt_6_to_full_3x3_stress(values) if values.size == 6 else values.reshape(3, 3)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"stress ({stored[0]!r}) is neither six nor nine numbers", where=where, remedy="correct or remove it"
        ) from None
    return (matrix + matrix.T) / 2 * ENERGY[units.energy] / LENGTH[units.length] ** 3


def _charge_and_spin(keys: KeySettings) -> dict[str, tuple[str, ...]]:
    return {"charge": (keys.charge,), "spin": (keys.spin, "spin_multiplicity")}


def _names(key: str | None, label: str) -> tuple[str, ...]:
    """Where `label` may be: stored as `key`, or under the usual names."""
    return USUAL_KEYS[label] if key is None else (key,)


def _listing(frame: RawFrame) -> str:
    return printable(", ".join(map(str, frame.keys)))[:LONGEST] or "none"


def _read_pack(pack: Pack, path: Path, labels: Labels, given: dict[str, int]) -> Iterator[Structure]:
    if labels == "required" and not pack.labelled:
        raise InputError("has no energies and forces", where=str(path), remedy="give a labelled pack")
    for i in range(len(pack)):
        structure = pack[i]
        without = dict.fromkeys(LABELS) if labels == "ignored" else {}
        changed = replace(structure, source=printable(structure.source), **given, **without)
        yield changed.check(f"{path}, structure {i}")
