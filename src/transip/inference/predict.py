"""`transip predict`: label every structure of a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from ase.io.extxyz import key_val_dict_to_str
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from transip.config import BatchSettings, KeySettings
from transip.data.read import DEFAULT_KEYS
from transip.errors import InputError
from transip.files import atomic_path, output_lock
from transip.inference.ase import TransIPCalculator
from transip.inference.inference import INFERENCE, AveragedStructure, predict
from transip.structure import ELEMENTS, Structure

Item = TypeVar("Item")


def predict_file(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    keys: KeySettings = DEFAULT_KEYS,
    batch: BatchSettings = INFERENCE,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the structures of `source` to extxyz with predicted energies (eV) and forces (eV/Å).

    Memory does not grow with the file; `output` appears when it is complete. What was killed begins anew.

    Args:
        calculator: says which model, how, and what about structures outside its scope.
        source: any file that `transip.data.read` reads; labels in it are ignored.
        output: extxyz; each frame has charge, spin, energy and forces, from a rotational average or several models
            also the spreads ``energy_std`` and ``forces_std``, and what they stand for if that has been calibrated:
            ``energy_uncertainty``, ``forces_uncertainty`` and ``max_force_uncertainty``.
        keys: where charge and spin are stored in `source`.
        batch: limits of a batch.
        progress: show a progress bar.

    Returns:
        ``structures``, ``atoms``, ``seconds``, ``output``.

    Raises:
        InputError: a structure or the output cannot be used, or another process is writing the output.
    """
    check_extxyz(output)
    structures = calculator.read_file(source, keys)
    begin, count, atoms = time.perf_counter(), 0, 0
    with output_lock(output), atomic_path(output) as partial, partial.open("w", encoding="utf-8") as handle:
        for labelled in counted(
            predict(calculator.predictor, structures, batch, calculator.scope), "predict", progress
        ):
            write_frame(handle, labelled)
            count, atoms = count + 1, atoms + len(labelled)
    seconds = time.perf_counter() - begin
    return {"structures": count, "atoms": atoms, "seconds": seconds, "output": str(output)}


def check_extxyz(output: str | Path) -> Path:
    """`output`, which is going to be extxyz.

    Raises:
        InputError: its name says that it is something else.
    """
    output = Path(output)
    if output.suffix.lower() not in ("", ".xyz", ".extxyz"):
        raise InputError("is going to be an extxyz file", where=str(output), remedy="give it a name in .extxyz or .xyz")
    return output


def write_frame(handle: IO[str], labelled: Structure) -> None:
    """Append one structure with its labels to an open extxyz file."""
    handle.write(frame_text(labelled))


def frame_text(labelled: Structure) -> str:
    """One frame of extxyz, the same as ASE writes of a molecule with a calculator, in a fraction of the time."""
    assert labelled.forces is not None
    atoms = {"charge": labelled.charge, "spin": labelled.spin, "data_id": labelled.domain, "source": labelled.source}
    info: dict[str, Any] = {key: escaped(value) for key, value in atoms.items() if value != ""}  # or garbled
    columns, values = "species:S:1:pos:R:3", [labelled.positions]
    if isinstance(labelled, AveragedStructure):
        of_structure, of_atoms = labelled.spreads
        info |= of_structure
        columns += "".join(f":{name}:R:1" for name in of_atoms)
        values += [column[:, None] for column in of_atoms.values()]
    periodic = 3 * [False] if labelled.cell is None else [bool(vector.any()) for vector in labelled.cell]
    if labelled.cell is not None:
        info = {"Lattice": labelled.cell.T} | info  # ASE writes matrices by columns
    if labelled.stress is not None:
        info["stress"] = labelled.stress
    info |= {"energy": labelled.energy, "free_energy": labelled.energy, "pbc": " ".join("FT"[p] for p in periodic)}
    table = np.hstack([*values, labelled.forces])
    row = table.shape[1] * " %16.8f" + "\n"
    rows = "".join([f"{ELEMENTS[z]:<2}{row}" for z in labelled.numbers]) % tuple(table.ravel().tolist())
    return f"{len(labelled)}\nProperties={columns}:forces:R:3 {key_val_dict_to_str(info)}\n{rows}"


def escaped(value: int | str) -> int | str:
    """With the backslashes of SMILES doubled: extxyz takes one for the mark that the next character is text."""
    return value.replace("\\", "\\\\") if isinstance(value, str) else value


def counted(items: Iterable[Item], title: str, progress: bool, total: int | None = None) -> Iterator[Item]:
    """Pass `items` on, counting them on the terminal's error stream if `progress` is true."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        yield from bar.track(items, total=total, description=title)
