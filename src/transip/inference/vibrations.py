"""Hessians and infrared intensities by finite differences of batched forces and dipoles; `transip vibrations`."""

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
from rich.table import Table
from scipy.linalg import null_space
from torch import nn

from transip.config import BatchSettings, KeySettings
from transip.data.read import DEFAULT_KEYS
from transip.errors import InputError, InputWarning
from transip.files import output_lock, write_json
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import INFERENCE_LIMITS, has_charges, iter_predictions, warn_of_direct_forces
from transip.inference.progress import check_output, count_structures, progress_bar
from transip.inference.result import Result
from transip.inference.spectrum import Spectrum, check_picture, draw_spectra
from transip.structure import LABELS, Structure, rigid_body_modes

Hessian = Float64[np.ndarray, "coordinates coordinates"]
FMAX = 0.05  # eV/Å; with larger forces a geometry is not a minimum
ENERGY = units._hbar * 1e10 / np.sqrt(units._e * units._amu)  # eV of a quantum whose force constant is 1 eV/Å²/amu
# km/mol of an intensity of 1 e²/amu: N π/(3 c²) in Gaussian units, Porezag and Pederson, Phys. Rev. B 54, 7830 (1996).
KM_PER_MOL = units._Nav * units._e**2 / (12e3 * units._eps0 * units._c**2 * units._amu)
KM_PER_DEBYE2 = KM_PER_MOL * units.Debye**2  # of 1 D²Å⁻²amu⁻¹: 42.256

NO_CHARGES = "this model was trained without charges, hence it has no dipole moments"
UNITS = {
    "energy": "eV",
    "fmax": "eV/Å",
    "frequencies": "cm⁻¹",
    "zero_point_energy": "eV",
    "modes": "amu^-1/2",
    "hessian": "eV/Å²",
    "dipole": "e·Å",
    "dipole_derivatives": "e",
    "infrared_intensities": "km/mol",
    "infrared_intensities_debye": "D²Å⁻²amu⁻¹",
}


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


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Derivatives at one geometry.

    Attributes:
        hessian: second derivatives of the energy, eV/Å², not made symmetric.
        dipole: first derivatives of the dipole moment (atomic polar tensors) in e; None if there is none, see
            `Prediction`.
    """

    hessian: Hessian
    dipole: Float64[np.ndarray, "coordinates 3"] | None = None


def finite_differences(
    function: Callable[[Iterable[Structure]], Iterable[Float64[np.ndarray, "*shape"]]],
    structure: Structure,
    step: float = 0.005,
) -> Float64[np.ndarray, "coordinates values"]:
    """First derivatives by central differences; of forces, minus the Hessian.

    Args:
        function: gives an array of equal shape for each of many structures, in their order; flattened.
        structure: about which to displace.
        step: displacement of each coordinate to either side, Å.
    """
    values = np.array([np.ravel(value) for value in function(displaced(structure, step))])
    return (values[0::2] - values[1::2]) / (2 * step)


def displaced(structure: Structure, step: float) -> Iterator[Structure]:
    """`structure` with each coordinate in turn larger, then smaller by `step` (Å)."""
    for coordinate in range(structure.positions.size):
        for change in (step, -step):
            positions = structure.positions.copy()
            positions.flat[coordinate] += change
            yield replace(structure, positions=positions, **dict.fromkeys(LABELS))


def derivatives(
    model: nn.Module, structure: Structure, step: float = 0.005, batch: BatchSettings = INFERENCE_LIMITS
) -> Derivatives:
    """Finite differences of forces and dipoles of a potential, whose displaced structures are predicted in batches."""

    def forces_and_dipoles(structures: Iterable[Structure]) -> Iterator[np.ndarray]:
        for result in iter_predictions(model, structures, batch):
            yield np.append(result.forces, [] if result.dipole is None else result.dipole)

    hessian, dipole = np.split(finite_differences(forces_and_dipoles, structure, step), [structure.positions.size], 1)
    return Derivatives(-hessian, dipole if dipole.size else None)


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


def infrared_intensities(
    modes: NormalModes, dipole_derivatives: Float64[np.ndarray, "coordinates 3"]
) -> Float64[np.ndarray, "modes"]:
    """Integrated molar absorption of each mode in km/mol, double harmonic: proportional to ‖∂μ/∂Q‖².

    Divided by `KM_PER_DEBYE2`, ‖∂μ/∂Q‖² itself in D²Å⁻²amu⁻¹, as `ase.vibrations.Infrared` has it.
    """
    transition_dipoles = modes.displacements.reshape(len(modes.frequencies), -1) @ dipole_derivatives
    return KM_PER_MOL * np.square(transition_dipoles).sum(1)


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
    spectrum: str | Path | None = None,
    width: float = 15.0,
    overwrite: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Vibrations of each structure of `source`, with infrared intensities if the model has charges.

    All there is to know goes to JSON `output`. Warns (`InputWarning`) of direct forces, whose derivative is no true
    Hessian, and of structures that are not minima.

    Args:
        calculator: says which model, how, and what about structures outside its domain; best of dtype float64.
        source: any file that `transip.data.read` reads; relaxed structures.
        output: JSON: ``units`` and, for each structure, what is returned, ``modes`` (modes, atoms, 3), ``hessian`` and,
            where there are intensities, ``dipole_derivatives`` (coordinates, 3).
        step: displacement of the finite differences, Å.
        keys: where charge and spin are stored in `source`.
        spectrum: picture of the infrared spectra of the first `MAX_PANELS` molecules, PNG, SVG or PDF; None: none.
        width: full width of its Lorentzian lines at half maximum, cm⁻¹.
        overwrite: replace outputs that exist.
        progress: show a progress bar.

    Returns:
        For each structure ``source``, ``formula``, ``charge``, ``spin``, ``energy`` (eV), ``fmax`` (largest force,
        eV/Å), ``frequencies`` (cm⁻¹, imaginary ones negative), ``zero_point_energy`` (eV), ``hessian_asymmetry`` and,
        of molecules from a model with charges, ``dipole`` (e·Å), ``infrared_intensities`` (km/mol) and
        ``infrared_intensities_debye`` (D²Å⁻²amu⁻¹, as of `ase.vibrations.Infrared`).

    Raises:
        InputError: a setting, a structure or the output cannot be used, or another process is writing the output.
    """
    if not (step > 0 and width > 0):
        raise InputError(
            f"step is {step:g} Å, width {width:g} cm⁻¹", remedy="both must be positive; 0.005 and 15 are usual"
        )
    target = check_output(output, overwrite)
    picture = None if spectrum is None else check_picture(check_output(spectrum, overwrite))
    if picture and not has_charges(calculator.model):
        raise InputError(f"there is no infrared spectrum: {NO_CHARGES}", remedy="leave out --spectrum")
    warn_of_direct_forces(calculator.model)
    rows, details = [], []
    with output_lock(target):
        structures = calculator.read_file(source, keys)
        for structure in progress_bar(structures, "vibrations", progress, count_structures(source)):
            if picture and structure.cell is not None:
                problem = "has no infrared spectrum: it is periodic, hence it has no dipole moment"
                raise InputError(problem, where=structure.source, remedy="leave out --spectrum")
            (result,) = iter_predictions(calculator.predictor, [structure], domain=calculator.domain)
            slopes = derivatives(calculator.predictor, structure, step)
            masses, periodic = atomic_masses[structure.numbers], structure.cell is not None
            modes = normal_modes(slopes.hessian, structure.positions, masses, periodic=periodic)
            rows.append(_row(result, modes, slopes))
            detail = {"modes": modes.displacements.tolist(), "hessian": slopes.hessian.tolist()}
            if slopes.dipole is not None:
                detail["dipole_derivatives"] = slopes.dipole.tolist()
            details.append(rows[-1] | detail)
            if rows[-1]["fmax"] > FMAX:
                warnings.warn(_not_a_minimum(rows[-1]), InputWarning, stacklevel=2)
        write_json(target, {"model": calculator.model_name, "step": step, "units": UNITS, "structures": details})
        if picture:
            draw_spectra(picture, list(map(_spectrum, rows)), width)
    return rows


def intensities_table(row: dict[str, Any]) -> Table:
    """Frequencies and infrared intensities of a row of `vibrations_file` for the terminal."""
    table = Table(*("cm⁻¹", "km/mol", "D²Å⁻²amu⁻¹"), box=None)
    columns = row["frequencies"], row["infrared_intensities"], row["infrared_intensities_debye"]
    for frequency, intensity, debye in zip(*columns, strict=True):
        table.add_row(f"{frequency:.0f}", f"{intensity:.1f}", f"{debye:.3f}")
    return table


def _spectrum(row: dict[str, Any]) -> Spectrum:
    frequencies, intensities = np.array(row["frequencies"]), np.array(row["infrared_intensities"])
    return Spectrum(row["source"] or row["formula"], frequencies, intensities)


def _not_a_minimum(row: dict[str, Any]) -> str:
    return (
        f"{row['source'] or row['formula']}: the largest force is {row['fmax']:.2f} eV/Å: this is not a minimum; relax "
        "it first (`transip relax --fmax 0.01`)"
    )


def _row(result: Result, modes: NormalModes, slopes: Derivatives) -> dict[str, Any]:
    structure = result.structure
    row = {
        "source": structure.source,
        "formula": structure.formula,
        "charge": structure.charge,
        "spin": structure.spin,
        "energy": result.energy,
        "fmax": result.largest_force,
        "frequencies": modes.frequencies.tolist(),
        "zero_point_energy": modes.zero_point_energy,
        "hessian_asymmetry": asymmetry(slopes.hessian),
    }
    if slopes.dipole is None or result.dipole is None:
        return row
    intensities = infrared_intensities(modes, slopes.dipole)
    row |= {"dipole": result.dipole.tolist(), "infrared_intensities": intensities.tolist()}
    return row | {"infrared_intensities_debye": (intensities / KM_PER_DEBYE2).tolist()}
