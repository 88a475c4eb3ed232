"""Which molecule comes next, domain by domain: a pure function of seed and index."""

from __future__ import annotations

import numpy as np

from transip.config import DomainSettings
from transip.errors import InputError
from transip.labels import complexes, electrolytes, liquids, organics, peptides, reactive
from transip.labels.molecules import MoleculeSpec

ATTEMPTS = 200  # draws until one is small enough

_DRAW = {
    "biomolecules": peptides.sample_biomolecule,
    "elytes": electrolytes.sample_electrolyte,
    "liquids": liquids.sample_water_box,
    "metal_complexes": complexes.sample_complex,
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
        if len(molecule) <= settings.max_atoms:
            return molecule
    raise InputError(
        f"no molecule found with at most {settings.max_atoms} atoms",
        where=settings.domain,
        remedy="set a larger max_atoms for this domain",
    )
