"""Small rigid species, and their assembly in space without overlap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from ase.data import covalent_radii
from jaxtyping import Float64, Int64
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from transip.extras import import_optional
from transip.labels.molecules import atomic_numbers, silence_rdkit

METALS = frozenset((3, *range(11, 14), *range(19, 33), *range(37, 51), *range(55, 58), *range(72, 84)))
CONTACT_GAP = 1.2  # Å between covalent spheres of atoms that do not bind; a metal ion touches its neighbours


@dataclass(frozen=True, eq=False)
class Fragment:
    """A rigid species: atomic numbers (atoms,), positions in Å (atoms, 3), charge in e."""

    numbers: Int64[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    charge: int

    def __len__(self) -> int:
        return len(self.numbers)

    def moved(self, rotation: Rotation, shift: Float64[np.ndarray, "3"]) -> Fragment:
        """Rotated about the origin, then shifted."""
        return Fragment(self.numbers, rotation.apply(self.positions) + shift, self.charge)


@cache
def fragment(smiles: str) -> Fragment:
    """The species of a SMILES at a force field's minimum, its first atom at the origin; always the same."""
    chem, embed = import_optional("rdkit.Chem"), import_optional("rdkit.Chem.rdDistGeom")
    fields = import_optional("rdkit.Chem.rdForceFieldHelpers")
    with silence_rdkit():
        rdkit_mol = chem.AddHs(chem.MolFromSmiles(smiles))
        embed.EmbedMolecule(rdkit_mol, randomSeed=1)
        if fields.MMFFHasAllMoleculeParams(rdkit_mol):
            fields.MMFFOptimizeMolecule(rdkit_mol)
        elif len(rdkit_mol.GetAtoms()) > 1:
            fields.UFFOptimizeMolecule(rdkit_mol)
    positions = rdkit_mol.GetConformer().GetPositions()
    return Fragment(atomic_numbers(rdkit_mol), positions - positions[0], chem.GetFormalCharge(rdkit_mol))


def merge(species: list[Fragment]) -> Fragment:
    """Several species as one."""
    return Fragment(
        np.concatenate([member.numbers for member in species]),
        np.concatenate([member.positions for member in species]),
        sum(member.charge for member in species),
    )


def gap(a: Fragment, b: Fragment) -> float:
    """Distance (Å) by which the closest atoms of `a` and `b` are further apart than they should be."""
    metal = np.isin(a.numbers, list(METALS))[:, None] | np.isin(b.numbers, list(METALS))[None, :]
    contact = (
        covalent_radii[a.numbers][:, None] + covalent_radii[b.numbers][None, :] + np.where(metal, 0.1, CONTACT_GAP)
    )
    return float((cdist(a.positions, b.positions) - contact).min())


def place_near(cluster: Fragment, species: Fragment, rng: np.random.Generator, separation: float = 0.0) -> Fragment:
    """`species`, turned at random, moved in along a random direction up to `separation` (Å) from contact."""
    rotation = Rotation.random(rng=rng)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    lower, upper = 0.0, 50.0
    while upper - lower > 0.02:  # the outermost contact along the way in, up to re-entrant shapes
        middle = (lower + upper) / 2
        outside = gap(cluster, species.moved(rotation, middle * direction)) > separation
        lower, upper = (lower, middle) if outside else (middle, upper)
    return species.moved(rotation, upper * direction)
