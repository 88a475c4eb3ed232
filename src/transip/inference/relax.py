"""`transip relax`: move every structure of a file to its nearest minimum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS

from transip.config import KeySettings
from transip.data.read import DEFAULT_KEYS
from transip.errors import InputError, InputWarning
from transip.files import atomic_path, output_lock
from transip.inference.ase import TransIPCalculator
from transip.inference.inference import has_direct_forces, warn_if_direct
from transip.inference.predict import check_extxyz, counted, write_frame
from transip.inference.torque import NoTorque
from transip.structure import Structure

OPTIMIZERS: dict[str, Callable[..., Any]] = {"LBFGS": LBFGS, "FIRE": FIRE}


def relax_file(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: Literal["LBFGS", "FIRE"] | None = None,
    cell: bool = False,
    keys: KeySettings = DEFAULT_KEYS,
    progress: bool = True,
) -> dict[str, Any]:
    """Relax each structure of `source` and write the final ones to extxyz `output`, complete or not at all.

    Warns (`InputWarning`) about each structure that does not converge.

    Args:
        calculator: says which model, how, and what about structures outside its scope; where forces are too uncertain
            and it refuses them, a relaxation ends with the last geometry before.
        source: any file that `transip.data.read` reads.
        output: extxyz with charge, spin, energy and forces of the final structures; from a rotational average or
            several models also their spread.
        fmax: converged when no atom's force is larger, eV/Å.
        steps: at most this many per structure.
        optimizer: of ASE; None: LBFGS, or FIRE for a model of direct forces, which are no gradient of an energy.
        cell: relax lattice vectors, too, to zero pressure; see `relax`.
        keys: where charge and spin are stored in `source`.
        progress: show a progress bar.

    Returns:
        ``structures``, ``converged`` (how many), ``output`` and ``rows``: see `relax`.

    Raises:
        InputError: a setting, a structure or the output cannot be used, or another process is writing the output.
    """
    if optimizer not in (None, *OPTIMIZERS):
        raise InputError(f"optimizer is {optimizer!r}", remedy=f"choose {' or '.join(OPTIMIZERS)}")
    if not (fmax > 0 and steps >= 0):
        raise InputError(f"fmax is {fmax}, steps is {steps}", remedy="fmax must be positive, steps at least 0")
    check_extxyz(output)
    warn_if_direct(calculator.model)
    optimizer = optimizer or ("FIRE" if has_direct_forces(calculator.model) else "LBFGS")
    rows = []
    with output_lock(output), atomic_path(output) as partial, partial.open("w", encoding="utf-8") as handle:
        for structure in counted(calculator.read_file(source, keys), "relax", progress):
            relaxed, row = relax(structure, calculator, fmax=fmax, steps=steps, optimizer=optimizer, cell=cell)
            write_frame(handle, relaxed)
            rows.append(row)
            if not row["converged"]:
                warnings.warn(_unconverged(row, optimizer, fmax), InputWarning, stacklevel=2)
    converged = sum(row["converged"] for row in rows)
    return {"structures": len(rows), "converged": converged, "output": str(output), "rows": rows}


def relax(
    structure: Structure,
    calculator: TransIPCalculator,
    *,
    fmax: float,
    steps: int,
    optimizer: str,
    cell: bool = False,
) -> tuple[Structure, dict[str, Any]]:
    """Relax one structure; with `cell` its lattice vectors, too, where `fmax` also bounds the pull on these
    (`ase.filters.FrechetCellFilter`: V σ divided by the number of atoms, eV/Å).

    Where the model fails on the way (atoms collapse, energy not finite), the last sound geometry is kept. Forces on a
    molecule are followed, and measured against `fmax`, without their net torque: see `NoTorque`.

    Returns:
        The final structure with its labels, and ``source``, ``formula``, ``atoms``, ``initial_energy`` and
        ``final_energy`` (eV), ``initial_fmax`` and ``final_fmax`` (eV/Å), ``steps``, ``converged``, ``note``.

    Raises:
        InputError: the model cannot be asked about `structure` at all, or not about the stress of its `cell`.
    """
    atoms = structure.to_atoms()
    atoms.calc = calculator
    atoms.set_constraint(NoTorque())
    if cell:
        _check_stress(atoms, structure)
    moved = FrechetCellFilter(atoms) if cell else atoms
    initial = final = calculator.labelled(atoms)
    initial_fmax = final_fmax = _largest_force(moved)
    run = OPTIMIZERS[optimizer](moved, logfile=None)
    taken, converged, note = 0, False, ""
    try:
        for converged in run.irun(fmax=fmax, steps=steps):  # noqa: B007 (used after the loop)
            final, final_fmax, taken = calculator.labelled(atoms), _largest_force(moved), run.nsteps
    except InputError as error:
        note = error.problem
    row = {
        "source": structure.source,
        "formula": structure.formula,
        "atoms": len(structure),
        "initial_energy": initial.energy,
        "final_energy": final.energy,
        "initial_fmax": initial_fmax,
        "final_fmax": final_fmax,
        "steps": taken,
        "converged": bool(converged) and not note,
        "note": note,
    }
    return final, row


def _unconverged(row: dict[str, Any], optimizer: str, fmax: float) -> str:
    reason = row["note"] or f"asked for {fmax:g}; more steps, a larger fmax or another optimizer may help"
    return (
        f"{row['source'] or row['formula']}: not converged after {row['steps']} steps of {optimizer}: "
        f"largest force {row['final_fmax']:.3f} eV/Å ({reason})"
    )


def _check_stress(atoms: ase.Atoms, structure: Structure) -> None:
    try:
        atoms.get_stress()
    except PropertyNotImplementedError as error:
        raise InputError(
            f"its cell cannot be relaxed: {error}",
            where=structure.source or structure.formula,
            remedy="leave out --cell, or give crystals and a single model with conservative forces",
        ) from None


def _largest_force(moved: ase.Atoms | FrechetCellFilter) -> float:
    return float(np.linalg.norm(moved.get_forces(), axis=1).max())
