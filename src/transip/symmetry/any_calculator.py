"""Equivariance errors and rotational averages of any ASE calculator: of other packages' models as of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from jaxtyping import Float64
from torch import Tensor

from transip.errors import InputError
from transip.rotations import random_rotations
from transip.symmetry.average import rotation_set
from transip.symmetry.measure import EquivarianceErrors


def rotation_error(
    calculator: Calculator, structures: Iterable[ase.Atoms], *, rotations: int = 4, seed: int = 0
) -> dict[str, float]:
    """Equivariance errors of the energies and forces of any ASE calculator.

    Args:
        calculator: with energies (eV) and forces (eV/Å).
        structures: molecules or crystals, with whatever the calculator needs in ``info``; not changed.
        rotations: random orientations of each; at least 2.
        seed: of the orientations.

    Returns:
        ``energy_rotation_spread`` (eV), ``energy_rotation_spread_per_atom`` (eV/atom) and ``force_rotation_error``
        (eV/Å), as `measure_symmetry` defines them; all zero for a calculator that is equivariant.

    Raises:
        InputError: there are no structures, or fewer than two rotations.
    """
    _check_number(rotations)
    generator, errors = torch.Generator().manual_seed(seed), EquivarianceErrors()
    for atoms in structures:
        energy, forces = calculate_rotated(calculator, atoms, random_rotations(rotations, generator, torch.float64))
        errors.add(energy[:, None], forces, torch.tensor([len(atoms)]))
    if not errors.structures:
        raise InputError("there are no structures to rotate", remedy="give at least one")
    return errors.result()


class RotationAveragedCalculator(Calculator):
    """Energies and forces of another calculator, averaged over the orientations of the structure.

    ``results`` also holds the spreads between the orientations, ``energy_std`` (eV) and ``forces_std`` (eV/Å, per
    atom): for a model that learns its symmetry they grow with its error.

    Args:
        calculator: any ASE calculator with energies and forces; asked once for each orientation.
        rotations: 12, 24, 60 (rotation groups) or another number (random rotations, always the same).

    Raises:
        InputError: fewer than two rotations.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012

    def __init__(self, calculator: Calculator, rotations: int = 12):
        super().__init__()
        _check_number(rotations)
        self.calculator, self.rotations = calculator, rotation_set(rotations)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``: everything, whatever was asked for."""
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise InputError("there is no molecule to calculate", remedy="set atoms.calc, or pass atoms")
        energy, forces = calculate_rotated(self.calculator, self.atoms, self.rotations)
        self.results: dict[str, Any] = {
            "energy": float(energy.mean()),
            "free_energy": float(energy.mean()),
            "forces": forces.mean(0).numpy(),
            "energy_std": float(energy.std()),
            "forces_std": forces.var(0).sum(-1).sqrt().numpy(),
        }


def calculate_rotated(
    calculator: Calculator, atoms: ase.Atoms, rotations: Float64[Tensor, "rotations 3 3"]
) -> tuple[Float64[Tensor, "rotations"], Float64[Tensor, "rotations atoms 3"]]:
    """Energies (eV) and forces (eV/Å), rotated back, of `atoms` in each of the orientations `rotations`."""
    energies, forces = [], []
    for rotation in rotations.numpy():
        rotated = atoms.copy()
        rotated.set_constraint()
        rotated.positions = atoms.positions @ rotation.T
        rotated.cell = atoms.cell.array @ rotation.T
        rotated.calc = calculator
        energies.append(float(rotated.get_potential_energy()))
        forces.append(rotated.get_forces() @ rotation)
    return torch.tensor(energies, dtype=torch.float64), torch.from_numpy(np.array(forces, dtype=np.float64))


def _check_number(rotations: int) -> None:
    if rotations < 2:
        raise InputError(f"{rotations} rotations have no spread", remedy="2 are the least; 12, 24, 60 are groups")
