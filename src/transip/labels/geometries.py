"""Geometries of a molecule: conformers, a relaxed start or a liquid, displaced thermally or at random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase.units import kB, kcal, mol
from jaxtyping import Float64

from transip.config import DomainSettings
from transip.extras import import_optional
from transip.labels import dynamics, liquids
from transip.labels.methods import GFN2
from transip.labels.molecules import Failed, Molecule, atomic_numbers
from transip.labels.organics import quiet
from transip.structure import Structure, rigid_body_modes

MINIMIZE_STEPS = 200
DISTINCT = 0.1  # Å; conformers closer than this (root mean square) are one
SOFTEST = 0.5  # eV/Å²; softer modes are torsions, which straight displacements would tear
STIFF = 1e6  # eV/Å²; of translations and rotations, so that they are never displaced
STEP = 1e-4  # Å, of finite differences


def sample(molecule: Molecule, settings: DomainSettings, rng: np.random.Generator) -> Iterator[Structure]:
    """Yield up to `settings.conformers` geometries; those from molecular dynamics are GFN2-xTB-labelled already.

    Raises:
        Failed: RDKit cannot embed the molecule or has no force field for it, or GFN2-xTB fails.
    """
    if molecule.bonds is not None:
        frames = ((x, None, None) for x in _bonded(molecule.bonds, settings, rng))
    elif molecule.cell is not None:
        frames = ((x, None, None) for x in _liquid(molecule, settings, rng))
    else:
        frames = _assembled(molecule, settings, rng)
    start = atomic_numbers(molecule.bonds) if molecule.numbers is None else molecule.numbers
    for positions, energy, forces in frames:
        numbers = start
        if molecule.edit is not None:
            numbers, positions = molecule.edit(numbers, positions)
            energy = forces = None
        yield Structure(
            numbers=numbers,
            positions=positions - positions.mean(0) if molecule.cell is None else positions,
            charge=molecule.charge,
            spin=molecule.spin,
            energy=energy,
            forces=forces,
            cell=molecule.cell,
            domain=molecule.domain,
            source=molecule.source,
        )


def _bonded(bonds: Any, settings: DomainSettings, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for field in conformers(bonds, settings.conformers, int(rng.integers(2**31))):
        field.Minimize(maxIts=MINIMIZE_STEPS)
        minimum = np.array(field.Positions()).reshape(-1, 3)
        if settings.displacement == "thermal":
            yield minimum + thermal(hessian(field), minimum, float(rng.choice(settings.temperatures)), rng)
        else:
            yield minimum + rng.normal(scale=rng.choice(settings.sigmas), size=minimum.shape)


def _liquid(molecule: Molecule, settings: DomainSettings, rng: np.random.Generator) -> Iterator[np.ndarray]:
    temperature = float(rng.choice(settings.temperatures))
    for positions in liquids.frames(molecule, temperature, settings.conformers, rng):
        if settings.displacement == "gaussian":  # beside the thermal motion, without which it is no liquid
            yield positions + rng.normal(scale=rng.choice(settings.sigmas), size=positions.shape)
        else:
            yield positions


def _assembled(
    molecule: Molecule, settings: DomainSettings, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, float | None, np.ndarray | None]]:
    assert molecule.numbers is not None and molecule.positions is not None
    potential = GFN2(molecule.numbers, molecule.charge, molecule.spin)
    relaxed = dynamics.relax(potential, molecule.positions)
    if settings.displacement == "thermal":
        temperature = float(rng.choice(settings.temperatures))
        yield from dynamics.langevin(potential, relaxed, temperature, settings.conformers, rng)
    else:
        for _ in range(settings.conformers):
            yield relaxed + rng.normal(scale=rng.choice(settings.sigmas), size=relaxed.shape), None, None


def conformers(bonds: Any, number: int, seed: int) -> Iterator[Any]:
    """Yield an RDKit force field per distinct ETKDG conformer, `number` at most: MMFF94, or UFF where it has gaps.

    `bonds` is not touched.

    Raises:
        Failed: no conformer could be embedded, or neither force field knows the molecule.
    """
    chem, embed = import_optional("rdkit.Chem"), import_optional("rdkit.Chem.rdDistGeom")
    fields = import_optional("rdkit.Chem.rdForceFieldHelpers")
    bonds = chem.Mol(bonds)
    how = embed.ETKDGv3()
    how.randomSeed, how.pruneRmsThresh, how.maxIterations, how.numThreads = seed, DISTINCT, 20, 1
    with quiet():
        found = list(embed.EmbedMultipleConfs(bonds, number, how))
        if not found:
            raise Failed("embedding failed")
        parameters = fields.MMFFGetMoleculeProperties(bonds)
        if parameters is None and not fields.UFFHasAllMoleculeParams(bonds):
            raise Failed("no force field")
        for conformer in found:
            if parameters is None:
                field = fields.UFFGetMoleculeForceField(bonds, confId=conformer)
            else:
                field = fields.MMFFGetMoleculeForceField(bonds, parameters, confId=conformer)
            field.molecule = bonds  # whose positions it uses without keeping them alive
            yield field


def hessian(field: Any) -> Float64[np.ndarray, "coordinates coordinates"]:
    """Second derivatives of an RDKit force field at its positions, in eV/Å², by finite differences."""
    x = np.array(field.Positions()).ravel()
    here, rows = _gradient(field, x), np.empty((len(x), len(x)))
    for k, step in enumerate(np.eye(len(x)) * STEP):
        rows[k] = (_gradient(field, x + step) - here) / STEP
    return (rows + rows.T) / 2


def _gradient(field: Any, positions: np.ndarray) -> np.ndarray:
    """Gradient of an RDKit force field in eV/Å, (3·atoms,)."""
    x = positions.tolist()
    field.CalcEnergy(x)  # MMFF's CalcGrad trusts distances that only CalcEnergy brings up to date
    return np.array(field.CalcGrad(x)) * (kcal / mol)


def thermal(
    hessian: Float64[np.ndarray, "coordinates coordinates"],
    positions: Float64[np.ndarray, "atoms 3"],
    temperature: float,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "atoms 3"]:
    """Draw a displacement (Å) from the classical harmonic ensemble, p ∝ exp(−½ xᵀHx / kT).

    Where atoms are does not depend on masses, so the modes are those of H itself. Translations and rotations
    are not displaced, and modes softer than `SOFTEST` are treated as that stiff.
    """
    rigid = rigid_body_modes(positions)
    inside = np.eye(len(hessian)) - rigid @ rigid.T
    stiffness, modes = np.linalg.eigh(inside @ hessian @ inside + STIFF * rigid @ rigid.T)
    amplitudes = np.sqrt(kB * temperature / stiffness.clip(min=SOFTEST))
    return (modes @ (amplitudes * rng.normal(size=len(amplitudes)))).reshape(-1, 3)
