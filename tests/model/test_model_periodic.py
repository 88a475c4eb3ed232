"""Crystals and liquids: what a cell's energy must not depend on, its derivatives, and its images."""

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import make_supercell
from ase.neighborlist import neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transip import blocks
from transip.batch import Batch
from transip.config import ModelSettings
from transip.errors import InputError
from transip.lattice import find_images
from transip.model.geometry import log_envelope
from transip.model.neighbors import LOCAL_CUTOFF
from transip.rotations import random_rotations, rotate
from transip.structure import Structure

CUTOFF = 5.0
CELL = np.array([[4.0, 0.3, 0.0], [0.5, 4.4, 0.2], [-0.3, 0.1, 3.9]])
FORCES = pytest.mark.parametrize("forces", ["direct", "conservative"])
SLAB = np.array([[1.0], [1.0], [0.0]])  # periodic in two directions


def crystal(cell: np.ndarray = CELL, seed: int = 0) -> Structure:
    """Five atoms in a cell, no two closer than an ångström."""
    generator = np.random.default_rng(seed)
    while True:
        atoms = ase.Atoms("CO2HN", scaled_positions=generator.uniform(size=(5, 3)), cell=CELL, pbc=True)
        if not len(neighbor_list("i", atoms, 1.0)):
            return Structure(np.array(atoms.numbers), np.array(atoms.positions), 0, 1, cell=cell)


def predict(model, *structures):
    return model(Batch.collate(structures, torch.float64))


@FORCES
@pytest.mark.parametrize(
    "matrix", [np.diag([2, 1, 3]), [[2, 0, 0], [1, 2, 0], [0, 0, 3]], [[1, 1, 0], [0, 1, 0], [0, 0, 1]]]
)
def test_a_supercell_is_so_many_cells(make_model, forces, matrix):
    model, cell = make_model(forces=forces, cutoff=CUTOFF), crystal()
    large = make_supercell(cell.to_atoms(), matrix)
    times = len(large) // len(cell)
    one = predict(model, cell)
    many = predict(model, Structure(np.array(large.numbers), large.positions, 0, 1, cell=large.cell.array))
    torch.testing.assert_close(many.energy, times * one.energy, rtol=1e-13, atol=0)
    torch.testing.assert_close(many.forces, one.forces.repeat(times, 1), rtol=0, atol=1e-11)
    if forces == "conservative":
        torch.testing.assert_close(many.stress, one.stress, rtol=0, atol=1e-11)


@FORCES
@pytest.mark.parametrize("periodic", [1.0, SLAB])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_where_the_cell_begins_means_nothing(make_model, forces, periodic, seed):
    """Neither a translation of all atoms nor of single ones by lattice vectors."""
    model, cell = make_model(forces=forces, cutoff=CUTOFF), crystal(CELL * periodic)
    generator = np.random.default_rng(seed)
    moved = cell.positions + generator.integers(-3, 4, size=(5, 3)) @ cell.cell + generator.normal(size=3)
    one, other = predict(model, cell), predict(model, replace(cell, positions=moved))
    torch.testing.assert_close(other.energy, one.energy, rtol=1e-13, atol=0)
    torch.testing.assert_close(other.forces, one.forces, rtol=0, atol=1e-10)


@FORCES
def test_a_batch_of_cells_and_molecules_is_each_alone(make_model, make_structure, forces):
    model = make_model(forces=forces, cutoff=CUTOFF)
    structures = [make_structure(9), crystal(), crystal(1.2 * CELL * SLAB), make_structure(3)]
    together, alone = predict(model, *structures), [predict(model, one) for one in structures]
    torch.testing.assert_close(together.energy, torch.cat([one.energy for one in alone]), rtol=1e-13, atol=0)
    torch.testing.assert_close(together.forces, torch.cat([one.forces for one in alone]), rtol=0, atol=1e-11)
    if forces == "conservative":
        assert together.stress.isfinite().all((1, 2)).tolist() == [False, True, False, False]
        torch.testing.assert_close(together.stress[1], alone[1].stress[0], rtol=0, atol=1e-12)


def test_small_blocks_of_a_cell_give_what_the_whole_gives(make_model, monkeypatch):
    for forces in ("direct", "conservative"):
        model = make_model(forces=forces, cutoff=CUTOFF)
        whole = predict(model, crystal())
        with monkeypatch.context() as context:
            context.setattr(blocks, "BLOCK_SIZE", 2)
            cut = predict(model, crystal())
        torch.testing.assert_close(cut.energy, whole.energy, rtol=1e-13, atol=0)
        torch.testing.assert_close(cut.forces, whole.forces, rtol=0, atol=1e-11)


def test_a_molecule_in_a_wide_cell_is_a_molecule(make_model, make_structure):
    model, molecule = make_model(forces="conservative", cutoff=CUTOFF), make_structure(12)
    wide = replace(molecule, cell=40.0 * np.eye(3))
    alone, boxed = predict(model, molecule), predict(model, wide)
    torch.testing.assert_close(boxed.energy, alone.energy, rtol=1e-13, atol=0)
    torch.testing.assert_close(boxed.forces, alone.forces, rtol=0, atol=1e-11)


def test_far_molecules_add_up(make_model, make_structure):
    """What global attention cannot promise: energies of molecules that do not see each other are a sum."""
    model = make_model(forces="conservative", cutoff=CUTOFF)
    a, b = make_structure(9), make_structure(5, charge=0)
    far = Structure(np.concatenate([a.numbers, b.numbers]), np.concatenate([a.positions, b.positions + 60.0]), 0, 1)
    a, b = replace(a, spin=1), replace(b, spin=1)
    alone, both = predict(model, a, b), predict(model, far)
    torch.testing.assert_close(both.energy[0], alone.energy.sum(), rtol=1e-13, atol=0)
    torch.testing.assert_close(both.forces, alone.forces, rtol=0, atol=1e-10)


def test_forces_and_stress_are_derivatives(make_model):
    model, cell, step = make_model(forces="conservative", cutoff=CUTOFF), crystal(), 1e-5
    found, volume = predict(model, cell), abs(np.linalg.det(cell.cell))

    def slope(change):
        return float(predict(model, change(step)).energy - predict(model, change(-step)).energy) / (2 * step)

    for atom, axis in ((0, 0), (3, 2)):
        direction = np.zeros((5, 3))
        direction[atom, axis] = 1
        force = -slope(lambda t, d=direction: replace(cell, positions=cell.positions + t * d))
        assert force == pytest.approx(float(found.forces[atom, axis]), abs=1e-6)
    for strain in np.random.default_rng(1).normal(size=(3, 3, 3)):
        symmetric = (strain + strain.T) / 2

        def strained(t, s=symmetric):
            stretch = np.eye(3) + t * s
            return replace(cell, positions=cell.positions @ stretch, cell=cell.cell @ stretch)

        expected = float((found.stress[0] * torch.from_numpy(symmetric)).sum()) * volume
        assert slope(strained) == pytest.approx(expected, abs=1e-5)


def test_nothing_jumps_at_the_cutoff(make_model):
    """An atom that leaves takes its influence with it, as the third power of what is left to the cutoff."""
    model = make_model(forces="conservative", cutoff=CUTOFF)
    places = CUTOFF + np.array([-0.04, -0.02, 0.0, 1.0, 5.0])
    line = [Structure(np.array([8, 6]), np.array([[0, 0, 0], [x, 0, 0]]), 0, 1) for x in places]
    far, near, *gone = (predict(model, *line).energy - predict(model, line[-1]).energy).detach().numpy()
    assert np.abs(gone).max() < 1e-11 < abs(near) / 1000
    assert far / near == pytest.approx(8, rel=0.2)
    assert float(log_envelope(torch.tensor(CUTOFF), CUTOFF)) < -40


def test_rotating_a_cell_turns_it_with_its_labels(make_model):
    """Exact for a model only as far as it has learned it; here: for the labels, and there and back for predictions."""
    cell = replace(crystal(), energy=1.0, forces=np.ones((5, 3)), stress=np.diag([1.0, 2.0, 3.0]))
    batch = Batch.collate([cell], torch.float64)
    turn = random_rotations(1, torch.Generator().manual_seed(0), torch.float64)
    there = rotate(batch, turn)
    assert there.cell is not None and batch.cell is not None and there.stress is not None
    torch.testing.assert_close(there.cell @ there.cell.mT, batch.cell @ batch.cell.mT)
    torch.testing.assert_close(torch.linalg.eigvalsh(there.stress[0]), torch.tensor([1.0, 2.0, 3.0]).double())
    back = rotate(there, turn.mT)
    model = make_model(forces="conservative", cutoff=CUTOFF)
    torch.testing.assert_close(model(back).stress, model(batch).stress, rtol=0, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cutoff=st.floats(0.5, 9.0))
def test_images_are_those_of_a_neighbour_list(seed, cutoff):
    generator = np.random.default_rng(seed)
    cell = generator.normal(scale=3.0, size=(3, 3)) + 4 * np.eye(3)
    cell[generator.random(3) < 0.2] = 0.0
    assume(not cell.any() or np.linalg.svd(cell[cell.any(1)])[1].min() > 1.5)  # flatter cells have too many images
    positions = generator.normal(scale=6.0, size=(4, 3))
    images = find_images(positions, cell, cutoff)
    inside = positions - images.wrap_shift @ cell
    ghosts = inside[images.source_index] + images.cell_shifts @ cell
    apart = ghosts[None] - inside[:, None]
    near = np.linalg.norm(apart, axis=-1)
    own = np.linalg.norm(inside[None] - inside[:, None], axis=-1)[~np.eye(4, dtype=bool)]
    found = np.sort(np.concatenate([near[near < cutoff], own[own < cutoff]]))
    atoms = ase.Atoms("H4", positions, cell=cell, pbc=cell.any(1))
    assert found == pytest.approx(np.sort(neighbor_list("d", atoms, cutoff)))
    assert not len(near.T) or near.min(0).max() < cutoff  # and no more


def test_a_model_without_cutoff_refuses_cells(make_model):
    with pytest.raises(InputError, match="without a cutoff"):
        predict(make_model(), crystal())


def test_a_cutoff_reaches_as_far_as_local_layers():
    """Or images that these see would be missing."""
    assert ModelSettings.model_validate({"cutoff": LOCAL_CUTOFF}).cutoff == 4
    with pytest.raises(ValueError, match="greater than or equal to 4"):
        ModelSettings.model_validate({"cutoff": 3.9})


def test_a_cutoff_and_absolute_features_exclude_each_other():
    with pytest.raises(ValueError, match="another preset"):
        ModelSettings.model_validate({"preset": "paper", "cutoff": 5.0})
