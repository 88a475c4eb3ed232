"""`transip relax`: move every structure of a file to its nearest minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ase
import numpy as np
from ase.optimize import FIRE, LBFGS

from transip.calculators.ase import TransIPCalculator
from transip.calculators.inference import Precision, warn_if_direct
from transip.calculators.predict import counted, write_frame
from transip.calculators.scope import Unseen
from transip.config import KeySettings
from transip.data.read import DEFAULT_KEYS, read_structures
from transip.errors import InputError
from transip.files import atomic_path
from transip.structure import Structure

OPTIMIZERS: dict[str, Callable[..., Any]] = {"LBFGS": LBFGS, "FIRE": FIRE}


def relax_file(
    model: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: Literal["LBFGS", "FIRE"] = "LBFGS",
    keys: KeySettings = DEFAULT_KEYS,
    charge: int | None = None,
    spin: int | None = None,
    device: str = "cpu",
    dtype: Precision = "float32",
    unseen: Unseen = "warn",
    progress: bool = True,
) -> dict[str, Any]:
    """Relax each structure of `source` and write the final ones to extxyz `output`, complete or not at all.

    Args:
        model: folder of a model.
        source: any file that `transip.data.read` reads.
        output: extxyz with charge, spin, energy and forces of the final structures.
        fmax: converged when no atom's force is larger, eV/Å.
        steps: at most this many per structure.
        optimizer: of ASE.
        keys: where charge and spin are stored in `source`.
        charge: total charge of every structure, in place of what `source` says.
        spin: multiplicity of every structure, likewise.
        device: torch device.
        dtype: precision of the network.
        unseen: what to do about elements, charges and multiplicities that the model was not trained on.
        progress: show a progress bar.

    Returns:
        ``structures``, ``converged`` (how many), ``output`` and ``rows``: see `relax`.

    Raises:
        InputError: a setting, the model, a structure or the output cannot be used.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer is {optimizer!r}", remedy=f"choose {' or '.join(OPTIMIZERS)}")
    if not (fmax > 0 and steps >= 0):
        raise InputError(f"fmax is {fmax}, steps is {steps}", remedy="fmax must be positive, steps at least 0")
    calculator = TransIPCalculator(model, device=device, dtype=dtype, unseen=unseen)
    warn_if_direct(calculator.model)
    rows = []
    structures = read_structures(source, keys, labels="optional", charge=charge, spin=spin)
    with atomic_path(output) as partial, partial.open("w", encoding="utf-8") as handle:
        for structure in counted(structures, "relax", progress):
            relaxed, row = relax(structure, calculator, fmax=fmax, steps=steps, optimizer=optimizer)
            write_frame(handle, relaxed)
            rows.append(row)
    converged = sum(row["converged"] for row in rows)
    return {"structures": len(rows), "converged": converged, "output": str(output), "rows": rows}


def relax(
    structure: Structure, calculator: TransIPCalculator, *, fmax: float, steps: int, optimizer: str
) -> tuple[Structure, dict[str, Any]]:
    """Relax one structure.

    Where the model fails on the way (atoms collapse, energy not finite), the last sound geometry is kept.

    Returns:
        The final structure with its labels, and ``source``, ``formula``, ``atoms``, ``initial_energy`` and
        ``final_energy`` (eV), ``initial_fmax`` and ``final_fmax`` (eV/Å), ``steps``, ``converged``, ``note``.

    Raises:
        InputError: the model cannot be asked about `structure` at all.
    """
    atoms = structure.to_atoms()
    atoms.calc = calculator
    initial = final = _labelled(structure, atoms)
    run = OPTIMIZERS[optimizer](atoms, logfile=None)
    taken, converged, note = 0, False, ""
    try:
        for converged in run.irun(fmax=fmax, steps=steps):  # noqa: B007 (used after the loop)
            final, taken = _labelled(structure, atoms), run.nsteps
    except InputError as error:
        note = error.problem
    row = {
        "source": structure.source,
        "formula": structure.formula,
        "atoms": len(structure),
        "initial_energy": initial.energy,
        "final_energy": final.energy,
        "initial_fmax": _largest_force(initial),
        "final_fmax": _largest_force(final),
        "steps": taken,
        "converged": bool(converged) and not note,
        "note": note,
    }
    return final, row


def _labelled(structure: Structure, atoms: ase.Atoms) -> Structure:
    energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
    return replace(structure, positions=atoms.positions.copy(), energy=energy, forces=forces)


def _largest_force(structure: Structure) -> float:
    return float(np.linalg.norm(np.asarray(structure.forces), axis=1).max())
