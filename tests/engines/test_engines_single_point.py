"""What all engines ask: energy and forces as atoms move. Runs without any engine."""

import subprocess
import sys

import numpy as np
import pytest
from ase.build import molecule

from transip.engines.single_point import SinglePointPredictor
from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator


def test_the_same_as_ase_as_the_atoms_move(gentle_model, case):
    potential = SinglePointPredictor(gentle_model, case.atoms.numbers, charge=case.charge, spin=case.spin)
    calculator = TransIPCalculator(gentle_model, charge=case.charge, spin=case.spin)
    for seed in range(3):
        result = potential(case.atoms.positions)
        assert result.energy == calculator.get_potential_energy(case.atoms)
        np.testing.assert_array_equal(result.forces, calculator.get_forces(case.atoms))
        case.atoms.rattle(0.05, seed=seed)


def test_an_average_is_ases(gentle_model):
    water = molecule("H2O")
    potential = SinglePointPredictor(gentle_model, water.numbers, charge=0, spin=1, average=12)
    expected = TransIPCalculator(gentle_model, charge=0, spin=1, average=12).get_potential_energy(water)
    assert potential(water.positions).energy == expected


def test_a_cell_may_change_and_has_stress(periodic_model, crystal):
    potential = SinglePointPredictor(periodic_model, crystal.numbers, charge=0, spin=1, cell=crystal.cell.array)
    for _ in range(2):
        result = potential(crystal.positions, crystal.cell.array)
        assert result.energy == pytest.approx(crystal.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(result.forces, crystal.get_forces(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.stress, crystal.get_stress(voigt=False), rtol=0, atol=1e-9)
        crystal.set_cell(1.02 * crystal.cell.array, scale_atoms=True)


def test_a_model_without_cutoff_refuses_cells_at_once(gentle_model, crystal):
    with pytest.raises(InputError, match="without a cutoff"):
        SinglePointPredictor(gentle_model, crystal.numbers, charge=0, spin=1, cell=crystal.cell.array)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charge": None}, "charge is missing"),
        ({"spin": None}, "spin is missing"),
        ({"spin": 2}, "cannot have multiplicity 2"),
        ({"numbers": [8, 1, 111]}, "unknown atomic number 111"),
        ({"numbers": []}, "no atoms"),
    ],
)
def test_molecules_that_cannot_be(gentle_model, changes, message):
    given = {"numbers": [8, 1, 1], "charge": 0, "spin": 1} | changes
    with pytest.raises(InputError, match=message):
        SinglePointPredictor(gentle_model, **given)


def test_a_simulation_that_breaks_down_is_stopped(gentle_model):
    potential = SinglePointPredictor(gentle_model, [8, 1, 1], charge=0, spin=1)
    positions = molecule("H2O").positions
    positions[1, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        potential(positions)
    with pytest.raises(InputError, match="overlap"):
        potential(np.zeros((3, 3)))


def test_unseen_elements_are_warned_of(make_model):
    model = make_model(seed=3)
    model.card.update(elements=["H", "C"])
    with pytest.warns(InputWarning, match="element O"):
        SinglePointPredictor(model, [8, 1, 1], charge=0, spin=1)


def test_an_engine_that_is_not_installed_is_named_with_its_extra():
    """In a process of its own, in which no engine can be result."""
    code = """
        import sys
        from importlib import import_module
        for module in ("torch_sim", "openmm", "openmmml", "lammps"):
            sys.modules[module] = None
        from transip.errors import InputError
        import transip.engines.ipi  # nothing but ASE is needed
        for name in ("torchsim", "openmm", "lammps"):
            try:
                import_module(f"transip.engines.{name}")
            except InputError as error:
                assert f'pip install -e ".[{name}]"' in str(error)
                print(error.problem)
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.splitlines() == [f"{package} is not installed" for package in ("torch_sim", "openmm", "lammps")]
