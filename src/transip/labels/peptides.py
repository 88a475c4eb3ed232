"""Biomolecules: peptides of one to five residues in several protonation states, and nucleobases and sugars."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from transip.extras import import_optional
from transip.labels.geometries import BondedMolecule
from transip.labels.molecules import LabelingError, silence_rdkit

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
LONGEST = 5  # residues
PEPTIDES = 0.85  # share; the rest are fragments of nucleic acids and carbohydrates

# (what it matches, probability that its proton state is the charged one), site by site
SITES = {
    1: (  # bases: the matched atom gains H and a charge of +1
        ("[NX3;H2,H1;!$(NC=[O,N]);!$(N[c,C]=*);!$(Nc)]", 0.6),  # amine
        ("[NX2;$(N=C(N)N)]", 0.8),  # guanidine
        ("[nX2;r5;$(n1cncc1),$(n1ccnc1)]", 0.3),  # imidazole
    ),
    -1: (  # acids: the matched atom loses its H and gains a charge of −1
        ("[OX2H;$(OC=O)]", 0.6),  # carboxylic acid
        ("[OX2H;$(OP=O)]", 0.5),  # phosphate
        ("[SX2H]", 0.2),  # thiol
    ),
}

FRAGMENTS = (
    "Nc1ncnc2[nH]cnc12",  # adenine
    "Nc1nc2[nH]cnc2c(=O)[nH]1",  # guanine
    "Nc1cc[nH]c(=O)n1",  # cytosine
    "Cc1c[nH]c(=O)[nH]c1=O",  # thymine
    "O=c1cc[nH]c(=O)[nH]1",  # uracil
    "OC[C@H]1OC(O)[C@H](O)[C@@H]1O",  # ribose
    "OC[C@H]1OC(O)C[C@@H]1O",  # deoxyribose
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",  # glucose
    "COP(=O)(O)OC",  # the phosphodiester of the backbone
    "COP(=O)(O)O",
    "OC[C@H]1O[C@H](C[C@@H]1O)n1cnc2c(N)ncnc12",  # deoxyadenosine
    "OC[C@H]1O[C@H](C[C@@H]1O)n1ccc(N)nc1=O",  # deoxycytidine
    "OC[C@H]1O[C@H](C[C@@H]1O)n1cc(C)c(=O)[nH]c1=O",  # thymidine
)


def sample_biomolecule(rng: np.random.Generator, max_atoms: int) -> BondedMolecule:
    """A peptide of random sequence, or a fragment, with every titratable site protonated or not at random.

    Raises:
        LabelingError: RDKit does not accept the protonation state.
    """
    chem = import_optional("rdkit.Chem")
    if rng.random() < PEPTIDES:
        longest = min(LONGEST, max(1, max_atoms // 12))  # a residue has a dozen atoms or so
        sequence = "".join(rng.choice(list(RESIDUES), size=rng.integers(1, longest, endpoint=True)))
        rdkit_mol = chem.MolFromSequence(sequence)
    else:
        rdkit_mol = chem.MolFromSmiles(str(rng.choice(FRAGMENTS)))
    with silence_rdkit():
        rdkit_mol = protonated(rdkit_mol, rng)
    source = chem.MolToSmiles(rdkit_mol)
    return BondedMolecule("biomolecules", source, chem.GetFormalCharge(rdkit_mol), 1, chem.AddHs(rdkit_mol))


def protonated(rdkit_mol: Any, rng: np.random.Generator) -> Any:
    """Give or take a proton at each of `SITES` with its probability; `rdkit_mol` is not touched.

    Raises:
        LabelingError: the result is not a valid molecule.
    """
    chem = import_optional("rdkit.Chem")
    changed = chem.RWMol(rdkit_mol)
    for pattern, probability, charge in _sites():
        for (atom_index,) in rdkit_mol.GetSubstructMatches(pattern):
            if rng.random() < probability:
                atom = changed.GetAtomWithIdx(atom_index)
                atom.SetNumExplicitHs(rdkit_mol.GetAtomWithIdx(atom_index).GetTotalNumHs() + charge)
                atom.SetNoImplicit(True)
                atom.SetFormalCharge(charge)
    try:
        chem.SanitizeMol(changed)
    except ValueError:  # RDKit's valence and aromaticity errors
        raise LabelingError("impossible protonation state") from None
    return changed.GetMol()


@cache
def _sites() -> list[tuple[Any, float, int]]:
    smarts = import_optional("rdkit.Chem").MolFromSmarts
    return [(smarts(pattern), probability, charge) for charge in (1, -1) for pattern, probability in SITES[charge]]
