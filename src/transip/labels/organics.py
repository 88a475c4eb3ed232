"""Molecules from SMILES: the 5,000 of the National Cancer Institute's open set that come with RDKit, or one's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from transip.errors import InputError
from transip.extras import import_optional
from transip.labels.molecules import Molecule

ELEMENTS = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53))


def draw(seed: tuple[int, ...], index: int, max_atoms: int) -> Molecule:
    """The molecule at place `index` of an endless sequence of reshuffled passes over the set.

    Raises:
        InputError: no molecule of the set is as small as `max_atoms`.
    """
    smiles, bonds = _reshuffled(small(max_atoms), seed, index)
    return Molecule("neutral_organics", smiles, charge=0, spin=1, bonds=bonds)


def draw_own(smiles: tuple[str, ...], domain: str, seed: tuple[int, ...], index: int, max_atoms: int) -> Molecule:
    """Likewise of one's own molecules; charge and unpaired electrons are what the SMILES say.

    Raises:
        InputError: a SMILES cannot be read, or no molecule is as small as `max_atoms`.
    """
    name, bonds = _reshuffled(_own(smiles, domain, max_atoms), seed, index)
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in bonds.GetAtoms())
    return Molecule(
        domain, name, charge=import_optional("rdkit.Chem").GetFormalCharge(bonds), spin=1 + unpaired, bonds=bonds
    )


def _reshuffled(molecules: list[tuple[str, Any]], seed: tuple[int, ...], index: int) -> tuple[str, Any]:
    turn, place = divmod(index, len(molecules))
    return molecules[np.random.default_rng([*seed, turn]).permutation(len(molecules))[place]]


@cache
def _own(smiles: tuple[str, ...], domain: str, max_atoms: int) -> list[tuple[str, Any]]:
    chem, found = import_optional("rdkit.Chem"), []
    for one in smiles:
        with quiet():
            bonds = chem.MolFromSmiles(one)
        if bonds is None or not bonds.GetNumAtoms():
            raise InputError(f"{one!r} is no SMILES", where=f"{domain}, smiles", remedy="correct or remove it")
        bonds = chem.AddHs(bonds)
        if bonds.GetNumAtoms() <= max_atoms:
            found.append((one, bonds))
    if not found:
        problem = f"no molecule has at most {max_atoms} atoms"
        raise InputError(problem, where=f"{domain}, smiles", remedy="set a larger max_atoms for this domain")
    return found


@cache
def small(max_atoms: int) -> list[tuple[str, Any]]:
    """SMILES and RDKit molecules with at most `max_atoms` atoms, hydrogens included.

    Raises:
        InputError: there is none.
    """
    found = [(smiles, bonds) for smiles, bonds in _all().items() if bonds.GetNumAtoms() <= max_atoms]
    if not found:
        problem = f"no organic molecule has at most {max_atoms} atoms"
        raise InputError(problem, where="max_atoms", remedy="set a larger max_atoms")
    return found


@cache
def _all() -> dict[str, Any]:
    """Canonical SMILES → molecule: neutral, one fragment, closed shell, elements of `ELEMENTS`."""
    chem, config = import_optional("rdkit.Chem"), import_optional("rdkit.RDConfig")
    found = {}
    with quiet():
        for line in (Path(config.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines():
            bonds = chem.MolFromSmiles(line.split()[0])
            if bonds is not None and _wanted(chem.AddHs(bonds)):
                found[chem.MolToSmiles(bonds)] = chem.AddHs(bonds)
    return found


def _wanted(bonds: Any) -> bool:
    chem = import_optional("rdkit.Chem")
    atoms = list(bonds.GetAtoms())
    return (
        bool(atoms)
        and len(chem.GetMolFrags(bonds)) == 1
        and chem.GetFormalCharge(bonds) == 0
        and all(atom.GetAtomicNum() in ELEMENTS and not atom.GetNumRadicalElectrons() for atom in atoms)
    )


def quiet() -> Any:
    """A context in which RDKit does not comment on every molecule it dislikes."""
    return import_optional("rdkit.rdBase").BlockLogs()
