import io
import pickle
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io.extxyz import read_extxyz, write_extxyz

from transip.batch import Batch
from transip.errors import InputError
from transip.structure import Structure, check_parity, parse_int


def water(**info: object) -> ase.Atoms:
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


def refused(atoms: ase.Atoms, *words: str, **arguments: int) -> InputError:
    with pytest.raises(InputError) as caught:
        Structure.from_atoms(atoms, where="w.xyz, structure 3", **arguments)
    for word in ("w.xyz, structure 3", *words):
        assert word in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_charge_and_spin_come_from_info():
    found = Structure.from_atoms(water(charge=1, spin=2, data_id="elytes", source="abc"))
    assert (found.charge, found.spin, found.domain, found.source) == (1, 2, "elytes", "abc")
    assert found.numbers.tolist() == [8, 1, 1] and found.formula == "H2O" and len(found) == 3


def test_arguments_take_precedence():
    found = Structure.from_atoms(water(charge=0, spin=1), charge=-1, spin=2)
    assert (found.charge, found.spin) == (-1, 2)


def test_spin_multiplicity_is_accepted_and_spin_preferred():
    assert Structure.from_atoms(water(charge=0, spin_multiplicity=3)).spin == 3
    assert Structure.from_atoms(water(charge=0, spin=1, spin_multiplicity=3)).spin == 1


@pytest.mark.parametrize(("info", "word"), [({"spin": 1}, "charge is missing"), ({"charge": 0}, "spin is missing")])
def test_missing(info, word):
    refused(water(**info), word, "atoms.info")


@pytest.mark.parametrize("value", ["neutral", 0.5, float("nan"), float("inf"), [0, 1], {}])
def test_not_a_whole_number(value):
    refused(water(charge=value, spin=1), "charge", "not a whole number")


@pytest.mark.parametrize("value", [1, 1.0, "1", np.int64(1), np.float32(1), np.array(1), True])
def test_whole_numbers_come_in_many_types(value):
    assert parse_int(value, "charge", "") == 1


@pytest.mark.parametrize(
    ("charge", "spin", "word"),
    [
        (0, 2, "odd"),
        (1, 1, "even"),
        (0, 0, "multiplicity 0"),
        (0, -1, "-1"),
        (9, 4, "multiplicity"),
        (11, 1, "-1 electrons"),
    ],
)
def test_impossible_multiplicity(charge, spin, word):
    refused(water(), word, charge=charge, spin=spin)


def test_bare_protons_have_no_electrons_and_are_possible():
    check_parity([1], charge=1, spin=1, where="")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite(bad):
    atoms = water(charge=0, spin=1)
    atoms.positions[1, 2] = bad
    refused(atoms, "positions", "NaN or infinite")


@pytest.mark.parametrize("labels", [{"energy": np.nan}, {"forces": np.full((3, 3), np.inf)}])
def test_labels_that_are_not_finite(labels):
    atoms = molecule("H2O")
    structure = Structure(atoms.numbers.astype(np.int64), atoms.positions, 0, 1, source="s1", **labels)
    with pytest.raises(InputError, match=r"s1: (energy|forces) hold NaN"):
        structure.check()


def test_overlapping_atoms_are_named():
    atoms = water(charge=0, spin=1)
    atoms.positions[2] = atoms.positions[1] + [0, 0, 0.39]
    refused(atoms, "atoms 1 (H) and 2 (H) overlap", "0.39 Å")
    atoms.positions[2] = atoms.positions[1] + [0, 0, 0.41]
    Structure.from_atoms(atoms)


@pytest.mark.parametrize("number", [0, 87, 92])
def test_unknown_elements(number):
    atoms = ase.Atoms([number], [[0, 0, 0]], info={"charge": 0, "spin": 1 + number % 2})
    refused(atoms, f"unknown atomic number {number}")


def test_no_atoms():
    refused(ase.Atoms(info={"charge": 0, "spin": 1}), "no atoms")


def test_the_atoms_given_are_neither_changed_nor_shared():
    atoms = water(charge=0, spin=1)
    before = atoms.copy()
    structure = Structure.from_atoms(atoms, charge=2)
    structure.positions[:] = 9
    structure.numbers[:] = 9
    assert atoms == before and atoms.info == before.info


def test_to_atoms_and_extxyz_bring_everything_back():
    for names in ({"domain": "elytes", "source": "a b, structure 3"}, {}):
        atoms = molecule("H2O")
        structure = Structure(atoms.numbers.astype(np.int64), atoms.positions, -1, 2, **names)
        text = io.StringIO()
        write_extxyz(text, [structure.to_atoms()])
        text.seek(0)
        back = Structure.from_atoms(next(read_extxyz(text)))
        assert (back.charge, back.spin, back.domain, back.source) == (-1, 2, structure.domain, structure.source)
        np.testing.assert_allclose(back.positions, structure.positions, atol=1e-8)


def test_errors_survive_worker_processes():
    error = refused(water(spin=1))
    back = pickle.loads(pickle.dumps(error))
    assert str(back) == str(error) and back.where == error.where


def test_atoms_overlap_across_the_faces_of_a_cell():
    near = Structure(np.array([2, 2]), np.array([[0.1, 0, 0], [2.9, 0, 0]]), 0, 1)
    assert near.check() is near
    with pytest.raises(InputError, match=r"atoms 0 \(He\) and 1 \(He\) overlap: 0\.20 Å"):
        replace(near, cell=np.diag([3.0, 5.0, 5.0])).check()
    assert replace(near, cell=np.diag([0.0, 5.0, 5.0])).check()


def test_cells_go_to_ase_and_back():
    cell = np.array([[3.0, 0.5, 0], [0, 0, 0], [0, 1.0, 4.0]])
    atoms = Structure(np.array([2]), np.zeros((1, 3)), 0, 1, cell=cell).to_atoms()
    assert atoms.pbc.tolist() == [True, False, True]
    assert (Structure.from_atoms(atoms).cell == cell).all()
    atoms.pbc = False
    assert Structure.from_atoms(atoms).cell is None


@pytest.mark.parametrize("cell", [None, np.diag([9.0, 8.0, 0.0]), np.array([[9.0, 0, 0], [6, 7, 0], [1, 2, 8]])])
def test_a_structure_far_away_is_moved_to_where_float32_can_hold_it(make_structure, cell):
    near = make_structure(6, cell=cell)
    assert near.recentered_positions() is near.positions
    shift = np.array([3e5, -7e4, 1e6])
    moved = replace(near, positions=near.positions + shift).recentered_positions()
    assert np.abs(moved).max() < 20
    apart = moved[:, None] - moved - (near.positions[:, None] - near.positions)
    if cell is not None:  # atoms may have gone to the other side of the cell
        lattice = cell + np.diag(~cell.any(1) * 1.0)
        apart = apart - np.round(apart @ np.linalg.inv(lattice)) * cell.any(1) @ lattice
    np.testing.assert_allclose(apart, 0, atol=1e-9)


@pytest.mark.parametrize("cutoff", [None, 4.0])
def test_forces_far_away_are_those_near_by(make_model, make_structure, cutoff):
    model = make_model(forces="conservative", dtype=torch.float32, cutoff=cutoff)
    near = make_structure(6, cell=None if cutoff is None else np.diag([9.0, 9.0, 9.0]))
    far = replace(near, positions=near.positions + 9.0 * 10**5)
    found, expected = (model(Batch.collate([one])).forces for one in (far, near))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_centre_of_mass_is_that_of_ase():
    atoms = water(charge=0, spin=1)
    atoms.positions += 5
    np.testing.assert_allclose(Structure.from_atoms(atoms).center_of_mass, atoms.get_center_of_mass())
