"""A molecule as the chemical domains offer it, before it has a labelled geometry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from transip.config import DomainSettings
from transip.extras import import_optional
from transip.structure import Structure


class LabelingError(Exception):
    """A molecule or geometry that could not be labelled; the campaign counts it by `reason` and goes on."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class MoleculeSpec(ABC):
    """Which atoms there are, with which charge and multiplicity; subclasses know where geometries come from.

    Attributes:
        domain: chemical domain.
        source: SMILES or name.
        charge: total charge in e of the geometries.
        spin: multiplicity 2S + 1 of the geometries.
    """

    domain: str
    source: str
    charge: int
    spin: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of atoms."""

    @abstractmethod
    def geometries(self, settings: DomainSettings, rng: np.random.Generator) -> Iterator[Structure]:
        """Yield up to `settings.conformers` geometries, some of them labelled with GFN2-xTB already.

        Raises:
            LabelingError: no geometry can be made.
        """

    def check_labels(self, labelled: Structure) -> Structure:
        """Return `labelled`, a labelled geometry of this molecule, if its electronic state is the one that is meant.

        Raises:
            LabelingError: it is not; nothing is known of most molecules to tell.
        """
        return labelled

    def at(self, numbers: np.ndarray, positions: np.ndarray, **fields: Any) -> Structure:
        """The structure with these atoms at these `positions` (Å), and `fields` of a `Structure`."""
        return Structure(numbers, positions, self.charge, self.spin, domain=self.domain, source=self.source, **fields)


def atomic_numbers(rdkit_mol: Any) -> Int64[np.ndarray, "atoms"]:
    """Atomic numbers of an RDKit molecule."""
    return np.array([atom.GetAtomicNum() for atom in rdkit_mol.GetAtoms()], dtype=np.int64)


def silence_rdkit() -> Any:
    """A context in which RDKit does not comment on every molecule it dislikes."""
    return import_optional("rdkit.rdBase").BlockLogs()
