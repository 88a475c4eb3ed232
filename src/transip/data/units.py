"""Units of input files: conversion to eV and Å, and signs that the declared units cannot be right."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import ase.data
import ase.units
import numpy as np
from jaxtyping import Float64

from transip.config import UnitSettings
from transip.errors import InputError, InputWarning
from transip.structure import Structure

ENERGY = {  # unit → eV
    "eV": 1.0,
    "hartree": ase.units.Hartree,
    "kcal/mol": ase.units.kcal / ase.units.mol,
    "kJ/mol": ase.units.kJ / ase.units.mol,
}
LENGTH = {"angstrom": 1.0, "bohr": ase.units.Bohr}  # unit → Å
DIPOLE = {"debye": ase.units.Debye} | {f"e*{unit}": length for unit, length in LENGTH.items()}  # unit → e·Å

# All-electron energies of atoms in hartree: chemistry and levels of theory change them by less than 2 %
_ATOMS = {
    1: -0.5,
    2: -2.9,
    5: -24.6,
    6: -37.8,
    7: -54.6,
    8: -75.1,
    9: -99.7,
    14: -289.4,
    15: -341.3,
    16: -398.1,
}
_ATOMS |= {17: -460.1, 35: -2574.0}
_ALWAYS_BONDED = (1, 6, 7, 8)
_TOTAL = (0.985, 1.02)  # all-electron total energy of a molecule over the sum of its atoms
_BELOW = 1.3  # no method, relativistic or not, comes this far below the all-electron energy
_ENOUGH = 10  # atoms from which a bond length is judged
_COMPOSITIONS = 3  # as many cannot all agree with a wrong unit by accident


def force_unit(declared: UnitSettings) -> float:
    """The declared unit of forces in eV/Å."""
    energy, _, length = (declared.forces or f"{declared.energy}/{declared.length}").rpartition("/")
    return ENERGY[energy] / LENGTH[length]


def check_units(sample: Sequence[Structure], declared: UnitSettings, where: str) -> None:
    """Compare converted positions and energies with what molecules can have.

    Warns (`InputWarning`) where the numbers are odd but possible, on behalf of whoever reads the file.

    Raises:
        InputError: the declared units cannot be right.
    """
    check_lengths(sample, declared, where)
    _check_energies(sample, declared, where)


def check_lengths(sample: Sequence[Structure], declared: UnitSettings, where: str, remedy: str = "") -> None:
    """The part of `check_units` that needs no labels; `remedy`: where units cannot be declared."""
    ratios = np.concatenate([_bond_ratios(s) for s in sample])
    if not len(ratios):
        return
    low, typical = np.quantile(ratios, (0.1, 0.5))
    problem = (
        f"neighbouring H, C, N and O atoms are typically {typical:.2f} × the sum of their covalent radii "
        f"apart, with lengths declared in {declared.length}"
    )
    # bohr taken for Å gives about 1.9, the reverse 0.5; dissociation can reach the upper limit only in part
    if len(ratios) >= _ENOUGH and (typical < 0.65 or low > 1.5):
        other = "angstrom" if declared.length == "bohr" else "bohr"
        remedy = remedy or f"declare the right unit: units.length is probably {other}"
        raise InputError(problem, where=where, remedy=remedy)
    if not 0.65 <= typical <= 1.4:
        warnings.warn(f"{where}: {problem}; check the units", InputWarning, stacklevel=4)


def _bond_ratios(structure: Structure) -> Float64[np.ndarray, "bonded"]:
    """Distance of each H, C, N, O atom to its nearest neighbour over the sum of their covalent radii."""
    from scipy.spatial import KDTree

    if len(structure) < 2 or structure.cell is not None:  # bonds of a crystal may reach out of its cell
        return np.zeros(0)
    distances, neighbors = (np.asarray(x) for x in KDTree(structure.positions).query(structure.positions, k=2))
    radii = ase.data.covalent_radii[structure.numbers]
    ratios = distances[:, 1] / (radii + radii[neighbors[:, 1]])
    return ratios[np.isin(structure.numbers, _ALWAYS_BONDED)]


def _check_energies(sample: Sequence[Structure], declared: UnitSettings, where: str) -> None:
    usable = [s for s in sample if s.energy is not None and set(s.numbers.tolist()) <= _ATOMS.keys()]
    if not usable:
        return
    totals = ase.units.Hartree * np.array([sum(_ATOMS[z] for z in s.numbers.tolist()) for s in usable])
    ratios = np.array([s.energy for s in usable], dtype=np.float64) / totals
    for unit, factor in ENERGY.items():
        if unit == declared.energy:
            continue
        if _are_totals(ratios * factor / ENERGY[declared.energy]):
            problem = f"energies declared in {declared.energy} are total energies in {unit}"
            if len({s.formula for s in usable}) >= _COMPOSITIONS:
                raise InputError(problem, where=where, remedy=f"declare units.energy: {unit}")
            warnings.warn(f"{where}: it seems that {problem}", InputWarning, stacklevel=4)
    if np.median(ratios) > _BELOW:
        raise InputError(
            f"energies declared in {declared.energy} are {np.median(ratios):.1f} × those of all electrons",
            where=where,
            remedy=f"declare the right unit: units.energy is one of {', '.join(ENERGY)}",
        )


def _are_totals(ratios: Float64[np.ndarray, "structures"]) -> bool:
    return bool(((ratios > _TOTAL[0]) & (ratios < _TOTAL[1])).all())
