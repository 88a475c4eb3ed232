"""Reactivity: bonds on the way to breaking, radicals, and the ions of proton and electron transfer."""

from __future__ import annotations

from typing import Any

import numpy as np

from transip.extras import import_optional
from transip.labels import organics
from transip.labels.geometries import BondedMolecule, GeometryEdit
from transip.labels.molecules import atomic_numbers

STRETCH = (1.15, 2.2)  # of a breaking bond, relative to where it was
BOND_TO_PROTON = 1.02  # Å, N–H
CHANGES = ("stretch", "abstract", "deprotonate", "protonate", "ionise", "attach")


def sample_reaction(rng: np.random.Generator, max_atoms: int) -> BondedMolecule:
    """A small organic molecule and one elementary change, applied to its finished geometry."""
    parents = organics.molecules_up_to(max_atoms - 1)  # a proton may come on top
    smiles, rdkit_mol = parents[rng.integers(len(parents))]
    numbers = atomic_numbers(rdkit_mol)
    change = str(rng.choice(CHANGES))
    edit, charge, triplet = None, 0, False
    if change == "stretch":
        edit = _stretch(rdkit_mol, rng)
        triplet = bool(rng.random() < 0.5)  # a breaking bond has both states
    elif change == "abstract":
        edit = _remove_hydrogen(rdkit_mol, rng, acidic=False)
    elif change == "deprotonate":
        edit, charge = _remove_hydrogen(rdkit_mol, rng, acidic=True), -1
    elif change == "protonate":
        edit = _protonate(rdkit_mol, rng)
        charge = 1
    if edit is None:  # no such site in this molecule: it can always lose or gain an electron
        change = change if change in ("ionise", "attach") else "ionise"
        charge, triplet = (1 if change == "ionise" else -1), False
    gained = {"abstract": -1, "deprotonate": -1, "protonate": 1}.get(change, 0)
    electrons = int(numbers.sum()) + gained - charge
    spin = 3 if triplet else 1 + electrons % 2
    return BondedMolecule("reactivity", f"{smiles} {change}", charge, spin, rdkit_mol, edit)


def _stretch(rdkit_mol: Any, rng: np.random.Generator) -> GeometryEdit | None:
    """Pull the two sides of an acyclic single bond apart along it."""
    chem = import_optional("rdkit.Chem")
    single = [b for b in rdkit_mol.GetBonds() if not b.IsInRing() and b.GetBondType() == chem.BondType.SINGLE]
    if not single:
        return None
    bond = single[rng.integers(len(single))]
    fixed_end, moving_end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    fragments = chem.GetMolFrags(chem.FragmentOnBonds(rdkit_mol, [bond.GetIdx()], addDummies=False))
    moved_atoms = list(next(atoms for atoms in fragments if moving_end in atoms))
    factor = rng.uniform(*STRETCH)

    def edit(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = positions.copy()
        positions[moved_atoms] += (factor - 1) * (positions[moving_end] - positions[fixed_end])
        return numbers, positions

    return edit


def _remove_hydrogen(rdkit_mol: Any, rng: np.random.Generator, acidic: bool) -> GeometryEdit | None:
    """Remove a hydrogen; an acidic one, on N, O or S, if there is any and it is asked for."""
    hydrogens = [a for a in rdkit_mol.GetAtoms() if a.GetAtomicNum() == 1]
    if acidic:
        polar = [a for a in hydrogens if a.GetNeighbors()[0].GetAtomicNum() in (7, 8, 16)]
        hydrogens = polar or hydrogens
    if not hydrogens or rdkit_mol.GetNumAtoms() < 3:
        return None
    removed = hydrogens[rng.integers(len(hydrogens))].GetIdx()

    def edit(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.delete(numbers, removed), np.delete(positions, removed, axis=0)

    return edit


def _protonate(rdkit_mol: Any, rng: np.random.Generator) -> GeometryEdit | None:
    """Put a proton where the lone pair of an N, O or S is: away from the atom's neighbours."""
    chem = import_optional("rdkit.Chem")
    pattern = chem.MolFromSmarts("[#7X1,#7X2,#7X3,#8,#16X2;+0]")
    sites = [atom_index for (atom_index,) in rdkit_mol.GetSubstructMatches(pattern)]
    if not sites:
        return None
    site = int(rng.choice(sites))
    neighbors = [atom.GetIdx() for atom in rdkit_mol.GetAtomWithIdx(site).GetNeighbors()]
    tilt = rng.normal(scale=0.3, size=3)  # an sp² oxygen's lone pairs are not opposite to its one neighbour

    def edit(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        arms = positions[neighbors] - positions[site]
        away = -(arms / np.linalg.norm(arms, axis=1, keepdims=True)).sum(0)
        if np.linalg.norm(away) < 0.3:  # flat: the lone pair stands on the plane
            away = np.cross(arms[0], arms[-1])
        away = away / (np.linalg.norm(away) + 1e-9) + tilt
        proton = positions[site] + BOND_TO_PROTON * away / np.linalg.norm(away)
        return np.append(numbers, 1), np.vstack([positions, proton])

    return edit
