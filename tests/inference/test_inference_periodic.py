"""Crystals and liquids through the calculator and what stands on it."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from transip.errors import InputError
from transip.inference.ase import TransIPCalculator
from transip.inference.md import run_md
from transip.inference.predict import predict_file
from transip.inference.relax import relax_file
from transip.model.files import save_model


@pytest.fixture
def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.6).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.info = {"charge": 0, "spin": 1}
    return atoms


@pytest.fixture
def calculator(make_model) -> TransIPCalculator:
    return TransIPCalculator(make_model(forces="conservative", cutoff=4.5), dtype="float64")


def test_stress_is_the_derivative_of_the_energy(salt, calculator):
    salt.calc = calculator
    np.testing.assert_allclose(salt.get_stress(), calculate_numerical_stress(salt, voigt=True, eps=1e-5), atol=1e-7)


def test_a_new_cell_is_a_new_calculation_but_a_box_around_a_molecule_is_none(salt, calculator):
    salt.calc = calculator
    before = salt.get_potential_energy()
    salt.cell[0, 0] += 0.1
    assert salt.get_potential_energy() != before
    salt.pbc = False
    alone = salt.get_potential_energy()
    assert alone != before
    assert calculator.check_state(salt) == []
    salt.cell[0, 0] += 0.1
    assert calculator.check_state(salt) == []


def test_cells_relax_with_their_atoms(salt, calculator):
    salt.calc = calculator
    before = salt.get_potential_energy()
    cell = salt.cell.copy()
    FIRE(FrechetCellFilter(salt), logfile=None, dt=0.02, maxstep=0.01).run(fmax=0.01, steps=5)
    assert salt.get_potential_energy() < before - 1e-3
    assert not np.allclose(salt.cell, cell)


def test_who_has_no_stress_says_why(salt, make_model):
    for kind, reason in (("direct", "conservative forces"), ("conservative", "no cell")):
        salt.calc = TransIPCalculator(make_model(forces=kind, cutoff=4.5))
        salt.pbc = kind == "direct"
        with pytest.raises(PropertyNotImplementedError, match=reason):
            salt.get_stress()


@pytest.mark.parametrize("way", [{"average": 12}, {"seed": 1}, {"seed": 1, "average": 3}])
def test_means_have_the_stress_of_the_mean_energy(salt, make_model, way):
    """Over rotations, over models, and over both."""
    settings = {"forces": "conservative", "cutoff": 4.5}
    models = [make_model(**settings), *([make_model(**settings, seed=way["seed"])] if "seed" in way else [])]
    salt.calc = TransIPCalculator(models, average=way.get("average"), dtype="float64")
    found = salt.get_stress()
    np.testing.assert_allclose(found, calculate_numerical_stress(salt, voigt=True, eps=1e-5), atol=1e-7)


def test_a_committee_with_direct_forces_among_it_has_no_stress(salt, make_model):
    salt.calc = TransIPCalculator([make_model(forces=kind, cutoff=4.5) for kind in ("conservative", "direct")])
    assert np.isfinite(salt.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="conservative forces"):
        salt.get_stress()


def test_models_without_cutoff_name_the_structure(salt, make_model):
    salt.calc = TransIPCalculator(make_model())
    with pytest.raises(InputError, match="without a cutoff"):
        salt.get_potential_energy()


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_commands_keep_the_cell(salt, make_model, tmp_path, forces):
    save_model(make_model(forces=forces, cutoff=4.5), tmp_path / "model")
    ase.io.write(tmp_path / "in.xyz", salt)
    source, calculator = tmp_path / "in.xyz", TransIPCalculator(tmp_path / "model", unseen="ignore")
    predict_file(calculator, source, tmp_path / "predicted.xyz", progress=False)
    relax_file(calculator, source, tmp_path / "relaxed.xyz", steps=2, fmax=100.0, progress=False)
    ran = run_md(calculator, source, tmp_path / "run.xyz", steps=3, interval=1, progress=False)
    assert ran["frames"] == 4
    for name in ("predicted", "relaxed", "run"):
        atoms = ase.io.read(tmp_path / f"{name}.xyz", -1)
        np.testing.assert_allclose(atoms.cell.array, salt.cell.array)
        assert atoms.pbc.all()
        assert ("stress" in atoms.calc.results) == (forces == "conservative")
    salt.calc = TransIPCalculator(tmp_path / "model")
    assert ase.io.read(tmp_path / "predicted.xyz").get_potential_energy() == pytest.approx(salt.get_potential_energy())


class TestRelaxingCells:
    @pytest.fixture
    def folder(self, salt, make_model, tmp_path):
        save_model(make_model(forces="conservative", cutoff=4.5), tmp_path / "model")
        ase.io.write(tmp_path / "in.xyz", salt)
        return tmp_path

    @pytest.mark.filterwarnings("ignore:.*not converged")
    def test_cell_and_atoms_go_downhill_together(self, salt, folder):
        """Further than the atoms alone, and the pull on the cell counts as a force."""
        calculator = TransIPCalculator(folder / "model", dtype="float64", unseen="ignore")
        files = folder / "in.xyz", folder / "out.xyz"
        options = {"steps": 30, "fmax": 1e-6, "optimizer": "FIRE", "progress": False}
        (fixed,) = relax_file(calculator, *files, **options)["rows"]
        np.testing.assert_allclose(ase.io.read(folder / "out.xyz").cell.array, salt.cell.array)
        (free,) = relax_file(calculator, *files, cell=True, overwrite=True, **options)["rows"]
        assert free["final_energy"] < fixed["final_energy"] < fixed["initial_energy"]
        assert free["initial_fmax"] >= fixed["initial_fmax"]
        relaxed = ase.io.read(folder / "out.xyz")
        assert np.abs(relaxed.cell.array - salt.cell.array).max() > 1e-3
        relaxed.calc = calculator
        assert relaxed.get_potential_energy() == pytest.approx(free["final_energy"], abs=1e-8)

    def test_molecules_are_refused_and_nothing_is_written(self, salt, folder):
        salt.pbc = False
        ase.io.write(folder / "in.xyz", salt)
        with pytest.raises(InputError, match="its cell cannot be relaxed: stress is not defined for molecules"):
            relax_file(TransIPCalculator(folder / "model"), folder / "in.xyz", folder / "out.xyz", cell=True)
        assert not (folder / "out.xyz").exists()
