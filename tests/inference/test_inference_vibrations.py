"""Hessians, normal modes, infrared intensities, `transip vibrations`."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.data import atomic_masses
from ase.vibrations import Infrared
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from commands import call
from elastic_network import ElasticNetwork
from transip.config import BatchSettings
from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator
from transip.inference.spectrum import Spectrum
from transip.inference.vibrations import (
    KM_PER_DEBYE2,
    asymmetry,
    derivatives,
    finite_differences,
    infrared_intensities,
    intensities_table,
    normal_modes,
    vibrations_file,
)
from transip.model.files import save_model
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
    found = -finite_differences(springs, structure, 1e-4)
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
    with_springs = held - finite_differences(springs, structure, 1e-4)
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
    modes = normal_modes(finite_differences(springs, structure, 1e-4), structure.positions, np.ones(3))
    assert modes.frequencies[0] < -1000 and modes.zero_point_energy < 0.01


@pytest.mark.parametrize("limit", [3, 10_000])
def test_batches_give_the_derivative_of_the_models_forces(make_model, make_structure, limit):
    model, structure = make_model(forces="conservative"), make_structure(5, 1)
    found = derivatives(model, structure, 1e-4, BatchSettings(batch_size=limit)).hessian
    assert asymmetry(found) < 1e-5
    calculator = TransIPCalculator(model, dtype="float64")
    direction = np.random.default_rng(0).normal(size=(5, 3))
    up, down = (replace(structure, positions=structure.positions + s * 1e-4 * direction) for s in (1, -1))
    difference = (calculator.get_forces(down.to_atoms()) - calculator.get_forces(up.to_atoms())) / 2e-4
    np.testing.assert_allclose((found @ direction.ravel()).reshape(-1, 3), difference, rtol=1e-4, atol=1e-3)


def test_direct_forces_have_no_symmetric_derivative(make_model, make_structure):
    assert asymmetry(derivatives(make_model(), make_structure(5, 1), 1e-4).hessian) > 0.01


# ------------------------------------------------------------------------------------------ infrared intensities


def absorption(slope_squared: float) -> float:
    """km/mol of |∂μ/∂Q|² in e²/amu, by way of SI units."""
    coulomb2_per_kg = slope_squared * units._e**2 / units._amu
    return units._Nav * coulomb2_per_kg / (12 * units._eps0 * units._c**2) / 1000


def rotated(structure: Structure, quaternion: tuple[float, ...]) -> Structure:
    rotation = Rotation.from_quat(quaternion).as_matrix()
    return replace(structure, positions=structure.positions @ rotation.T + 5.0)


quaternions = st.tuples(*4 * [st.floats(-1, 1)]).filter(lambda q: np.linalg.norm(q) > 0.1)


@settings(max_examples=10, deadline=None)
@given(charge=st.floats(0.05, 1), total=st.integers(-1, 1), quaternion=quaternions)
def test_two_charges_on_a_spring(charge, total, quaternion):
    """|∂μ/∂Q|² = q²/m of the reduced mass m; of an ion, q are the charges without what moves with the whole."""
    numbers = np.array([1, 17])
    structure = Structure(numbers, np.array([[0, 0, 0], [0, 0, 1.27]]), total, 1 + abs(total))
    structure, masses = rotated(structure, quaternion), atomic_masses[numbers]
    charges = np.array([charge, -charge]) + total * masses / masses.sum()
    model = ElasticNetwork(structure, np.full((2, 2), 30.0), charges)
    found = derivatives(model, structure, 1e-4)
    modes = normal_modes(found.hessian, structure.positions, masses)
    (intensity,) = infrared_intensities(modes, found.dipole)
    reduced = masses.prod() / masses.sum()
    assert modes.frequencies == pytest.approx([wavenumber(30.0, reduced)], rel=1e-5)
    assert intensity == pytest.approx(absorption(charge**2 / reduced), rel=1e-5)
    assert intensity / KM_PER_DEBYE2 == pytest.approx(charge**2 / units.Debye**2 / reduced, rel=1e-5)
    assert pytest.approx(42.255, abs=2e-3) == KM_PER_DEBYE2  # Porezag and Pederson


@settings(max_examples=5, deadline=None)
@given(quaternion=quaternions)
def test_the_symmetric_stretch_of_carbon_dioxide_is_dark_however_it_lies(quaternion):
    """The other one has |∂μ/∂Q|² = 2 q² (1/m_O + 2/m_C)."""
    structure = rotated(carbon_dioxide(), quaternion)
    stiffness = np.array([[0, STRETCH, STRETCH], [STRETCH, 0, 0], [STRETCH, 0, 0]])
    found = derivatives(ElasticNetwork(structure, stiffness, np.array([0.8, -0.4, -0.4])), structure, 1e-4)
    modes = normal_modes(found.hessian, structure.positions, atomic_masses[structure.numbers])
    *bends, symmetric, antisymmetric = infrared_intensities(modes, found.dipole)
    slope = 2 * 0.4**2 * (1 / atomic_masses[8] + 2 / atomic_masses[6])
    assert symmetric == pytest.approx(0, abs=1e-4)
    assert antisymmetric == pytest.approx(absorption(slope), rel=1e-5)
    assert sum(bends) == pytest.approx(2 * absorption(slope), rel=1e-4)


@pytest.fixture
def elastic_water(water) -> ElasticNetwork:
    structure = rotated(Structure.from_atoms(water), (0.1, 0.5, -0.3, 0.7))
    stiffness = np.array([[0, 50, 50], [50, 0, 10], [50, 10, 0]])
    return ElasticNetwork(structure, stiffness, np.array([-0.7, 0.35, 0.35]))


@pytest.mark.parametrize("nfree", [2, 4])
def test_infrared_of_ase_finds_the_same(elastic_water, tmp_path, nfree):
    structure = elastic_water.structure
    atoms = structure.to_atoms()
    atoms.calc = TransIPCalculator(elastic_water, dtype="float64", unseen="ignore")
    theirs = Infrared(atoms, name=str(tmp_path / "ir"), delta=0.001, nfree=nfree)
    theirs.run()
    found = derivatives(elastic_water, structure, 0.001)
    modes = normal_modes(found.hessian, structure.positions, atoms.get_masses())
    ours = infrared_intensities(modes, found.dipole)
    np.testing.assert_allclose(modes.frequencies, theirs.get_frequencies().real[6:], rtol=1e-5)
    np.testing.assert_allclose(ours / KM_PER_DEBYE2, theirs.intensities[6:], rtol=2e-4, atol=1e-6)
    assert ours.min() > 1


def test_derivatives_of_the_dipole_are_those_of_the_calculators_dipoles(charged_model, make_structure):
    structure, calculator = make_structure(4, 1), TransIPCalculator(charged_model, dtype="float64")
    found = derivatives(calculator.predictor, structure, 1e-4)
    direction = np.random.default_rng(0).normal(size=(4, 3))
    up, down = (replace(structure, positions=structure.positions + s * 1e-4 * direction).to_atoms() for s in (1, -1))
    difference = (calculator.get_dipole_moment(up) - calculator.get_dipole_moment(down)) / 2e-4
    np.testing.assert_allclose(direction.ravel() @ found.dipole, difference, rtol=1e-4, atol=1e-5)


def test_lines_have_their_width_and_area():
    spectrum = Spectrum("", np.array([-50.0, 1000.0, 3000.0]), np.array([9.0, 2.0, 1.0]))
    wavenumbers = np.arange(500, 2000, 0.1)
    curve = spectrum.absorption(wavenumbers, 10.0)
    assert wavenumbers[curve.argmax()] == pytest.approx(1000)
    half = wavenumbers[curve > curve.max() / 2]
    assert half[-1] - half[0] == pytest.approx(10, abs=0.3)
    area = curve.sum() * 0.1 * np.log(10) / 100  # L mol⁻¹ cm⁻² decadic → km/mol
    assert area == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_spectra_are_drawn_and_written(elastic_water, tmp_path, suffix):
    ase.io.write(tmp_path / "in.xyz", 2 * [elastic_water.structure.to_atoms()], format="extxyz")
    calculator = TransIPCalculator(elastic_water, dtype="float64", unseen="ignore")
    picture = tmp_path / f"ir{suffix}"
    rows = vibrations_file(calculator, tmp_path / "in.xyz", tmp_path / "o.json", spectrum=picture, progress=False)
    assert picture.stat().st_size > 5000
    (first, _) = json.loads((tmp_path / "o.json").read_text())["structures"]
    assert rows[0].items() <= first.items() and np.shape(first["dipole_derivatives"]) == (9, 3)
    assert len(first["infrared_intensities"]) == len(first["infrared_intensities_debye"]) == 3
    np.testing.assert_allclose(first["dipole"], calculator.get_dipole_moment(elastic_water.structure.to_atoms()))
    table = intensities_table(rows[0])
    assert table.row_count == 3
    with pytest.raises(InputError, match=r"ir.* exists already"):
        vibrations_file(calculator, tmp_path / "in.xyz", tmp_path / "p.json", spectrum=picture, progress=False)


def test_no_spectrum_without_dipoles(model_folder, charged_model, source, tmp_path):
    with pytest.raises(InputError, match=r"no infrared spectrum: .*without charges"):
        plain = TransIPCalculator(model_folder)
        vibrations_file(plain, source, tmp_path / "o.json", spectrum=tmp_path / "ir.png", progress=False)
    calculator = TransIPCalculator(charged_model, charge=0, spin=1, unseen="ignore")
    ase.io.write(tmp_path / "cell.xyz", bulk("MgO", "rocksalt", 4.2), format="extxyz")
    with pytest.raises(InputError, match="it is periodic"):
        files = tmp_path / "cell.xyz", tmp_path / "o.json"
        vibrations_file(calculator, *files, spectrum=tmp_path / "ir.png", progress=False)
    with pytest.raises(InputError, match="is going to be a picture"):
        vibrations_file(calculator, source, tmp_path / "o.json", spectrum=tmp_path / "ir.txt", progress=False)
    assert not (tmp_path / "o.json").exists()


# ------------------------------------------------------------------------------------------ the command


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
    assert "No infrared intensities: this model was trained without charges" in " ".join(output.split())
    assert "infrared_intensities" not in row
    assert " ".join(f"{frequency:.0f}" for frequency in row["frequencies"]) in " ".join(output.split())


@pytest.mark.filterwarnings("ignore:.*this is not a minimum")
def test_the_command_lists_and_draws_intensities(charged_model, tmp_path, capsys):
    save_model(charged_model, tmp_path / "model")
    ase.io.write(tmp_path / "in.xyz", molecule("H2O", info={"charge": 1, "spin": 2}), format="extxyz")
    files = (tmp_path / "in.xyz", "-o", tmp_path / "o.json", "--spectrum", tmp_path / "ir.png")
    assert call("vibrations", tmp_path / "model", *files) == 0
    output = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "o.json").read_text())["structures"]
    for frequency, intensity in zip(row["frequencies"], row["infrared_intensities"], strict=True):
        assert f"{frequency:.0f}" in output and f"{intensity:.1f}" in output
    assert "km/mol" in output and "No infrared intensities" not in output and (tmp_path / "ir.png").exists()


@pytest.mark.parametrize("step", [0.0, -0.01])
def test_a_step_that_cannot_be(model_folder, source, tmp_path, step):
    with pytest.raises(InputError, match="step is"):
        vibrations_file(TransIPCalculator(model_folder), source, tmp_path / "o.json", step=step, progress=False)
    assert not (tmp_path / "o.json").exists()
