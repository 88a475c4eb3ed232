"""Hessians by finite differences of batched forces, normal modes, and what stands behind `transip vibrations`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_masses
from jaxtyping import Float64
from scipy.linalg import null_space
from torch import nn

from transip.config import BatchSettings, KeySettings
from transip.data.read import DEFAULT_KEYS
from transip.errors import InputError, InputWarning
from transip.files import output_lock, write_json
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import INFERENCE_LIMITS, iter_predictions, warn_of_direct_forces
from transip.inference.progress import check_output, count_structures, progress_bar
from transip.inference.result import Result
from transip.structure import Structure, rigid_body_modes

Hessian = Float64[np.ndarray, "coordinates coordinates"]
FMAX = 0.05  # eV/Å; with larger forces a geometry is not a minimum
ENERGY = units._hbar * 1e10 / np.sqrt(units._e * units._amu)  # eV of a quantum whose force constant is 1 eV/Å²/amu


@dataclass(frozen=True, eq=False)
class NormalModes:
    """Vibrations of a molecule; translations and rotations are projected out.

    Attributes:
        frequencies: in cm⁻¹, ascending, imaginary ones as negative numbers, (modes,).
        displacements: of the atoms in each mode per unit of its normal coordinate (Å √amu), hence in 1/√amu:
            orthonormal when weighted with √mass, (modes, atoms, 3).
    """

    frequencies: Float64[np.ndarray, "modes"]
    displacements: Float64[np.ndarray, "modes atoms 3"]

    @property
    def zero_point_energy(self) -> float:
        """Half a quantum of each real mode, in eV."""
        return float(0.5 * units.invcm * self.frequencies.clip(min=0).sum())


def finite_difference_hessian(
    forces: Callable[[Iterable[Structure]], Iterable[Float64[np.ndarray, "atoms 3"]]],
    structure: Structure,
    step: float = 0.005,
) -> Hessian:
    """Second derivatives of the energy in eV/Å², by central differences of forces; not made symmetric.

    Args:
        forces: gives the forces (eV/Å) on each of many structures, in their order.
        structure: about which to displace.
        step: displacement of each coordinate to either side, Å.
    """
    displaced_forces = np.array([np.ravel(f) for f in forces(displaced(structure, step))])
    return (displaced_forces[1::2] - displaced_forces[0::2]) / (2 * step)


def displaced(structure: Structure, step: float) -> Iterator[Structure]:
    """`structure` with each coordinate in turn larger, then smaller by `step` (Å)."""
    for coordinate in range(structure.positions.size):
        for change in (step, -step):
            positions = structure.positions.copy()
            positions.flat[coordinate] += change
            yield replace(structure, positions=positions, energy=None, forces=None)


def hessian(
    model: nn.Module, structure: Structure, step: float = 0.005, batch: BatchSettings = INFERENCE_LIMITS
) -> Hessian:
    """`finite_difference_hessian` of a potential, whose displaced structures are predicted in batches."""

    def forces(structures: Iterable[Structure]) -> Iterator[np.ndarray]:
        return (result.forces for result in iter_predictions(model, structures, batch))

    return finite_difference_hessian(forces, structure, step)


def normal_modes(
    hessian: Hessian,
    positions: Float64[np.ndarray, "atoms 3"],
    masses: Float64[np.ndarray, "atoms"],
    *,
    periodic: bool = False,
) -> NormalModes:
    """Diagonalise the symmetric part of a Hessian among the motions that change the molecule's shape.

    Args:
        hessian: eV/Å².
        positions: Å.
        masses: amu.
        periodic: of a cell, in which all images move alike (the Γ point): turning it is no rigid motion.
    """
    root = np.repeat(np.sqrt(masses), 3)
    weighted = 0.5 * (hessian + hessian.T) / np.outer(root, root)
    internal = null_space(rigid_body_modes(positions, masses, periodic=periodic).T)
    values, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    frequencies = np.sign(values) * np.sqrt(np.abs(values)) * ENERGY / units.invcm
    return NormalModes(frequencies, (internal @ vectors).T.reshape(-1, len(masses), 3) / np.sqrt(masses)[:, None])


def asymmetry(hessian: Hessian) -> float:
    """Size of the antisymmetric part of a Hessian relative to the symmetric one; zero if forces are a gradient."""
    return float(np.linalg.norm(hessian - hessian.T) / max(np.linalg.norm(hessian + hessian.T), 1e-300))


def vibrations_file(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    step: float = 0.005,
    keys: KeySettings = DEFAULT_KEYS,
    overwrite: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Vibrational frequencies of each structure of `source`; all there is to know goes to JSON `output`.

    Warns (`InputWarning`) of direct forces, whose derivative is no true Hessian, and of structures that are not minima.

    Args:
        calculator: says which model, how, and what about structures outside its domain; best of dtype float64.
        source: any file that `transip.data.read` reads; relaxed structures.
        output: JSON: ``units`` and, for each structure, what is returned, ``modes`` (modes, atoms, 3), ``hessian``.
        step: displacement of the finite differences, Å.
        keys: where charge and spin are stored in `source`.
        overwrite: replace an `output` that exists.
        progress: show a progress bar.

    Returns:
        For each structure ``source``, ``formula``, ``charge``, ``spin``, ``energy`` (eV), ``fmax`` (largest force,
        eV/Å), ``frequencies`` (cm⁻¹, imaginary ones negative), ``zero_point_energy`` (eV), ``hessian_asymmetry``.

    Raises:
        InputError: a setting, a structure or the output cannot be used, or another process is writing the output.
    """
    if not step > 0:
        raise InputError(f"step is {step:g} Å", remedy="it must be positive; 0.005 is usual")
    target = check_output(output, overwrite)
    warn_of_direct_forces(calculator.model)
    rows, details = [], []
    with output_lock(target):
        structures = calculator.read_file(source, keys)
        for structure in progress_bar(structures, "vibrations", progress, count_structures(source)):
            (result,) = iter_predictions(calculator.predictor, [structure], domain=calculator.domain)
            second_derivatives = hessian(calculator.predictor, structure, step)
            masses, periodic = atomic_masses[structure.numbers], structure.cell is not None
            modes = normal_modes(second_derivatives, structure.positions, masses, periodic=periodic)
            rows.append(_row(result, modes, second_derivatives))
            details.append(rows[-1] | {"modes": modes.displacements.tolist(), "hessian": second_derivatives.tolist()})
            if rows[-1]["fmax"] > FMAX:
                warnings.warn(_not_a_minimum(rows[-1]), InputWarning, stacklevel=2)
        used = {"energy": "eV", "fmax": "eV/Å", "frequencies": "cm⁻¹", "zero_point_energy": "eV"}
        used |= {"modes": "amu^-1/2", "hessian": "eV/Å²"}
        write_json(target, {"model": calculator.model_name, "step": step, "units": used, "structures": details})
    return rows


def _not_a_minimum(row: dict[str, Any]) -> str:
    return (
        f"{row['source'] or row['formula']}: the largest force is {row['fmax']:.2f} eV/Å: this is not a minimum; relax "
        "it first (`transip relax --fmax 0.01`)"
    )


def _row(result: Result, modes: NormalModes, hessian: Hessian) -> dict[str, Any]:
    structure = result.structure
    return {
        "source": structure.source,
        "formula": structure.formula,
        "charge": structure.charge,
        "spin": structure.spin,
        "energy": result.energy,
        "fmax": result.largest_force,
        "frequencies": modes.frequencies.tolist(),
        "zero_point_energy": modes.zero_point_energy,
        "hessian_asymmetry": asymmetry(hessian),
    }
