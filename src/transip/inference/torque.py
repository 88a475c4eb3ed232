"""Removes from forces the net torque that learned symmetry leaves: it would rotate a molecule as a whole."""

from __future__ import annotations

import ase
import numpy as np
from ase.constraints import FixConstraint
from jaxtyping import Float64

from transip.structure import rigid_body_modes


class RemoveNetTorque(FixConstraint):
    """Removes net force and torque from the forces on a molecule; from those on a periodic system the net force alone.

    An energy that depends on orientation a little, as a learned one does, has a torque. It would rotate what is relaxed
    towards some orientation, long after all bonds have settled, and spin up what is simulated.

    Args:
        masses: amu; with them accelerations are freed of rotation, which does no work while there is no angular
            momentum, so that energy is still conserved. Without them the change of forces is the smallest that will do.
    """

    def __init__(self, masses: Float64[np.ndarray, "atoms"] | None = None):
        self.masses = masses

    def adjust_positions(self, atoms: ase.Atoms, new: np.ndarray) -> None:
        """Positions are free."""

    def adjust_momenta(self, atoms: ase.Atoms, momenta: np.ndarray) -> None:
        """Momenta are free: a molecule that is given an angular momentum rotates."""

    def adjust_forces(self, atoms: ase.Atoms, forces: np.ndarray) -> None:
        """Project the rigid motions out of `forces`, in place."""
        root = np.ones((len(atoms), 1)) if self.masses is None else np.sqrt(self.masses)[:, None]
        rigid = rigid_body_modes(atoms.positions, self.masses, periodic=bool(atoms.pbc.any()))
        weighted = (forces / root).ravel()
        forces -= (rigid @ (rigid.T @ weighted)).reshape(-1, 3) * root

    redistribute_forces_md = adjust_forces  # ASE's name for it in molecular dynamics
