"""Databases as other programs write them."""

import json

import ase.db
import pytest
from ase.build import molecule

from transip.config import KeySettings
from transip.data.read import read_structures
from transip.errors import InputError


def test_numbers_in_arrays_of_one(tmp_path):
    """As SchNetPack writes energy, total charge and multiplicity."""
    atoms = molecule("OH")
    with ase.db.connect(tmp_path / "x.db") as database:
        data = {"energy": [-2055.0], "forces": [[0.0] * 3] * 2, "total_charge": [-1.0], "spin_multiplicity": [1]}
        database.write(atoms, data=data)
    keys = KeySettings(charge="total_charge", spin="spin_multiplicity")
    (found,) = read_structures(tmp_path / "x.db", keys)
    assert (found.charge, found.spin, found.energy) == (-1, 1, -2055.0)


@pytest.mark.parametrize("content", [{"schema_name": "qcschema_output", "molecule": {}}, [1, 2], "text"])
def test_json_of_another_program_is_called_so(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is not an ASE database"):
        list(read_structures(tmp_path / "x.json"))
