"""A molecule as the chemical domains offer it, before it has a labelled geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

Edit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Failed(Exception):
    """A molecule or geometry that could not be labelled; the campaign counts it by `reason` and goes on."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Molecule:
    """Atoms, charge and multiplicity, with either bonds (to be embedded) or start positions.

    Attributes:
        domain: chemical domain.
        source: SMILES or name.
        charge: total charge in e, after `edit`.
        spin: multiplicity 2S + 1, after `edit`.
        bonds: an RDKit molecule with explicit hydrogens, whose force field gives the geometries; or None.
        numbers: atomic numbers, (atoms,), if there are no bonds.
        positions: start positions in Å, (atoms, 3), if there are no bonds.
        cell: lattice vectors in Å, (3, 3), of a periodic box of molecules.
        edit: changes (numbers, positions) of a finished geometry: removes a hydrogen, stretches a bond.
    """

    domain: str
    source: str
    charge: int
    spin: int
    bonds: Any = None
    numbers: Int64[np.ndarray, "atoms"] | None = None
    positions: Float64[np.ndarray, "atoms 3"] | None = None
    cell: Float64[np.ndarray, "3 3"] | None = None
    edit: Edit | None = None

    def __len__(self) -> int:
        return self.bonds.GetNumAtoms() if self.numbers is None else len(self.numbers)


def atomic_numbers(bonds: Any) -> Int64[np.ndarray, "atoms"]:
    """Atomic numbers of an RDKit molecule."""
    return np.array([atom.GetAtomicNum() for atom in bonds.GetAtoms()], dtype=np.int64)
