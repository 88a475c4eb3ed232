"""Biomolecules: peptides of one to five residues in several protonation states, and nucleobases and sugars."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from transip.extras import import_optional
from transip.labels.molecules import Failed, Molecule
from transip.labels.organics import quiet

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


def draw(rng: np.random.Generator, max_atoms: int) -> Molecule:
    """A peptide of random sequence, or a fragment, with every titratable site protonated or not at random.

    Raises:
        Failed: RDKit does not accept the protonation state.
    """
    chem = import_optional("rdkit.Chem")
    if rng.random() < PEPTIDES:
        longest = min(LONGEST, max(1, max_atoms // 12))  # a residue has a dozen atoms or so
        sequence = "".join(rng.choice(list(RESIDUES), size=rng.integers(1, longest, endpoint=True)))
        bonds = chem.MolFromSequence(sequence)
    else:
        bonds = chem.MolFromSmiles(str(rng.choice(FRAGMENTS)))
    with quiet():
        bonds = protonated(bonds, rng)
    source = chem.MolToSmiles(bonds)
    return Molecule("biomolecules", source, chem.GetFormalCharge(bonds), 1, bonds=chem.AddHs(bonds))


def protonated(bonds: Any, rng: np.random.Generator) -> Any:
    """Give or take a proton at each of `SITES` with its probability; `bonds` is not touched.

    Raises:
        Failed: the result is not a valid molecule.
    """
    chem = import_optional("rdkit.Chem")
    changed = chem.RWMol(bonds)
    for pattern, probability, charge in _sites():
        for (place,) in bonds.GetSubstructMatches(pattern):
            if rng.random() < probability:
                atom = changed.GetAtomWithIdx(place)
                atom.SetNumExplicitHs(bonds.GetAtomWithIdx(place).GetTotalNumHs() + charge)
                atom.SetNoImplicit(True)
                atom.SetFormalCharge(charge)
    try:
        chem.SanitizeMol(changed)
    except ValueError:  # RDKit's valence and aromaticity errors
        raise Failed("impossible protonation state") from None
    return changed.GetMol()


@cache
def _sites() -> list[tuple[Any, float, int]]:
    smarts = import_optional("rdkit.Chem").MolFromSmarts
    return [(smarts(pattern), share, charge) for charge in (1, -1) for pattern, share in SITES[charge]]
