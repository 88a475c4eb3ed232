"""A molecule, its model on disk, and what the ASE calculator says of both."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule

from transip.inference.ase import TransIPCalculator
from transip.model.files import save_model
from transip.model.potential import Potential

EXAMPLES = Path(__file__).parents[2] / "examples"


class Case(NamedTuple):
    """A molecule in some state, and its energy (eV) and forces (eV/Å) by ASE's calculator."""

    atoms: ase.Atoms
    charge: int
    spin: int
    energy: float
    forces: np.ndarray


@pytest.fixture(scope="session")
def gentle_model(make_model) -> Potential:
    """Untrained, with conservative forces, weak enough for a simulation."""
    return make_model(forces="conservative", scale=0.1)


@pytest.fixture(params=[(0, 1), (1, 2), (0, 3)], ids=["neutral", "cation", "triplet"])
def case(request, gentle_model) -> Case:
    """Methanol, shaken."""
    charge, spin = request.param
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    calculator = TransIPCalculator(gentle_model, charge=charge, spin=spin)
    return Case(atoms, charge, spin, calculator.get_potential_energy(atoms), calculator.get_forces(atoms))


@pytest.fixture(scope="session")
def periodic_model(make_model) -> Potential:
    """As `gentle_model`, with a cutoff."""
    return make_model(forces="conservative", scale=0.1, cutoff=4.5)


@pytest.fixture
def crystal(periodic_model) -> ase.Atoms:
    """Rock salt, sheared and shaken, all atoms inside the cell, with ASE's calculator."""
    atoms = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    atoms.set_cell([[5.6, 0, 0], [0.8, 5.5, 0], [0.4, -0.5, 5.7]], scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    atoms.wrap()
    atoms.calc = TransIPCalculator(periodic_model, charge=0, spin=1)
    return atoms


@pytest.fixture
def run_example(gentle_model, tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run one of examples/ as from the shell; by its own account, its energies must be those of ASE's calculator."""

    def run(name: str, *arguments: str) -> str:
        save_model(gentle_model, tmp_path / "model")
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "model"), *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        output = capsys.readouterr().out
        compared = [line for line in output.splitlines() if line.endswith("eV from ASE's")]
        assert compared
        for line in compared:
            assert abs(float(line.split(", ")[1].split()[0])) < 1e-5, line
        return output

    return run
