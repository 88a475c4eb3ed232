"""Which molecule comes next, domain by domain: a pure function of seed and index."""

from __future__ import annotations

import numpy as np

from transip.config import DomainSettings
from transip.errors import InputError
from transip.labels import complexes, electrolytes, liquids, organics, pairs, peptides, reactive
from transip.labels.molecules import MoleculeSpec

ATTEMPTS = 200  # draws until one is small enough

# Pairs that benchmarks/pairs tests, by the canonical SMILES of both: no domain draws them, so that models have not seen
# them. Other pairs of these ions and molecules are drawn, and clusters of more of them.
HELD_OUT_PAIRS = (
    {"[Na+]", "CC(=O)[O-]"},
    {"[Li+]", "O=C1OCCO1"},
    {"[Na+]", "[Cl-]"},
    {"[NH4+]", "F[P-](F)(F)(F)(F)F"},
    {"[Mg+2]", "CS(C)=O"},
    {"O"},  # the water dimer; so are the next two
    {"c1ccccc1"},
    {"NC=O"},
)

_DRAW = {
    "biomolecules": peptides.sample_biomolecule,
    "elytes": electrolytes.sample_electrolyte,
    "liquids": liquids.sample_water_box,
    "metal_complexes": complexes.sample_complex,
    "pairs": pairs.sample_pair,
    "reactivity": reactive.sample_reaction,
}


def sample_molecule(settings: DomainSettings, seed: tuple[int, ...], index: int) -> MoleculeSpec:
    """Molecule `index` of a domain's endless sequence.

    Raises:
        InputError: the domain has no molecule of at most `settings.max_atoms` atoms, or a SMILES cannot be read.
        LabelingError: this molecule could not be built.
    """
    if settings.smiles:
        return organics.sample_own(settings.smiles, settings.domain, seed, index, settings.max_atoms)
    if settings.domain == "neutral_organics":
        return organics.sample_organic(seed, index, settings.max_atoms)
    rng = np.random.default_rng([*seed, index])
    for _ in range(ATTEMPTS):
        molecule = _DRAW[settings.domain](rng, settings.max_atoms)
        if len(molecule) <= settings.max_atoms and not is_held_out(molecule.source):
            return molecule
    raise InputError(
        f"no molecule found with at most {settings.max_atoms} atoms",
        where=settings.domain,
        remedy="set a larger max_atoms for this domain",
    )


def is_held_out(source: str) -> bool:
    """Whether `source`, SMILES joined by dots, is one of `HELD_OUT_PAIRS`."""
    species = source.split(".")
    return len(species) == 2 and set(species) in HELD_OUT_PAIRS
