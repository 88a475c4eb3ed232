import subprocess
import sys
import warnings

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch
from transip.config import BatchSettings
from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import predict_batch
from transip.structure import Structure
from transip.symmetry.average import rotation_set, with_rotation_average

quick = settings(max_examples=5, deadline=None)


@pytest.fixture(scope="session")
def calculator(make_model) -> TransIPCalculator:
    return TransIPCalculator(make_model(forces="conservative"), dtype="float64")


def energy_of(calculator: TransIPCalculator, atoms: ase.Atoms) -> float:
    return calculator.get_potential_energy(atoms)


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_the_models(make_model, water, forces, dtype):
    model = make_model(forces=forces, dtype=getattr(torch, dtype))
    water.calc = TransIPCalculator(model, dtype=dtype)
    with torch.no_grad():
        expected = model(Batch.collate([Structure.from_atoms(water)], getattr(torch, dtype)))
    assert water.get_potential_energy() == float(expected.energy)
    assert water.get_potential_energy(force_consistent=True) == float(expected.energy)
    np.testing.assert_array_equal(water.get_potential_energies(), expected.atom_energies.numpy())
    np.testing.assert_array_equal(water.get_forces(), expected.forces.numpy())
    assert water.get_forces().dtype == np.float64


def test_a_model_folder_and_the_model_itself_agree(model_folder, make_model, water):
    model = make_model(forces="conservative", scale=0.1)
    from_folder, from_memory = TransIPCalculator(model_folder), TransIPCalculator(model)
    assert abs(energy_of(from_folder, water) - energy_of(from_memory, water)) < 1e-3


def test_forces_are_the_derivative_of_the_energy(calculator, water):
    water.rattle(0.1, seed=1)
    water.calc = calculator
    np.testing.assert_allclose(water.get_forces(), calculate_numerical_forces(water, eps=1e-5), rtol=1e-4, atol=1e-4)


def test_the_callers_model_is_copied(make_model, water):
    model = make_model(dtype=torch.float64)
    calculator = TransIPCalculator(model, dtype="float32")
    assert next(model.parameters()).dtype == torch.float64
    assert next(calculator.model.parameters()).dtype == torch.float32


# ------------------------------------------------------------------------------------------ charge and spin


def test_a_changed_charge_or_spin_is_noticed(calculator, water):
    """Plain ASE looks at positions, numbers, cell and pbc only, and returns the old energy."""
    water.calc = calculator
    energies = [water.get_potential_energy()]
    for charge, spin in ((2, 1), (2, 3), (-2, 3), (0, 1)):
        water.info |= {"charge": charge, "spin": spin}
        fresh = TransIPCalculator(calculator.model, dtype="float64")
        energies.append(water.get_potential_energy())
        assert energies[-1] == energy_of(fresh, water.copy())
    assert len(set(energies)) == 4 and energies[0] == energies[-1]


def test_nothing_changed_nothing_computed(calculator, water, monkeypatch):
    water.calc = calculator
    water.get_potential_energy()
    monkeypatch.setattr(calculator, "calculate", lambda *_, **__: pytest.fail("computed again"))
    water.get_forces()
    water.info["name"] = "water"
    water.set_initial_charges([1, 0, 0])  # not the model's charge
    water.get_potential_energy()


def test_arguments_take_precedence_and_can_be_set_anew(make_model, calculator, water):
    cation = TransIPCalculator(make_model(forces="conservative"), charge=1, spin=2, dtype="float64")
    first = energy_of(cation, water)
    cation.set(charge=-1)
    second = energy_of(cation, water)
    water.info |= {"charge": 1, "spin": 2}
    assert first == energy_of(calculator, water)
    water.info |= {"charge": -1}
    assert second == energy_of(calculator, water)


@pytest.mark.parametrize("key", ["charge", "spin"])
def test_missing_charge_or_spin(calculator, water, key):
    del water.info[key]
    water.calc = calculator
    for _ in range(2):  # a failed calculation leaves no result behind
        with pytest.raises(InputError, match=f"{key} is missing"):
            water.get_potential_energy()


def test_a_failed_calculation_forgets_the_one_before(calculator, water):
    water.calc = calculator
    water.get_potential_energy()
    water.info["spin"] = 2
    for _ in range(2):
        with pytest.raises(InputError, match="cannot have multiplicity 2"):
            water.get_potential_energy()


@pytest.mark.parametrize(("charge", "spin"), [(-12, 1), (0, 13)])
def test_beyond_what_models_can_represent(calculator, charge, spin):
    sulphur = ase.Atoms("S4", [[0, 0, 2 * i] for i in range(4)], info={"charge": charge, "spin": spin})
    with pytest.raises(InputError, match="cannot be represented"):
        energy_of(calculator, sulphur)


# ------------------------------------------------------------------------------------------ charges and dipoles


@pytest.mark.parametrize(("charge", "spin"), [(0, 1), (1, 2), (-2, 3)])
def test_charges_spin_populations_and_dipole_have_ases_names(charged_model, water, charge, spin):
    water.positions += [3, -5, 8]
    water.calc = TransIPCalculator(charged_model, dtype="float64", charge=charge, spin=spin)
    with torch.no_grad():
        (expected,) = predict_batch(charged_model, [Structure.from_atoms(water, charge=charge, spin=spin)])
    np.testing.assert_allclose(water.get_charges(), expected.charges)
    np.testing.assert_allclose(water.get_magnetic_moments(), expected.spin_populations)
    about_center = water.get_dipole_moment() - charge * water.get_center_of_mass()
    np.testing.assert_allclose(about_center, expected.dipole, atol=1e-9)
    np.testing.assert_allclose(water.get_dipole_moment(), water.get_charges() @ water.positions, atol=1e-9)
    assert {"charges", "magmoms", "dipole"} <= set(water.calc.implemented_properties)
    assert {"charges", "magmoms", "dipole"} <= set(water.calc.export_properties())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("charges", "without charges"), ("dipole", "without charges"), ("magmoms", "without spin populations")],
)
def test_a_model_without_charges_says_so(calculator, water, name, reason):
    water.calc = calculator
    assert name not in calculator.implemented_properties and name in TransIPCalculator.implemented_properties
    with pytest.raises(PropertyNotImplementedError, match=f"{reason}: it has no {name}"):
        calculator.get_property(name, water)


def test_what_is_periodic_has_charges_but_no_dipole(charged_model, water):
    water.set_cell([9, 9, 9])
    water.pbc = [True, True, False]
    water.calc = TransIPCalculator(charged_model, dtype="float64")
    assert water.get_charges().sum() == pytest.approx(0, abs=1e-9)
    with pytest.raises(PropertyNotImplementedError, match="dipole is not defined for what is periodic"):
        water.get_dipole_moment()


@pytest.mark.parametrize("name", ["x.extxyz", "x.traj", "x.json"])
@pytest.mark.parametrize("atoms", [1, 4])
def test_files_of_ase_keep_what_was_predicted(charged_model, make_structure, tmp_path, name, atoms):
    calculator = TransIPCalculator(charged_model, dtype="float64")
    (predicted,) = calculator.predict([make_structure(atoms, charge=1).to_atoms()])
    write(tmp_path / name, predicted)
    found = read(tmp_path / name)
    for get in ("get_charges", "get_magnetic_moments", "get_dipole_moment", "get_forces"):
        np.testing.assert_allclose(getattr(found, get)(), getattr(predicted, get)(), atol=1e-7)
        np.testing.assert_allclose(getattr(found, get)(), getattr(calculator, get)(predicted), atol=1e-7)


# ------------------------------------------------------------------------------------------ refusals and warnings


def test_stress_is_refused_in_words(calculator, water):
    water.calc = calculator
    water.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="stress is not defined"):
        water.get_stress()


def test_periodic_structures_are_refused(calculator, water):
    water.calc = calculator
    water.get_potential_energy()
    water.cell = [10, 10, 10]
    water.get_potential_energy()  # a box alone does no harm
    water.pbc = [False, False, True]
    with pytest.raises(InputError, match="periodic"):
        water.get_potential_energy()


@pytest.fixture
def narrow_model(make_model):
    model = make_model(seed=3)
    model.card.clear()
    model.card.update(elements=["H", "C"], charges=[0], spins=[1])
    return model


def test_unseen_things_are_warned_of_once(narrow_model, water):
    calculator = TransIPCalculator(narrow_model)
    with pytest.warns(InputWarning, match=r"element O is not .* training data.*seen: H, C"):
        energy_of(calculator, water)
    water.positions += 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy_of(calculator, water)
    water.info |= {"charge": 1, "spin": 2}
    with pytest.warns(InputWarning) as caught:
        energy_of(calculator, water)
    assert [("charge +1" in str(w.message), "multiplicity 2" in str(w.message)) for w in caught] == [
        (True, False),
        (False, True),
    ]


def test_unseen_things_are_refused_or_ignored_on_request(narrow_model, water):
    with pytest.raises(InputError, match="element O is not in the model's training data"):
        energy_of(TransIPCalculator(narrow_model, unseen="refuse"), water)
    methane = molecule("CH4", info={"charge": 0, "spin": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy_of(TransIPCalculator(narrow_model, unseen="ignore"), water)
        energy_of(TransIPCalculator(narrow_model, unseen="refuse"), methane)


def test_a_model_that_says_nothing_is_not_held_to_anything(make_model, water):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy_of(TransIPCalculator(make_model(seed=4), unseen="refuse"), water)


def test_a_device_that_is_not_there(make_model):
    with pytest.raises(InputError, match="cuda:99"):
        TransIPCalculator(make_model(), device="cuda:99")


def test_energies_that_are_not_finite_are_not_returned(make_model, water):
    calculator = TransIPCalculator(make_model())
    calculator.model.backbone.embedding.element.weight.fill_(float("nan"))
    water.calc = calculator
    for _ in range(2):
        with pytest.raises(InputError, match="not finite"):
            water.get_potential_energy()


def test_without_a_molecule(make_model):
    with pytest.raises(InputError, match="no molecule"):
        TransIPCalculator(make_model()).get_potential_energy()


# ------------------------------------------------------------------------------------------ symmetries, many at once


@quick
@given(count=st.integers(2, 8), seed=st.integers(0, 1000))
def test_permutation_and_translation(calculator, make_structure, count, seed):
    atoms = make_structure(count, seed).to_atoms()
    order = np.random.default_rng(seed).permutation(count)
    moved = atoms[order]
    moved.positions += [3, -20, 7]
    assert abs(energy_of(calculator, atoms) - energy_of(calculator, moved)) < 1e-7
    np.testing.assert_allclose(calculator.get_forces(atoms)[order], calculator.get_forces(moved), atol=1e-7)


@quick
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=12), limit=st.integers(1, 5), seed=st.integers(0, 1000))
def test_many_at_once_are_the_same_as_one_by_one(calculator, make_structure, counts, limit, seed):
    given_atoms = [make_structure(count, seed + i).to_atoms() for i, count in enumerate(counts)]
    # limits of a few atoms: larger molecules must still be predicted
    batch = BatchSettings(batch_size=limit, max_atoms=6)
    predicted = calculator.predict(given_atoms, batch)
    assert len(predicted) == len(given_atoms)
    for before, after in zip(given_atoms, predicted, strict=True):
        assert after is not before and before.calc is None
        assert after == before
        assert abs(after.get_potential_energy() - energy_of(calculator, before)) < 1e-7
        np.testing.assert_allclose(after.get_forces(), calculator.get_forces(before), atol=1e-7)


def test_predictions_carry_the_charge_they_were_made_for(make_model):
    bare = molecule("H2O")
    (done,) = TransIPCalculator(make_model(), charge=1, spin=2).predict([bare])
    assert done.info == {"charge": 1, "spin": 2}
    assert bare.info == {}


def test_of_many_the_bad_one_is_named(calculator, water):
    bad = water.copy()
    del bad.info["spin"]
    with pytest.raises(InputError, match=r"structure 1: spin is missing"):
        calculator.predict([water, bad, water])


def test_the_atoms_handed_in_are_not_changed(make_model, water):
    water.info["note"] = "mine"
    before = water.copy()
    calculator = TransIPCalculator(make_model(), charge=-1, spin=2)
    calculator.get_forces(water)
    calculator.predict([water])
    assert water == before and water.info == before.info == {"charge": 0, "spin": 1, "note": "mine"}
    assert set(water.arrays) == {"numbers", "positions"} and water.calc is None


# ------------------------------------------------------------------------------------------ rotational averages


def test_an_average_says_how_far_orientations_are_apart(make_model, water):
    model = make_model(forces="conservative")
    calculator = TransIPCalculator(model, dtype="float64", average=12)
    water.calc = calculator
    batch = Batch.collate([Structure.from_atoms(water)], torch.float64)
    with torch.no_grad():
        expected = with_rotation_average(model, 12)(batch)
    assert water.get_potential_energy() == float(expected.energy)
    np.testing.assert_array_equal(water.get_forces(), expected.forces.numpy())
    assert calculator.results["energy_std"] == float(expected.energy_std) > 0
    np.testing.assert_array_equal(calculator.results["forces_std"], expected.forces_std.numpy())
    assert abs(water.get_potential_energies().sum() - water.get_potential_energy()) < 1e-8
    assert abs(energy_of(TransIPCalculator(model, dtype="float64"), water) - float(expected.energy)) > 1e-4


def test_an_average_is_the_same_in_orientations_of_its_group(make_model, water):
    calculator = TransIPCalculator(make_model(forces="conservative"), dtype="float64", average=24)
    energy, forces = energy_of(calculator, water), calculator.get_forces(water)
    before, rotation = water.positions.copy(), rotation_set(24)[7].numpy()
    water.positions = before @ rotation.T
    assert abs(energy_of(calculator, water) - energy) < 1e-8
    water.positions = before
    np.testing.assert_allclose(calculator.get_forces(water), forces, atol=1e-8)


def test_averaged_forces_are_the_derivative_of_the_averaged_energy(make_model, water):
    water.rattle(0.1, seed=1)
    water.calc = TransIPCalculator(make_model(forces="conservative"), dtype="float64", average=5)
    np.testing.assert_allclose(water.get_forces(), calculate_numerical_forces(water, eps=1e-5), rtol=1e-4, atol=1e-4)


def test_averages_of_many_and_in_files(make_model, water, tmp_path):
    calculator = TransIPCalculator(make_model(), dtype="float64", average=12)
    labelled = calculator.predict([molecule("CH4", info={"charge": 0, "spin": 1}), water])
    assert water.arrays.keys() == {"numbers", "positions"}
    calculator.get_forces(water)
    assert abs(labelled[1].info["energy_std"] - calculator.results["energy_std"]) < 1e-8
    np.testing.assert_allclose(labelled[1].arrays["forces_std"], calculator.results["forces_std"], atol=1e-8)
    write(tmp_path / "labelled.xyz", labelled, format="extxyz")
    again = read(tmp_path / "labelled.xyz", ":")
    assert [one.arrays["forces_std"].shape for one in again] == [(5,), (3,)]
    np.testing.assert_allclose(again[1].get_forces(), calculator.get_forces(water), atol=1e-7)


def test_ase_itself_asks_an_average_for_its_own_properties_only(make_model, water, tmp_path):
    water.calc = TransIPCalculator(make_model(), average=2)
    assert set(water.calc.calculate_properties(water, ["energy", "forces"])) >= {"energy", "forces", "energies"}
    water.write(tmp_path / "water.traj")
    assert read(tmp_path / "water.traj").get_potential_energy() == water.get_potential_energy()


@pytest.mark.parametrize("average", [1, 0, -12])
def test_an_average_over_too_few(make_model, average):
    with pytest.raises(InputError, match=f"average is {average}"):
        TransIPCalculator(make_model(), average=average)


def test_importing_the_calculator_loads_nothing_that_waits():
    """Each of these takes a tenth of a second to two seconds."""
    code = (
        "import sys, transip; transip.TransIPCalculator; "
        "print(sorted({'torch._dynamo', 'scipy.spatial', 'scipy.stats', 'matplotlib', 'accelerate', 'sympy', 'ase.io'}"
        " & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
