"""What would turn a molecule as a whole is taken out of its forces, and nothing else."""

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet

from transip.inference.ase import TransIPCalculator
from transip.inference.md import maxwell_boltzmann_velocities
from transip.inference.relax import relax
from transip.inference.torque import RemoveNetTorque
from transip.structure import Structure


def forces_of(atoms: ase.Atoms, found: np.ndarray, masses: np.ndarray | None) -> np.ndarray:
    """Forces on `atoms` under the constraint, `found` without it."""
    atoms.calc = SinglePointCalculator(atoms, forces=found)
    atoms.set_constraint(RemoveNetTorque(masses))
    return atoms.get_forces()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["CH3OH", "CO2", "H2", "C6H6"])
def test_net_force_and_torque_vanish_and_doing_it_again_changes_nothing(name, weighted):
    atoms = molecule(name)
    masses = atoms.get_masses() if weighted else None
    given = np.random.default_rng(0).normal(size=(len(atoms), 3))
    found = forces_of(atoms, given, masses)
    np.testing.assert_allclose(found.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cross(atoms.positions, found).sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(forces_of(atoms, found, masses), found, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_forces_without_a_torque_stay_as_they_are(weighted):
    """Those of springs between all atoms."""
    atoms = molecule("CH3OH")
    apart = atoms.positions[:, None] - atoms.positions
    springs = -(apart * np.exp(-np.linalg.norm(apart, axis=-1, keepdims=True))).sum(1)
    found = forces_of(atoms, springs, atoms.get_masses() if weighted else None)
    np.testing.assert_allclose(found, springs, atol=1e-12)


def test_without_angular_momentum_nothing_is_lost_of_the_power():
    atoms = molecule("CH3CH2OH")
    maxwell_boltzmann_velocities(atoms, 300.0, np.random.default_rng(1))
    given = np.random.default_rng(2).normal(size=(len(atoms), 3))
    found = forces_of(atoms, given, atoms.get_masses())
    assert (found * atoms.get_velocities()).sum() == pytest.approx((given * atoms.get_velocities()).sum(), rel=1e-12)


def test_a_crystal_keeps_its_torque():
    atoms = bulk("NaCl", "rocksalt", 5.6)
    given = np.random.default_rng(0).normal(size=(2, 3))
    np.testing.assert_allclose(forces_of(atoms, given, None), given - given.mean(0), atol=1e-12)


def test_a_simulation_never_begins_to_turn_and_conserves_its_energy(make_model):
    """A random network's energy depends on orientation strongly."""
    calculator = TransIPCalculator(make_model(scale=0.1, forces="conservative"), charge=0, spin=1, dtype="float64")
    energies, turning = {}, {}
    for constrained in (False, True):
        atoms = molecule("CH3OH")
        atoms.calc = calculator
        maxwell_boltzmann_velocities(atoms, 300.0, np.random.default_rng(0))
        if constrained:
            atoms.set_constraint(RemoveNetTorque(atoms.get_masses()))
        found = [atoms.get_total_energy() for _ in VelocityVerlet(atoms, 0.1 * units.fs).irun(40)]
        energies[constrained], turning[constrained] = np.ptp(found), np.linalg.norm(atoms.get_angular_momentum())
    assert turning[True] < 1e-10 < 1e-3 < turning[False]
    assert energies[True] < 2 * energies[False]


def test_a_relaxation_settles_where_it_would_turn_for_long(make_model):
    calculator = TransIPCalculator(make_model(scale=0.1, forces="conservative"), charge=0, spin=1, dtype="float64")
    structure = Structure.from_atoms(molecule("H2O"), charge=0, spin=1)
    relaxed, row = relax(structure, calculator, fmax=1e-4, steps=300, optimizer="LBFGS")
    assert row["converged"], row
    assert np.linalg.norm(relaxed.forces, axis=1).max() > 1e-2  # what is left is the torque
