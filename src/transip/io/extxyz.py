"""Extended XYZ: frames read and written one by one, in bounded memory, as ASE would.

Molecules with few columns, most of what there is, are parsed here several times faster than by ASE; every other frame
goes through ASE.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Shaped

from transip.errors import InputError
from transip.io.frame import QUOTED, RawFrame
from transip.structure import ELEMENTS, Structure

FAST_COLUMNS = re.compile(r"species:S:1:pos:R:3((?::(?:\w*forces:R:3|charges?:R:1|magmoms:R:1))*)")  # of `_parse_fast`
SIMPLE_PAIR = re.compile(r"""(\w+=(?:"[^"\\]*"|[^\s"'\\{}\[\]=]+))(?:\s+|$)""")  # key=value or key="text"
EMPTY_VALUE = re.compile(rf"({QUOTED})|(?<!\S)[^\s=\"']+=(?=\s+[^\s=\"']+=|\s*$)")
TENSOR = re.compile(r"(?<!\S)(?:stress|virial)=(?:\"([^\"]*)\"|'([^']*)'|\[([^\]]*)\]|\{([^}]*)\})")


def read_extxyz(path: Path) -> Iterator[RawFrame]:
    """Frames of an extxyz file, one after another.

    Raises:
        InputError: an element or a column type is unknown.
        Exception: of any other kind, as the damage of the file will have it.
    """
    with path.open(encoding="utf-8-sig") as handle:
        for number, lines in enumerate(_split_frames(handle)):
            try:
                yield _parse_fast(lines) or _parse_with_ase(lines)
            except KeyError as error:
                raise InputError(
                    f"has an unknown element or column type {error}",
                    where=f"{path}, structure {number}",
                    remedy="use element symbols H to Rn",
                ) from error


def format_frame(
    structure: Structure,
    info: Mapping[str, Any] | None = None,
    columns: Mapping[str, Shaped[np.ndarray, "atoms"]] | None = None,
) -> str:
    """One frame of extxyz, the same as ASE writes of a molecule with a calculator, in a fraction of the time.

    Args:
        structure: what to write, with its labels if it has any: eV, Å, eV/Å, eV/Å³, e, e·Å (about the origin).
        info: more values of the structure, written after its charge, spin, domain and source.
        columns: more values per atom, between positions and forces.
    """
    names = {"charge": structure.charge, "spin": structure.spin, "data_id": structure.domain}
    names["source"] = structure.source
    pairs: dict[str, Any] = {
        key: escape(value) for key, value in names.items() if value != ""
    }  # ASE garbles empty text
    pairs |= info or {}
    periodic = 3 * [False] if structure.cell is None else [bool(vector.any()) for vector in structure.cell]
    if structure.cell is not None:
        pairs = {"Lattice": structure.cell.T} | pairs  # ASE writes matrices by columns
    if structure.stress is not None:
        pairs["stress"] = structure.stress
    if structure.energy is not None:
        pairs |= {"energy": structure.energy, "free_energy": structure.energy}
    if structure.dipole is not None:
        pairs["dipole"] = structure.dipole + structure.charge * structure.center_of_mass
    pairs["pbc"] = " ".join("FT"[p] for p in periodic)
    properties, table = "species:S:1:pos:R:3", [structure.positions]
    labels = {"charge": structure.charges, "magmoms": structure.spin_populations}  # ASE's names in files
    for name, values in {**(columns or {}), **labels}.items():
        if values is not None:
            properties, table = f"{properties}:{name}:R:1", [*table, values[:, None]]
    if structure.forces is not None:
        properties, table = f"{properties}:forces:R:3", [*table, structure.forces]
    numbers = np.hstack(table)
    row = numbers.shape[1] * " %16.8f" + "\n"
    rows = "".join([f"{ELEMENTS[z]:<2}{row}" for z in structure.numbers]) % tuple(numbers.ravel().tolist())
    return f"{len(structure)}\nProperties={properties} {_format_pairs(pairs)}\n{rows}"


def escape(value: int | str) -> int | str:
    """With a backslash before each backslash (of SMILES, say) and before an "=" at the end, where ASE misreads it."""
    return re.sub(r"(\\|=$)", r"\\\1", value) if isinstance(value, str) else value


def check_extxyz(output: str | Path) -> Path:
    """`output`, which is going to be extxyz.

    Raises:
        InputError: its name says that it is something else.
    """
    output = Path(output)
    if output.suffix.lower() not in ("", ".xyz", ".extxyz"):
        raise InputError("is going to be an extxyz file", where=str(output), remedy="give it a name in .extxyz or .xyz")
    return output


def _format_pairs(pairs: dict[str, Any]) -> str:
    from ase.io.extxyz import key_val_dict_to_str

    return key_val_dict_to_str(pairs)


def _split_frames(handle: IO[str]) -> Iterator[list[str]]:
    """The lines of one structure after another; ASE would go through the whole file first."""
    head = handle.readline()
    while head.strip():
        lines = [head, *islice(handle, int(head) + 1)]
        while (head := handle.readline()).lstrip().startswith("VEC"):
            lines.append(head)
        yield lines
    if handle.read().strip():
        raise ValueError("text follows an empty line")


def _parse_fast(lines: list[str]) -> RawFrame | None:
    """A molecule with nothing per atom but perhaps forces, charges and spins; None if it is anything else."""
    info = _parse_comment(lines[1]) if lines[1:] and not lines[1].isspace() else {}
    columns = FAST_COLUMNS.fullmatch(str(info.pop("Properties", "species:S:1:pos:R:3")))
    if columns is None or "Lattice" in info:
        return None
    widths = {name: int(width) for name, width in re.findall(r":(\w+):R:(\d)", columns[1])}
    words, atoms, width = "".join(lines[2:]).split(), int(lines[0]), 4 + sum(widths.values())
    if not words or len(lines) != atoms + 2 or len(words) != atoms * width:
        return None
    try:
        numbers = np.array([atomic_numbers[symbol.capitalize()] for symbol in words[::width]])
        del words[::width]
        values = np.array(list(map(float, words))).reshape(atoms, width - 1)
    except (KeyError, ValueError):  # let ASE say what is wrong
        return None
    positions, *more = np.split(values, np.cumsum([3, *widths.values()])[:-1], axis=1)
    arrays = {"charges" if name == "charge" else name: value for name, value in zip(widths, more, strict=True)}
    return RawFrame(numbers, positions, None, info.pop("pbc", False), info, arrays, comment=lines[1])


def _parse_with_ase(lines: list[str]) -> RawFrame:
    from ase.io.extxyz import read_extxyz as read_with_ase

    # ASE makes a list as long as the columns that a file announces, be they 10¹⁹
    announced = str(_parse_comment(lines[1]).get("Properties", "")).split(":")[2::3] if lines[1:] else []
    if sum(map(int, announced)) > max((len(row.split()) for row in lines[2:3]), default=0):
        raise ValueError("Properties announces more columns than there are")
    every: Any = slice(None)  # ASE's annotation knows a number only
    (atoms,) = read_with_ase(io.StringIO("".join(lines)), every, _parse_comment)
    results = dict(atoms.calc.results) if atoms.calc else {}
    cell, arrays = atoms.cell.array, dict(atoms.arrays)
    return RawFrame(atoms.numbers, atoms.positions, cell, atoms.pbc, atoms.info, arrays, results, lines[1])


def _parse_comment(comment: str) -> dict[str, Any]:
    """Keys and values of a comment, as ASE reads them; most pairs are the same from structure to structure.

    Unlike ASE, leaves a key without a value out, where ASE takes the next pair for its value, and accepts a stress of
    six numbers.
    """
    comment = EMPTY_VALUE.sub(lambda match: match[1] or "", comment).strip()
    if SIMPLE_PAIR.sub("", comment):  # brackets, escapes, bare words
        return dict(_parse_pairs(comment))
    return {key: value for pair in SIMPLE_PAIR.findall(comment) for key, value in _parse_pairs(pair).items()}


@lru_cache(1024)
def _parse_pairs(text: str) -> dict[str, Any]:
    from ase.io.extxyz import key_val_str_to_dict

    def rename(match: re.Match[str]) -> str:
        words = next(group for group in match.groups() if group is not None).replace(",", " ").split()
        return f"voigt_{match[0]}" if len(words) == 6 else match[0]

    pairs = key_val_str_to_dict(TENSOR.sub(rename, text))
    return {key.removeprefix("voigt_"): value for key, value in pairs.items()}
