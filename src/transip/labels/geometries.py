"""Molecules whose geometries come from a force field or GFN2-xTB, displaced thermally or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import kB, kcal, mol
from jaxtyping import Float64, Int64

from transip.config import DomainSettings
from transip.extras import import_optional
from transip.labels import dynamics
from transip.labels.methods import GFN2
from transip.labels.molecules import LabelingError, MoleculeSpec, atomic_numbers, silence_rdkit
from transip.structure import Structure, rigid_body_modes

GeometryEdit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # of atomic numbers and positions

MINIMIZE_STEPS = 200
DISTINCT = 0.1  # Å; conformers closer than this (root mean square) are one
MIN_FORCE_CONSTANT = 0.5  # eV/Å²; softer modes are torsions, which straight displacements would tear
RIGID_FORCE_CONSTANT = 1e6  # eV/Å²; of translations and rotations, so that they are never displaced
STEP = 1e-4  # Å, of finite differences


@dataclass(frozen=True, eq=False)
class BondedMolecule(MoleculeSpec):
    """A molecule with bonds, whose conformers are embedded and minimised with a force field.

    Attributes:
        rdkit_mol: with explicit hydrogens.
        geometry_edit: changes a finished geometry: removes a hydrogen, stretches a bond.
    """

    rdkit_mol: Any
    geometry_edit: GeometryEdit | None = None

    def __len__(self) -> int:
        return self.rdkit_mol.GetNumAtoms()

    def geometries(self, settings: DomainSettings, rng: np.random.Generator) -> Iterator[Structure]:
        """Minima of the force field, displaced."""
        for field in conformers(self.rdkit_mol, settings.conformers, int(rng.integers(2**31))):
            field.Minimize(maxIts=MINIMIZE_STEPS)
            positions = np.array(field.Positions()).reshape(-1, 3)
            if settings.displacement == "thermal":
                positions = positions + thermal(
                    hessian(field), positions, float(rng.choice(settings.temperatures)), rng
                )
            else:
                positions = positions + rng.normal(scale=rng.choice(settings.sigmas), size=positions.shape)
            numbers = atomic_numbers(self.rdkit_mol)
            if self.geometry_edit is not None:
                numbers, positions = self.geometry_edit(numbers, positions)
            yield self.at(numbers, positions - positions.mean(0))


@dataclass(frozen=True, eq=False)
class Cluster(MoleculeSpec):
    """Atoms that no force field covers, assembled to a start from which GFN2-xTB goes on.

    Attributes:
        numbers: atomic numbers, (atoms,).
        positions: start positions in Å, (atoms, 3).
    """

    numbers: Int64[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]

    def __len__(self) -> int:
        return len(self.numbers)

    def geometries(self, settings: DomainSettings, rng: np.random.Generator) -> Iterator[Structure]:
        """Labelled frames of molecular dynamics, or the relaxed start displaced at random."""
        potential = GFN2(self.numbers, self.charge, self.spin)
        relaxed = dynamics.relax(potential, self.positions)
        if settings.displacement == "gaussian":
            for _ in range(settings.conformers):
                positions = relaxed + rng.normal(scale=rng.choice(settings.sigmas), size=relaxed.shape)
                yield self.at(self.numbers, positions - positions.mean(0))
            return
        temperature = float(rng.choice(settings.temperatures))
        for positions, energy, forces in dynamics.langevin(potential, relaxed, temperature, settings.conformers, rng):
            labels = {"energy": energy, "forces": forces, **potential.more_labels()}
            yield self.at(self.numbers, positions - positions.mean(0), **labels)


def conformers(rdkit_mol: Any, number: int, seed: int) -> Iterator[Any]:
    """Yield an RDKit force field per distinct ETKDG conformer, `number` at most: MMFF94, or UFF where it has gaps.

    `rdkit_mol` is not touched.

    Raises:
        LabelingError: no conformer could be embedded, or neither force field knows the molecule.
    """
    chem, embed = import_optional("rdkit.Chem"), import_optional("rdkit.Chem.rdDistGeom")
    fields = import_optional("rdkit.Chem.rdForceFieldHelpers")
    molecule = chem.Mol(rdkit_mol)
    etkdg_params = embed.ETKDGv3()
    etkdg_params.randomSeed, etkdg_params.pruneRmsThresh = seed, DISTINCT
    etkdg_params.maxIterations, etkdg_params.numThreads = 20, 1
    with silence_rdkit():
        embedded = list(embed.EmbedMultipleConfs(molecule, number, etkdg_params))
        if not embedded:
            raise LabelingError("embedding failed")
        parameters = fields.MMFFGetMoleculeProperties(molecule)
        if parameters is None and not fields.UFFHasAllMoleculeParams(molecule):
            raise LabelingError("no force field")
        for conformer in embedded:
            if parameters is None:
                field = fields.UFFGetMoleculeForceField(molecule, confId=conformer)
            else:
                field = fields.MMFFGetMoleculeForceField(molecule, parameters, confId=conformer)
            field.molecule = molecule  # whose positions it uses without keeping them alive
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
    are not displaced, and modes softer than `MIN_FORCE_CONSTANT` are treated as that stiff.
    """
    rigid = rigid_body_modes(positions)
    inside = np.eye(len(hessian)) - rigid @ rigid.T
    stiffness, modes = np.linalg.eigh(inside @ hessian @ inside + RIGID_FORCE_CONSTANT * rigid @ rigid.T)
    amplitudes = np.sqrt(kB * temperature / stiffness.clip(min=MIN_FORCE_CONSTANT))
    return (modes @ (amplitudes * rng.normal(size=len(amplitudes)))).reshape(-1, 3)
