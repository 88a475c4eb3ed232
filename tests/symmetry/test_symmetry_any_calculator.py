"""Equivariance errors and averages of calculators that are not ours: exact ones, and one broken by a known amount."""

import math

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from scipy.spatial.transform import Rotation

from transip.errors import InputError
from transip.inference.ase import TransIPCalculator
from transip.symmetry import RotationAveragedCalculator, rotation_error
from transip.symmetry.average import rotation_set

FIELD = 0.1  # eV/Å


class Tilted(LennardJones):
    """Lennard-Jones in a field that pulls every atom along z: invariance and equivariance are broken."""

    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        self.results["energy"] -= FIELD * self.atoms.positions[:, 2].sum()
        self.results["forces"] = self.results["forces"] + FIELD * np.array([0, 0, 1])


@pytest.fixture
def molecules():
    return [molecule("CH3OH"), molecule("H2O"), molecule("C2H6")]


@pytest.mark.parametrize("calculator", [EMT(), LennardJones(rc=10)])
def test_a_calculator_of_distances_has_no_error(molecules, calculator):
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=0)
    before = [atoms.copy() for atoms in molecules]
    found = rotation_error(calculator, [*molecules, crystal])
    assert found == pytest.approx({name: 0 for name in found}, abs=1e-9)
    assert molecules == before and all(atoms.calc is None for atoms in molecules)


def test_a_broken_calculator_has_the_error_that_it_was_given(molecules):
    """A component of a field of random direction deviates by half of the field, in absolute mean."""
    found = rotation_error(Tilted(rc=10), molecules, rotations=400)
    assert found["force_rotation_error"] == pytest.approx(FIELD / 2, rel=0.05)
    dipoles = [np.linalg.norm(FIELD * atoms.positions.sum(0)) / math.sqrt(3) for atoms in molecules]
    assert found["energy_rotation_spread"] == pytest.approx(np.mean(dipoles), rel=0.05)


@pytest.mark.parametrize("number", [12, 24, 60])
def test_an_average_over_a_group_takes_the_field_out(molecules, number):
    exact, averaged = LennardJones(rc=10), RotationAveragedCalculator(Tilted(rc=10), number)
    for atoms in molecules:
        np.testing.assert_allclose(averaged.get_forces(atoms), exact.get_forces(atoms), atol=1e-9)
        assert averaged.get_potential_energy(atoms) == pytest.approx(exact.get_potential_energy(atoms))
        unbiased = math.sqrt(number / (number - 1))
        np.testing.assert_allclose(averaged.results["forces_std"], FIELD * unbiased, rtol=1e-9)
    error = rotation_error(averaged, molecules)["force_rotation_error"]
    assert error == pytest.approx(0, abs=1e-9)


def test_of_our_own_models_it_says_what_they_say_themselves(make_model, molecules):
    options = {"charge": 0, "spin": 1, "dtype": "float64", "device": "cpu"}
    plain, own = TransIPCalculator(make_model(), **options), TransIPCalculator(make_model(), average=12, **options)
    averaged = RotationAveragedCalculator(plain, 12)
    for atoms in molecules:
        np.testing.assert_allclose(averaged.get_forces(atoms), own.get_forces(atoms), atol=1e-8)
        assert averaged.results["energy_std"] == pytest.approx(own.results["energy_std"])
        np.testing.assert_allclose(averaged.results["forces_std"], own.results["forces_std"], atol=1e-8)


def test_nothing_to_measure(molecules):
    with pytest.raises(InputError, match="1 rotations have no spread"):
        rotation_error(EMT(), molecules, rotations=1)
    with pytest.raises(InputError, match="no spread"):
        RotationAveragedCalculator(EMT(), 1)
    with pytest.raises(InputError, match="no structures"):
        rotation_error(EMT(), [])


# ------------------------------------------------------------------------------------------ honest spreads


def octahedron(bond: float):
    from ase import Atoms

    return Atoms("SF6", [[0, 0, 0], *(sign * bond * axis for axis in np.eye(3) for sign in (1, -1))])


@pytest.mark.parametrize("number", [12, 24, 60])
@pytest.mark.parametrize("atoms", [molecule("CH4"), octahedron(1.56)], ids=["CH4", "SF6"])
def test_a_symmetric_molecule_along_the_axes_has_the_spread_of_any_other(make_model, atoms, number):
    """Rotated by the symmetries of its own shape it would look the same every time, and the spread would be zero."""
    calculator = TransIPCalculator(make_model(), charge=0, spin=1, dtype="float64", device="cpu", average=number)

    def spread(rotation: Rotation) -> float:
        rotated = atoms.copy()
        rotated.positions = rotation.apply(atoms.positions)
        calculator.get_forces(rotated)
        return calculator.results["energy_std"]

    others = [spread(rotation) for rotation in Rotation.random(6, rng=np.random.default_rng(0))]
    assert spread(Rotation.identity()) > 0.3 * np.median(others) > 0


def test_tilted_groups_are_groups():
    for number in (12, 24, 60):
        group = rotation_set(number)
        products = (group[:, None] @ group).view(-1, 1, 3, 3)
        assert ((products - group).abs().amax((-1, -2)).amin(1) < 1e-9).all()
