"""Hessians, normal modes, `transip vibrations`."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.data import atomic_masses

from commands import call
from transip.config import BatchSettings
from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator
from transip.inference.vibrations import (
    asymmetry,
    finite_difference_hessian,
    hessian,
    normal_modes,
    vibrations_file,
)
from transip.structure import Structure, rigid_body_modes

CO2_BOND, STRETCH = 1.16, 90.0  # Å, eV/Å²


def springs(structures):
    """Forces of springs between the first atom and each of the others."""
    for one in structures:
        arms = one.positions[1:] - one.positions[0]
        length = np.linalg.norm(arms, axis=1, keepdims=True)
        pull = STRETCH * (length - CO2_BOND) * arms / length
        yield np.vstack([pull.sum(0), -pull])


def carbon_dioxide(tilt: float = 0.3) -> Structure:
    axis = np.array([np.cos(tilt), np.sin(tilt), 0.2])
    axis *= CO2_BOND / np.linalg.norm(axis)
    return Structure(np.array([6, 8, 8]), np.array([0 * axis, axis, -axis]), 0, 1)


def wavenumber(stiffness: float, mass: float) -> float:
    """cm⁻¹ of a spring (eV/Å²) and a mass (amu), by way of SI units."""
    omega = np.sqrt(stiffness * units._e * 1e20 / (mass * units._amu))
    return omega / (2 * np.pi * units._c * 100)


def test_carbon_dioxide_of_two_springs():
    """Textbook: ν₁ = √(k/m_O), ν₃ = √(k (1/m_O + 2/m_C)), and no resistance to bending; linear: 3N − 5 modes."""
    structure = carbon_dioxide()
    carbon, oxygen = atomic_masses[6], atomic_masses[8]
    found = finite_difference_hessian(springs, structure, 1e-4)
    assert asymmetry(found) < 1e-6
    modes = normal_modes(found, structure.positions, atomic_masses[structure.numbers])
    expected = [0, 0, wavenumber(STRETCH, oxygen), wavenumber(STRETCH, 1 / (1 / oxygen + 2 / carbon))]
    np.testing.assert_allclose(modes.frequencies, expected, rtol=1e-5, atol=0.5)
    np.testing.assert_allclose(modes.zero_point_energy, 0.5 * units.invcm * sum(expected), rtol=1e-3)
    symmetric, antisymmetric = modes.displacements[2:]
    np.testing.assert_allclose(symmetric[0], 0, atol=1e-5)
    assert symmetric[1] @ symmetric[2] < 0 < antisymmetric[1] @ antisymmetric[2]
    weighted = (modes.displacements * np.sqrt(atomic_masses[structure.numbers])[:, None]).reshape(4, -1)
    np.testing.assert_allclose(weighted @ weighted.T, np.eye(4), atol=1e-9)


def test_rigid_motions_are_projected_out_whatever_they_cost():
    """A potential that holds the molecule in place and orientation, as a learned symmetry may."""
    structure = carbon_dioxide()
    masses = atomic_masses[structure.numbers]
    held = np.diag(np.repeat(masses, 3)) * 3.0
    with_springs = finite_difference_hessian(springs, structure, 1e-4) + held
    modes = normal_modes(with_springs, structure.positions, masses)
    assert len(modes.frequencies) == 4
    np.testing.assert_allclose(modes.frequencies[:2], wavenumber(3.0, 1.0), rtol=1e-4)
    assert normal_modes(held[:3, :3], np.zeros((1, 3)), masses[:1]).frequencies.size == 0


@pytest.mark.parametrize("bend", [1e-5, 1e-3, 1e-2])
def test_a_molecule_relaxed_to_be_all_but_linear_keeps_both_bends(bend):
    structure = carbon_dioxide()
    positions = structure.positions.copy()
    positions[0, 2] += bend  # Å
    motions = rigid_body_modes(positions, atomic_masses[structure.numbers])
    assert motions.shape == (9, 5)
    np.testing.assert_allclose(motions.T @ motions, np.eye(5), atol=1e-12)
    assert rigid_body_modes(molecule("H2O").positions).shape == (9, 6)


def test_downhill_curvature_is_a_negative_frequency():
    structure = carbon_dioxide()
    modes = normal_modes(-finite_difference_hessian(springs, structure, 1e-4), structure.positions, np.ones(3))
    assert modes.frequencies[0] < -1000 and modes.zero_point_energy < 0.01


@pytest.mark.parametrize("limit", [3, 10_000])
def test_batches_give_the_derivative_of_the_models_forces(make_model, make_structure, limit):
    model, structure = make_model(forces="conservative"), make_structure(5, 1)
    found = hessian(model, structure, 1e-4, BatchSettings(batch_size=limit))
    assert asymmetry(found) < 1e-5
    calculator = TransIPCalculator(model, dtype="float64")
    direction = np.random.default_rng(0).normal(size=(5, 3))
    up, down = (replace(structure, positions=structure.positions + s * 1e-4 * direction) for s in (1, -1))
    difference = (calculator.get_forces(down.to_atoms()) - calculator.get_forces(up.to_atoms())) / 2e-4
    np.testing.assert_allclose((found @ direction.ravel()).reshape(-1, 3), difference, rtol=1e-4, atol=1e-3)


def test_direct_forces_have_no_symmetric_derivative(make_model, make_structure):
    assert asymmetry(hessian(make_model(), make_structure(5, 1), 1e-4)) > 0.01


def test_the_file_says_all_there_is(model_folder, tmp_path):
    atoms = [molecule(name, info={"charge": 0, "spin": 1}) for name in ("H2O", "CO2")]
    ase.io.write(tmp_path / "in.xyz", atoms, format="extxyz")
    calculator = TransIPCalculator(model_folder, dtype="float64")
    with pytest.warns(InputWarning, match="this is not a minimum"):
        rows = vibrations_file(calculator, tmp_path / "in.xyz", tmp_path / "o.json", progress=False)
    written = json.loads((tmp_path / "o.json").read_text())
    assert [len(row["frequencies"]) for row in rows] == [3, 4]
    for row, detail, one in zip(rows, written["structures"], atoms, strict=True):
        assert row.items() <= detail.items()
        assert np.shape(detail["hessian"]) == (9, 9) and np.shape(detail["modes"])[1:] == (3, 3)
        assert row["energy"] == pytest.approx(calculator.get_potential_energy(one), abs=1e-9)
        weighted = np.array(detail["modes"]) * np.sqrt(one.get_masses())[:, None]  # the file's unit is 1/√amu
        np.testing.assert_allclose(np.square(weighted).sum((1, 2)), 1, rtol=1e-6)
        assert row["hessian_asymmetry"] < 1e-3
    assert written["units"]["frequencies"] == "cm⁻¹" and written["model"] == str(model_folder)


@pytest.mark.filterwarnings("ignore:.*this is not a minimum")
def test_the_command(model_folder, tmp_path, capsys):
    ase.io.write(tmp_path / "in.xyz", molecule("H2O"), format="extxyz")
    given = ("vibrations", model_folder, tmp_path / "in.xyz", "-o", tmp_path / "o.json", "--charge", 0)
    assert call(*given) == 2
    assert "spin is missing" in capsys.readouterr().err and not (tmp_path / "o.json").exists()
    assert call(*given, "--spin", 1) == 0
    output = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "o.json").read_text())["structures"]
    assert f"zero-point energy {row['zero_point_energy']:.3f} eV" in output
    assert " ".join(f"{frequency:.0f}" for frequency in row["frequencies"]) in " ".join(output.split())


@pytest.mark.parametrize("step", [0.0, -0.01])
def test_a_step_that_cannot_be(model_folder, source, tmp_path, step):
    with pytest.raises(InputError, match="step is"):
        vibrations_file(TransIPCalculator(model_folder), source, tmp_path / "o.json", step=step, progress=False)
    assert not (tmp_path / "o.json").exists()
