"""Reference methods: forces are derivatives, multiplicity matters, failures are typed."""

from dataclasses import replace

import ase.data
import numpy as np
import pytest
from ase.units import Bohr, Hartree

from transip.labels.methods import GFN2, METHODS, SCF_FAILED, gfn2_xtb, wb97m_v
from transip.labels.molecules import LabelingError
from transip.structure import Structure

pytest.importorskip("tblite")

STEP = 1e-3  # Å
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.78, -0.46], [0.0, -0.74, -0.5]])
METHYL = np.array([[0.0, 0.0, 0.1], [1.08, 0.0, 0.0], [-0.54, 0.95, 0.0], [-0.54, -0.93, 0.05]])


def structure(numbers, positions, charge=0, spin=1):
    return Structure(np.array(numbers), np.array(positions, dtype=float), charge, spin)


CASES = {
    "water": structure([8, 1, 1], WATER),
    "hydronium": structure([8, 1, 1, 1], [*WATER, [0.9, 0.1, 0.5]], charge=1),
    "methyl": structure([6, 1, 1, 1], METHYL, spin=2),
    "triplet oxygen": structure([8, 8], [[0, 0, 0], [0.1, 0.2, 1.24]], spin=3),
    "iron dichloride": structure([26, 17, 17], [[0, 0, 0], [0, 0.1, 2.2], [0, 0.2, -2.15]], spin=5),
}


def numerical_forces(label, case):
    forces = np.empty_like(case.positions)
    for place in np.ndindex(forces.shape):
        step = np.zeros_like(forces)
        step[place] = STEP
        up, down = (label(replace(case, positions=case.positions + s * step)).energy for s in (1, -1))
        forces[place] = -(up - down) / (2 * STEP)
    return forces


@pytest.mark.parametrize("name", CASES)
def test_gfn2_forces_are_minus_the_derivative_of_the_energy(name):
    labelled = gfn2_xtb(CASES[name])
    np.testing.assert_allclose(labelled.forces, numerical_forces(gfn2_xtb, CASES[name]), atol=2e-3)
    np.testing.assert_allclose(labelled.forces.sum(0), 0, atol=1e-6)
    assert CASES[name].energy is None  # the argument is left alone


def check_electrons(label, case, *, atol):
    """Charges sum to the total charge and spins to 2S; nothing depends on the origin."""
    labelled, moved = label(case), label(replace(case, positions=case.positions + np.array([3.0, -5.0, 8.0])))
    assert labelled.charges.sum() == pytest.approx(case.charge, abs=1e-6)
    assert labelled.spin_populations.sum() == pytest.approx(case.spin - 1, abs=1e-6)
    for name in ("charges", "spin_populations", "dipole"):
        np.testing.assert_allclose(getattr(moved, name), getattr(labelled, name), atol=atol, err_msg=name)
    return labelled


@pytest.mark.parametrize("name", CASES)
def test_gfn2_charges_spins_and_dipoles(name):
    case = CASES[name]
    labelled = check_electrons(gfn2_xtb, case, atol=1e-3)  # as far as the self-consistent field is converged
    calculator, _ = without_polarisation(case)
    if case.spin > 1:
        calculator.add("spin-polarization", 1.0)
    about_origin = calculator.singlepoint().get("dipole") * Bohr
    masses = ase.data.atomic_masses[case.numbers]
    about_centre = about_origin - case.charge * (masses @ case.positions) / masses.sum()
    np.testing.assert_allclose(labelled.dipole, about_centre, atol=1e-6)


def test_a_dipole_is_minus_the_derivative_of_the_energy_in_a_field():
    """Of an ion about its centre of mass: the potential of the field is zero there."""
    from tblite.library import ffi

    case, field = CASES["hydronium"], 1e-3
    energies = []
    for sign in (1, -1):
        calculator, _ = without_polarisation(replace(case, positions=case.positions - case.center_of_mass))
        calculator.set("accuracy", 0.001)
        calculator.add("electric-field", ffi.new("double[3]", [sign * field, 0, 0]))
        energies.append(calculator.singlepoint().get("energy"))
    expected = -(energies[0] - energies[1]) / (2 * field) * Bohr
    assert gfn2_xtb(case).dipole[0] == pytest.approx(expected, rel=1e-3)


def test_charges_spins_and_dipoles_of_separated_molecules_add_up():
    """An ion's share of the dipole moves with the origin."""
    ion, radical = CASES["hydronium"], CASES["methyl"]
    radical = replace(radical, positions=radical.positions + np.array([40.0, -20.0, 10.0]))
    numbers, positions = (
        np.concatenate([getattr(x, name) for x in (ion, radical)]) for name in ("numbers", "positions")
    )
    parts, whole = [gfn2_xtb(ion), gfn2_xtb(radical)], gfn2_xtb(structure(numbers, positions, charge=1, spin=2))
    for name in ("charges", "spin_populations"):
        expected = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(getattr(whole, name), expected, atol=2e-3, err_msg=name)
    about_origin = [x.dipole + x.charge * x.center_of_mass for x in (whole, *parts)]
    np.testing.assert_allclose(about_origin[0], sum(about_origin[1:]), atol=2e-3)


def test_spin_populations_are_on_the_radical_atom():
    assert gfn2_xtb(CASES["methyl"]).spin_populations.argmax() == 0
    np.testing.assert_allclose(gfn2_xtb(CASES["triplet oxygen"]).spin_populations, 1, atol=1e-6)
    assert not gfn2_xtb(CASES["water"]).spin_populations.any()


@pytest.mark.parametrize("name", ["water", "hydronium", "triplet oxygen"])
def test_wb97m_v_charges_spins_and_dipoles(name):
    pytest.importorskip("pyscf")
    labelled = check_electrons(lambda case: wb97m_v(case, basis="sto-3g"), CASES[name], atol=1e-5)
    assert labelled.charges[0] < labelled.charges[1] + 1e-6  # oxygen is negative


def without_polarisation(case):
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", case.numbers, case.positions / Bohr, float(case.charge), case.spin - 1)
    calculator.set("verbosity", 0)
    return calculator, Hartree


def test_multiplicity_acts_through_spin_polarisation():
    singlet, triplet = (replace(CASES["triplet oxygen"], spin=spin) for spin in (1, 3))
    plain, unit = without_polarisation(triplet)
    lowered = gfn2_xtb(triplet).energy - plain.singlepoint().get("energy") * unit
    assert lowered < -0.1  # eV: unpaired electrons of equal spin attract
    assert gfn2_xtb(triplet).energy < gfn2_xtb(singlet).energy - 0.5  # oxygen is a triplet


def test_spin_polarisation_vanishes_for_closed_shells():
    with_term, unit = without_polarisation(CASES["water"])
    with_term.add("spin-polarization", 1.0)
    assert with_term.singlepoint().get("energy") * unit == pytest.approx(gfn2_xtb(CASES["water"]).energy, abs=1e-7)


def test_charge_changes_the_energy():
    assert gfn2_xtb(replace(CASES["water"], charge=1, spin=2)).energy > gfn2_xtb(CASES["water"]).energy + 5


def test_a_walking_calculation_agrees_with_fresh_ones():
    case, rng = CASES["methyl"], np.random.default_rng(0)
    walking = GFN2(case.numbers, case.charge, case.spin)
    for _ in range(4):
        positions = case.positions + rng.normal(scale=0.05, size=case.positions.shape)
        energy, forces = walking(positions)
        fresh = gfn2_xtb(replace(case, positions=positions))
        assert energy == pytest.approx(fresh.energy, abs=1e-5)
        np.testing.assert_allclose(forces, fresh.forces, atol=1e-3)


def test_a_field_that_does_not_converge_is_a_counted_failure(monkeypatch):
    calculation = GFN2(CASES["iron dichloride"].numbers, 0, 5)
    start = calculation._start

    def impatient(positions):
        calculator = start(positions)
        calculator.set("max-iter", 2)
        return calculator

    monkeypatch.setattr(calculation, "_start", impatient)
    with pytest.raises(LabelingError) as failed:
        calculation(CASES["iron dichloride"].positions)
    assert failed.value.reason == SCF_FAILED


def test_wb97m_v_forces_are_minus_the_derivative_of_the_energy():
    pytest.importorskip("pyscf")

    def label(case):
        return wb97m_v(case, basis="sto-3g")

    labelled = label(CASES["water"])
    step = np.zeros((3, 3))
    step[1, 1] = 5 * STEP
    up, down = (label(replace(CASES["water"], positions=WATER + s * step)).energy for s in (1, -1))
    assert labelled.forces[1, 1] == pytest.approx(-(up - down) / (10 * STEP), abs=2e-3)
    np.testing.assert_allclose(labelled.forces.sum(0), 0, atol=1e-4)


def test_levels_of_theory_are_told_apart():
    assert "GFN2" in METHODS["gfn2-xtb"].level_of_theory
    assert "def2-TZVPD" in METHODS["wb97m-v"].level_of_theory
