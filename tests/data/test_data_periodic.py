"""Cells and stresses on their way from files into packs and batches."""

import json
from dataclasses import replace
from pathlib import Path

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from transip.config import KeySettings, UnitSettings
from transip.data.dataset import Dataset
from transip.data.pack import pack_files
from transip.data.read import read_structures
from transip.data.store import Pack, write_pack
from transip.errors import InputError
from transip.io.extxyz import format_frame
from transip.structure import Structure

STRESS = np.array([[0.01, 0.004, 0.003], [0.004, 0.02, 0.002], [0.003, 0.002, 0.03]])


@pytest.fixture
def salt() -> Structure:
    atoms = bulk("NaCl", "rocksalt", 5.6)
    atoms.info = {"charge": 0, "spin": 1}
    return replace(Structure.from_atoms(atoms), energy=-5.0, forces=np.zeros((2, 3)), stress=STRESS)


FILES = pytest.mark.parametrize("name", ["a.extxyz", "a.db", "a.json", "a.aselmdb"])


def write(path: Path, atoms: ase.Atoms) -> None:
    if path.suffix == ".extxyz":
        ase.io.write(path, atoms)
    else:
        with ase.db.connect(path) as database:
            database.write(atoms, data={"charge": 0, "spin": 1})


def as_atoms(structure: Structure) -> ase.Atoms:
    atoms = structure.to_atoms()
    voigt = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, energy=structure.energy, forces=structure.forces, stress=voigt)
    return atoms


@FILES
def test_every_format_keeps_cell_and_stress(salt, tmp_path, name):
    write(tmp_path / name, as_atoms(salt))
    (found,) = read_structures(tmp_path / name)
    np.testing.assert_allclose(found.cell, salt.cell)
    np.testing.assert_allclose(found.stress, STRESS)


@FILES
@pytest.mark.parametrize("periodic", [(True, True, False), (False, False, True), (False, True, False)])
def test_every_format_keeps_what_is_periodic(salt, tmp_path, name, periodic):
    atoms = salt.to_atoms()
    atoms.pbc = periodic
    atoms.calc = SinglePointCalculator(atoms, energy=salt.energy, forces=salt.forces)
    write(tmp_path / name, atoms)
    (found,) = read_structures(tmp_path / name)
    np.testing.assert_allclose(found.cell, salt.cell * np.array(periodic)[:, None])


def test_what_predict_writes_is_read_by_ase_and_by_us(salt, tmp_path):
    (tmp_path / "a.extxyz").write_text(format_frame(salt))
    atoms = ase.io.read(tmp_path / "a.extxyz")
    np.testing.assert_allclose(atoms.cell.array, salt.cell)
    assert atoms.pbc.all()
    np.testing.assert_allclose(atoms.get_stress(voigt=False), STRESS)
    (found,) = read_structures(tmp_path / "a.extxyz")
    np.testing.assert_allclose(found.cell, salt.cell)
    np.testing.assert_allclose(found.stress, STRESS)


def test_units_of_cell_and_stress(salt, tmp_path):
    ase.io.write(tmp_path / "a.extxyz", as_atoms(salt))
    units = UnitSettings(energy="kcal/mol", length="bohr")
    (found,) = read_structures(tmp_path / "a.extxyz", units=units)
    bohr, kcal = ase.units.Bohr, ase.units.kcal / ase.units.mol
    np.testing.assert_allclose(found.cell, salt.cell * bohr)
    np.testing.assert_allclose(found.stress, STRESS * kcal / bohr**3)


def test_packs_hold_cells_beside_molecules(salt, make_structure, tmp_path):
    molecule = make_structure(4, energy=0.0, forces=np.zeros((4, 3)))
    slab = replace(salt, cell=salt.cell * np.array([[1], [1], [0]]), stress=None)
    path = tmp_path / "a.pack"
    pack = write_pack(path, [molecule, salt, slab, molecule], level_of_theory="x")
    assert json.loads((path / "meta.json").read_text())["version"] == 1
    for i, expected in enumerate([molecule, salt, slab, molecule]):
        found = pack[i]
        for name in ("cell", "stress"):
            assert (getattr(found, name) is None) == (getattr(expected, name) is None)
        if expected.cell is not None:
            np.testing.assert_allclose(found.cell, expected.cell, rtol=1e-7)
    batch = Dataset.open([path]).get_batch([2, 1, 0])
    assert batch.cell.any(2).tolist() == [[True, True, False], [True] * 3, [False] * 3]
    assert batch.stress.isnan().all(2).all(1).tolist() == [True, False, True]
    pack.verify()


def test_packs_of_molecules_are_as_earlier_releases_wrote_them(make_structure, tmp_path):
    write_pack(tmp_path / "a.pack", [make_structure(4)], level_of_theory="x")
    assert json.loads((tmp_path / "a.pack" / "meta.json").read_text())["version"] == 1
    assert not (tmp_path / "a.pack" / "cell.npy").exists()


def test_datasets_mix_packs_with_and_without_cells(salt, make_structure, tmp_path):
    molecule = make_structure(4, energy=0.0, forces=np.zeros((4, 3)))
    for name, structure in (("a", molecule), ("b", salt)):
        write_pack(tmp_path / f"{name}.pack", [structure] * 2, level_of_theory="x")
    data = Dataset.open([tmp_path / "a.pack", tmp_path / "b.pack"])
    assert data.periodic and not Dataset.open([tmp_path / "a.pack"]).periodic
    batch = data.get_batch([3, 0, 2, 1])
    assert batch.cell.any(2).any(1).tolist() == [True, False, True, False]
    assert batch.stress.isnan().any(2).any(1).tolist() == [False, True, False, True]


def test_files_are_packed_with_their_cells(salt, tmp_path):
    ase.io.write(tmp_path / "a.extxyz", [as_atoms(salt)] * 3)
    report = pack_files([tmp_path / "a.extxyz"], tmp_path / "a.pack", level_of_theory="x")
    assert report.keys["stress"] == ["stress"]
    np.testing.assert_allclose(Pack.open(tmp_path / "a.pack")[2].stress, STRESS, rtol=1e-6)


def test_a_stress_is_found_as_other_labels_are(salt, tmp_path):
    atoms = as_atoms(salt)
    atoms.info["REF_stress"] = 2 * STRESS
    ase.io.write(tmp_path / "x.extxyz", atoms)
    with pytest.raises(InputError, match="stress is ambiguous: 'stress' and 'REF_stress' differ"):
        list(read_structures(tmp_path / "x.extxyz"))
    with pytest.raises(InputError, match=r"has no stress: there is no 'REF_sterss'(.|\n)*keys that exist.*REF_stress"):
        list(read_structures(tmp_path / "x.extxyz", KeySettings(stress="REF_sterss")))
    (found,) = read_structures(tmp_path / "x.extxyz", KeySettings(stress="REF_stress"))
    np.testing.assert_allclose(found.stress, 2 * STRESS)


def test_a_stress_of_odd_shape_is_an_error(salt, tmp_path):
    text = format_frame(salt)
    begin = text.index('stress="') + len('stress="')
    (tmp_path / "a.extxyz").write_text(text[:begin] + "1 2 3" + text[text.index('"', begin) :])
    with pytest.raises(InputError, match=r"neither six nor nine numbers|truncated or corrupt"):
        list(read_structures(tmp_path / "a.extxyz"))


def test_damaged_cells_are_found(salt, tmp_path):
    path = tmp_path / "a.pack"
    write_pack(path, [salt], level_of_theory="x")
    np.save(path / "cell.npy", np.full((1, 3, 3), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match=r"cell\.npy"):
        Pack.open(path)


def test_a_bad_structure_after_others_is_named_with_its_pack(salt, tmp_path):
    with pytest.raises(InputError, match=r"^mine\.pack, structure 2: only some"):
        write_pack(tmp_path / "mine.pack", [salt, salt, replace(salt, energy=None)], level_of_theory="x")
