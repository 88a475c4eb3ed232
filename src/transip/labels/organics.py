"""Molecules from SMILES: the 5,000 of the National Cancer Institute's open set that come with RDKit, or one's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from transip.errors import InputError
from transip.extras import import_optional
from transip.labels.geometries import BondedMolecule
from transip.labels.molecules import silence_rdkit

ELEMENTS = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53))


def sample_organic(seed: tuple[int, ...], index: int, max_atoms: int) -> BondedMolecule:
    """The molecule at place `index` of an endless sequence of reshuffled passes over the set.

    Raises:
        InputError: no molecule of the set is as small as `max_atoms`.
    """
    smiles, rdkit_mol = _reshuffled(molecules_up_to(max_atoms), seed, index)
    return BondedMolecule("neutral_organics", smiles, 0, 1, rdkit_mol)


def sample_own(
    smiles: tuple[str, ...], domain: str, seed: tuple[int, ...], index: int, max_atoms: int
) -> BondedMolecule:
    """Likewise of one's own molecules; charge and unpaired electrons are what the SMILES say.

    Raises:
        InputError: a SMILES cannot be read, or no molecule is as small as `max_atoms`.
    """
    name, rdkit_mol = _reshuffled(_own(smiles, domain, max_atoms), seed, index)
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in rdkit_mol.GetAtoms())
    return BondedMolecule(
        domain, name, import_optional("rdkit.Chem").GetFormalCharge(rdkit_mol), 1 + unpaired, rdkit_mol
    )


def _reshuffled(molecules: list[tuple[str, Any]], seed: tuple[int, ...], index: int) -> tuple[str, Any]:
    epoch, position = divmod(index, len(molecules))
    return molecules[np.random.default_rng([*seed, epoch]).permutation(len(molecules))[position]]


@cache
def _own(smiles: tuple[str, ...], domain: str, max_atoms: int) -> list[tuple[str, Any]]:
    chem, molecules = import_optional("rdkit.Chem"), []
    for text in smiles:
        with silence_rdkit():
            rdkit_mol = chem.MolFromSmiles(text)
        if rdkit_mol is None or not rdkit_mol.GetNumAtoms():
            raise InputError(f"{text!r} is no SMILES", where=f"{domain}, smiles", remedy="correct or remove it")
        molecules.append((text, chem.AddHs(rdkit_mol)))
    return _at_most(max_atoms, molecules, f"{domain}, smiles")


@cache
def molecules_up_to(max_atoms: int) -> list[tuple[str, Any]]:
    """SMILES and RDKit molecules with at most `max_atoms` atoms, hydrogens included.

    Raises:
        InputError: there is none.
    """
    return _at_most(max_atoms, _all(), "neutral_organics")


def _at_most(max_atoms: int, molecules: list[tuple[str, Any]], where: str) -> list[tuple[str, Any]]:
    small = [(smiles, rdkit_mol) for smiles, rdkit_mol in molecules if rdkit_mol.GetNumAtoms() <= max_atoms]
    if not small:
        problem = f"no molecule has at most {max_atoms} atoms"
        raise InputError(problem, where=where, remedy="set a larger max_atoms for this domain")
    return small


@cache
def _all() -> list[tuple[str, Any]]:
    """Canonical SMILES and molecules: neutral, one fragment, closed shell, elements of `ELEMENTS`."""
    chem, config = import_optional("rdkit.Chem"), import_optional("rdkit.RDConfig")
    molecules = {}
    with silence_rdkit():
        for line in (Path(config.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines():
            rdkit_mol = chem.MolFromSmiles(line.split()[0])
            if rdkit_mol is not None and _wanted(chem.AddHs(rdkit_mol)):
                molecules[chem.MolToSmiles(rdkit_mol)] = chem.AddHs(rdkit_mol)
    return list(molecules.items())


def _wanted(rdkit_mol: Any) -> bool:
    chem = import_optional("rdkit.Chem")
    atoms = list(rdkit_mol.GetAtoms())
    return (
        bool(atoms)
        and len(chem.GetMolFrags(rdkit_mol)) == 1
        and chem.GetFormalCharge(rdkit_mol) == 0
        and all(atom.GetAtomicNum() in ELEMENTS and not atom.GetNumRadicalElectrons() for atom in atoms)
    )
