"""Which molecule comes next, domain by domain: a pure function of seed and index."""

from __future__ import annotations

import numpy as np

from transip.config import DomainSettings
from transip.errors import InputError
from transip.labels import complexes, electrolytes, liquids, organics, peptides, reactive
from transip.labels.molecules import Molecule

ATTEMPTS = 200  # draws until one is small enough

_DRAW = {
    "biomolecules": peptides.draw,
    "elytes": electrolytes.draw,
    "liquids": liquids.draw,
    "metal_complexes": complexes.draw,
    "reactivity": reactive.draw,
}


def draw(settings: DomainSettings, seed: tuple[int, ...], index: int) -> Molecule:
    """Molecule `index` of a domain's endless sequence.

    Raises:
        InputError: the domain has no molecule of at most `settings.max_atoms` atoms, or a SMILES cannot be read.
        Failed: this molecule could not be built.
    """
    if settings.smiles:
        return organics.draw_own(settings.smiles, settings.domain, seed, index, settings.max_atoms)
    if settings.domain == "neutral_organics":
        return organics.draw(seed, index, settings.max_atoms)
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
