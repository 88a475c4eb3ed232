"""`transip relax`: move every structure of a file to its nearest minimum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ase
import ase.io
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS

from transip.config import KeySettings
from transip.data.read import DEFAULT_KEYS, read_structures
from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import has_direct_forces, warn_of_direct_forces, warn_of_size
from transip.inference.progress import FrameWriter, check_output, count_structures, frame_writer, progress_bar
from transip.inference.result import Result
from transip.inference.torque import RemoveNetTorque
from transip.io.extxyz import check_extxyz, format_frame
from transip.structure import Structure

Optimizer = Literal["LBFGS", "FIRE"]
OPTIMIZERS: dict[str, Callable[..., Any]] = {"LBFGS": LBFGS, "FIRE": FIRE}


def relax_file(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: Optimizer | None = None,
    cell: bool = False,
    keys: KeySettings = DEFAULT_KEYS,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Relax each structure of `source` and write the final ones to extxyz `output`, which appears when all are there.

    Until then they are in ``NAME.partial.xyz`` beside `output`, where those that are finished stay if the command is
    stopped. Warns (`InputWarning`) about each structure that does not converge.

    Args:
        calculator: says which model, how, and what about structures outside its domain; where forces are too uncertain
            and it refuses them, a relaxation ends with the last geometry before.
        source: any file that `transip.data.read` reads.
        output: extxyz in a folder that exists, with charge, spin, energy and forces of the final structures, whether
            each has ``converged``; from a rotational average or several models also their spread.
        fmax: converged when no atom's force is larger, eV/Å.
        steps: at most this many per structure.
        optimizer: of ASE; None: LBFGS, or FIRE for a model with direct forces, which are no gradient of an energy.
        cell: relax lattice vectors, too, to zero pressure; see `relax`.
        keys: where charge and spin are stored in `source`.
        resume: go on after the structures that a stopped run has finished, with the same arguments.
        overwrite: replace an `output` that exists, and what a stopped run has left.
        skip_bad: leave out structures that cannot be used.
        progress: show a progress bar.

    Returns:
        ``structures``, ``converged`` (how many), ``output``, ``rows``, of what was relaxed now (see `relax`), and, one
        `InputError` each, what was ``skipped``.

    Raises:
        InputError: a setting, a structure or the output cannot be used, or another process is writing the output.
        KeyboardInterrupt: it was stopped; says what is kept.
    """
    if optimizer not in (None, *OPTIMIZERS):
        raise InputError(f"optimizer is {optimizer!r}", remedy=f"choose {' or '.join(OPTIMIZERS)}")
    if not (fmax > 0 and steps >= 0):
        raise InputError(f"fmax is {fmax}, steps is {steps}", remedy="fmax must be positive, steps at least 0")
    target = check_output(check_extxyz(output), overwrite)
    warn_of_direct_forces(calculator.model)
    optimizer = optimizer or ("FIRE" if has_direct_forces(calculator.model) else "LBFGS")
    rows: list[dict[str, Any]] = []
    converged: list[bool] = []  # of what a stopped run has finished
    skipped: list[InputError] = []
    with frame_writer(target, resume=resume, overwrite=overwrite) as writer:
        structures = calculator.read_file(source, keys, skipped.append if skip_bad else None)
        finished = _finished(writer)
        total = count_structures(source) if progress else None
        try:
            for structure in progress_bar(structures, "relax", progress, total):
                if len(converged) < len(finished) and finished[len(converged)][0] == structure.source:
                    converged.append(finished[len(converged)][1])
                    continue
                try:
                    warn_of_size(calculator.predictor, structure)
                    final, row = relax(structure, calculator, fmax=fmax, steps=steps, optimizer=optimizer, cell=cell)
                except InputError as error:
                    if not skip_bad:
                        raise
                    skipped.append(error)
                    continue
                info, columns = final.spreads
                info |= {"converged": row["converged"], "steps": row["steps"]}
                writer.write(format_frame(final.to_structure(), info, columns))
                rows.append(row)
                if not row["converged"]:
                    warnings.warn(_unconverged(row, optimizer, fmax), InputWarning, stacklevel=2)
        except (InputError, KeyboardInterrupt) as error:
            count = writer.resumed + len(rows)
            kept = f"{count} relaxed structures are kept in {writer.partial}; go on with --resume"
            if isinstance(error, InputError):
                remedy = "; ".join(filter(None, (error.remedy, kept if count else "")))
                raise InputError(error.problem, where=error.where, remedy=remedy) from error
            raise KeyboardInterrupt(f"stopped: {kept if count else 'nothing was relaxed yet'}") from None
    converged += [row["converged"] for row in rows]
    counts = {"structures": len(converged), "converged": sum(converged)}
    return counts | {"output": str(output), "rows": rows, "skipped": skipped}


def relax(
    structure: Structure,
    calculator: TransIPCalculator,
    *,
    fmax: float,
    steps: int,
    optimizer: str,
    cell: bool = False,
) -> tuple[Result, dict[str, Any]]:
    """Relax one structure; with `cell` its lattice vectors, too, where `fmax` also bounds the pull on these
    (`ase.filters.FrechetCellFilter`: V σ divided by the number of atoms, eV/Å).

    Where the model fails on the way (atoms collapse, energy not finite), the last sound geometry is kept. Forces on a
    molecule are followed, and compared with `fmax`, without their net torque: see `RemoveNetTorque`.

    Returns:
        The final structure with its predictions, and ``source``, ``formula``, ``atoms``, ``initial_energy`` and
        ``final_energy`` (eV), ``initial_fmax`` and ``final_fmax`` (eV/Å), ``steps``, ``converged``, ``note``.

    Raises:
        InputError: the model cannot be asked about `structure` at all, or not about the stress of its `cell`.
    """
    atoms = structure.to_atoms()
    atoms.calc = calculator
    atoms.set_constraint(RemoveNetTorque())
    if cell:
        _check_stress(atoms, structure)
    target = FrechetCellFilter(atoms) if cell else atoms
    initial = final = calculator.result(atoms)
    initial_fmax = final_fmax = _largest_force(target)
    optimization = OPTIMIZERS[optimizer](target, logfile=None)
    num_steps, converged, note = 0, False, ""
    try:
        for converged in optimization.irun(fmax=fmax, steps=steps):  # noqa: B007 (used after the loop)
            final, final_fmax, num_steps = calculator.result(atoms), _largest_force(target), optimization.nsteps
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
        "steps": num_steps,
        "converged": bool(converged) and not note,
        "note": note,
    }
    return final, row


def _finished(writer: FrameWriter) -> list[tuple[str, bool]]:
    """Sources of the structures that a stopped run has relaxed, and whether they converged."""
    if not writer.resumed:
        return []
    frames = ase.io.iread(writer.partial, format="extxyz")
    structures = read_structures(writer.partial, labels="ignored")
    return [(s.source, bool(frame.info["converged"])) for s, frame in zip(structures, frames, strict=True)]


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


def _largest_force(target: ase.Atoms | FrechetCellFilter) -> float:
    return float(np.linalg.norm(target.get_forces(), axis=1).max())
