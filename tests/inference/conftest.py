from pathlib import Path

import ase
import pytest
from ase.build import molecule
from ase.io import write

from transip.model.files import save_model


@pytest.fixture
def water() -> ase.Atoms:
    atoms = molecule("H2O")
    atoms.info |= {"charge": 0, "spin": 1}
    return atoms


@pytest.fixture
def model_folder(tmp_path, make_model) -> Path:
    """A gradient model on disk with gentle forces."""
    save_model(make_model(forces="conservative", scale=0.1), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def source(tmp_path, make_structure) -> Path:
    """Thirty molecules of 1 to 9 atoms in no order of size."""
    path = tmp_path / "in.xyz"
    write(path, [make_structure(1 + 7 * i % 9, i).to_atoms() for i in range(30)], format="extxyz")
    return path
