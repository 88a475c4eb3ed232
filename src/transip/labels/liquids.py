"""Liquids: periodic boxes of water at many densities, mixed by molecular dynamics with a classical force field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.units import Bohr, Hartree, kcal, kg, m, mol
from jaxtyping import Float64, Int64
from scipy.spatial.distance import cdist

from transip.config import DomainSettings
from transip.labels import dynamics
from transip.labels.molecules import MoleculeSpec
from transip.lattice import find_images
from transip.structure import Structure

FEWEST = 12  # molecules; of a narrower box the Γ point, all that tblite knows, says too little
DENSITIES = 850.0, 1150.0  # kg/m³
STRAIN = 0.08  # largest component of the strain that turns a cube into the cell
CANDIDATES = 50  # places tried for a molecule, of which the one farthest from the others is taken
MOLECULE_MASS = 18.015  # u
LENGTHS = 0.942, 0.942, 1.576  # Å, of O–H and H–H at rest, which neighbours stretch to 0.97 Å and 105°
BONDED = (0, 1), (0, 2), (1, 2)  # which atoms of O, H, H these springs join
STIFFNESS = np.array([900.0, 900.0, 320.0]) * kcal / mol  # eV/Å², of which the last bends: 55 kcal/mol/rad²
CHARGES = -0.834, 0.417, 0.417  # e
DEPTH, SIGMA = 0.1521 * kcal / mol, 3.15061  # eV, Å: Lennard-Jones between oxygens
CUTOFF = 8.0  # Å
LIST_STEPS = 20  # evaluations for which a list of neighbours is used
EVALUATIONS = 100  # of the relaxation that opens close contacts
EQUILIBRATION = 1000  # steps of 2 fs before the first frame
SPACING = 250  # steps between frames


def sample_water_box(rng: np.random.Generator, max_atoms: int) -> WaterBox:
    """A cell with 12 to max_atoms / 3 water molecules, spread out and turned at random: not a liquid yet."""
    number = int(rng.integers(FEWEST, max(FEWEST, max_atoms // 3), endpoint=True))
    density = rng.uniform(*DENSITIES) * kg / m**3  # u/Å³
    strain = rng.uniform(-STRAIN, STRAIN, size=(3, 3))
    shape = np.eye(3) + (strain + strain.T) / 2
    return water_box(number, shape * np.cbrt(number * MOLECULE_MASS / density / np.linalg.det(shape)), rng)


def water_box(number: int, cell: Float64[np.ndarray, "3 3"], rng: np.random.Generator) -> WaterBox:
    """`number` water molecules in `cell` (Å), spread out and turned at random: not a liquid yet."""
    centres = _place_centres(number, cell, rng)
    positions = (centres[:, None] + _molecules(number, rng)).reshape(-1, 3)
    return WaterBox("liquids", f"{number} H2O", 0, 1, positions, cell)


@dataclass(frozen=True, eq=False)
class WaterBox(MoleculeSpec):
    """A periodic box of water molecules, mixed by molecular dynamics with a classical force field.

    Attributes:
        positions: start positions in Å of O, H, H of one molecule after another, (atoms, 3).
        cell: lattice vectors in Å, (3, 3).
    """

    positions: Float64[np.ndarray, "atoms 3"]
    cell: Float64[np.ndarray, "3 3"]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def numbers(self) -> Int64[np.ndarray, "atoms"]:
        """Atomic numbers."""
        return np.tile(np.array([8, 1, 1]), len(self) // 3)

    def geometries(self, settings: DomainSettings, rng: np.random.Generator) -> Iterator[Structure]:
        """Frames of the liquid; `gaussian` comes on top of the thermal motion, without which it is no liquid."""
        temperature = float(rng.choice(settings.temperatures))
        potential = FlexibleTIP3P(self.cell)
        relaxed = dynamics.relax(potential, self.positions, EVALUATIONS)
        frames = dynamics.langevin(potential, relaxed, temperature, settings.conformers, rng, EQUILIBRATION, SPACING)
        for positions, _, _ in frames:
            if settings.displacement == "gaussian":
                positions = positions + rng.normal(scale=rng.choice(settings.sigmas), size=positions.shape)
            yield self.at(self.numbers, positions, cell=self.cell)


class FlexibleTIP3P:
    """TIP3P water with springs in the place of rigid bonds, in a periodic cell of any shape.

    Coulomb's law is shifted so that its force ends at the cutoff, which is ample for liquid-like order; the labels
    come from quantum chemistry. Atoms come as O, H, H; molecules must not be broken by the cell's faces.

    Args:
        cell: lattice vectors in Å, (3, 3).
    """

    def __init__(self, cell: Float64[np.ndarray, "3 3"]):
        self._cell = cell
        self._evaluations = 0

    def __call__(self, positions: Float64[np.ndarray, "atoms 3"]) -> tuple[float, Float64[np.ndarray, "atoms 3"]]:
        """Energy in eV and forces in eV/Å at `positions` (Å)."""
        if self._evaluations % LIST_STEPS == 0:
            self._find_pairs(positions)
        self._evaluations += 1
        forces = np.zeros_like(positions)
        energy = self._bonded(positions, forces) + self._unbonded(positions, forces)
        return energy, forces

    def _find_pairs(self, positions: np.ndarray) -> None:
        """List pairs of atoms of different molecules, or of images of one; an atom and its own image exert nothing."""
        wrap, origin, steps = find_images(positions, self._cell, CUTOFF)
        inside = positions - wrap @ self._cell
        with_images = np.concatenate([inside, inside[origin] + steps @ self._cell])
        atom = np.concatenate([np.arange(len(positions)), origin])
        moved = np.concatenate([-wrap, steps - wrap[origin]])  # lattice vectors from `positions` to `around`
        i, k = np.nonzero(cdist(inside, with_images) < CUTOFF)
        j, steps = atom[k], moved[k] - moved[i]
        once = (i < j) & ((i // 3 != j // 3) | steps.any(1))
        self._i, self._j, steps = i[once], j[once], steps[once]
        self._shift = steps @ self._cell
        charges = np.tile(CHARGES, len(positions) // 3) * np.sqrt(Hartree * Bohr)
        self._charges = charges[self._i] * charges[self._j]
        self._oxygens = np.nonzero((self._i % 3 == 0) & (self._j % 3 == 0))[0]

    def _bonded(self, positions: np.ndarray, forces: np.ndarray) -> float:
        energy = 0.0
        for (a, b), length, stiffness in zip(BONDED, LENGTHS, STIFFNESS, strict=True):
            lines = positions[b::3] - positions[a::3]
            distances = np.linalg.norm(lines, axis=1)
            energy += stiffness / 2 * float(((distances - length) ** 2).sum())
            pulls = (stiffness * (1 - length / distances))[:, None] * lines
            forces[a::3] += pulls
            forces[b::3] -= pulls
        return energy

    def _unbonded(self, positions: np.ndarray, forces: np.ndarray) -> float:
        lines = positions[self._j] - positions[self._i] + self._shift
        distances = np.sqrt(np.einsum("pc,pc->p", lines, lines))
        energies = self._charges * (1 / distances - 2 / CUTOFF + distances / CUTOFF**2)
        slopes = self._charges * (1 / CUTOFF**2 - 1 / distances**2)
        sixth = (SIGMA / distances[self._oxygens]) ** 6
        energies[self._oxygens] += 4 * DEPTH * (sixth**2 - sixth)
        slopes[self._oxygens] += 24 * DEPTH * (sixth - 2 * sixth**2) / distances[self._oxygens]
        lines *= (slopes / distances)[:, None]
        for axis in range(3):
            forces[:, axis] += np.bincount(self._i, lines[:, axis], len(forces))
            forces[:, axis] -= np.bincount(self._j, lines[:, axis], len(forces))
        return float(energies.sum())


def _place_centres(number: int, cell: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "molecules 3"]:
    """Random places in the cell, Å, that keep away from each other."""
    fractions = rng.random((1, 3))
    for _ in range(number - 1):
        candidates = rng.random((CANDIDATES, 3))
        apart = candidates[:, None] - fractions
        apart = (apart - np.round(apart)) @ cell
        farthest = np.linalg.norm(apart, axis=-1).min(1).argmax()
        fractions = np.concatenate([fractions, candidates[farthest, None]])
    return fractions @ cell


def _molecules(number: int, rng: np.random.Generator) -> Float64[np.ndarray, "molecules 3 3"]:
    """Water molecules in random orientations, the oxygen of each at the origin, Å."""
    from scipy.spatial.transform import Rotation

    bond, _, across = LENGTHS
    height = np.sqrt(bond**2 - across**2 / 4)
    molecule = np.array([[0.0, 0.0, 0.0], [across / 2, height, 0.0], [-across / 2, height, 0.0]])
    return np.einsum("mxy,ay->max", Rotation.random(number, rng).as_matrix(), molecule)
