"""Blocks: every pair within the cutoff and no other; the same numbers as from whole molecules; linear memory."""

import copy
from functools import partial

import ase
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transip import blocks
from transip.batch import Batch
from transip.blocks import SKIN, Blocks, VerletBlocks, find_blocks
from transip.structure import Structure

F64 = torch.float64
CUTOFF = 5.0
SMALL_BLOCKS = {"MAX_DENSE_ATOMS": 2, "BLOCK_SIZE": 4}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Molecules of more than two atoms are cut, into blocks of four."""
    for name, value in SMALL_BLOCKS.items():
        monkeypatch.setattr(blocks, name, value)


@pytest.fixture
def batch(make_structure) -> Batch:
    return Batch.collate([make_structure(count, seed=count) for count in (9, 1, 14)], F64)


@pytest.mark.parametrize("cutoff", [CUTOFF, None])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_blocks_of_a_molecule_give_what_the_whole_gives(make_model, batch, monkeypatch, forces, cutoff):
    """Energies, forces, hidden states and gradients of all parameters."""

    def outputs() -> list[torch.Tensor | None]:
        model = make_model(forces=forces, cutoff=cutoff).requires_grad_()
        prediction = model(batch, (0, -1))
        loss = prediction.energy.sum() + prediction.forces.square().sum()
        gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        return [prediction.energy, prediction.forces, *prediction.embeddings, *gradients]

    expected = outputs()
    for name, value in SMALL_BLOCKS.items():
        monkeypatch.setattr(blocks, name, value)
    found = find_blocks(batch, cutoff, 4.0)
    assert found.neighbor_index is not None and (found.pair_index is None) == (cutoff is None)
    for a, b in zip(outputs(), expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cutoff=st.floats(1.0, 9.0), size=st.integers(1, 9))
def test_pairs_are_those_of_a_neighbour_list(seed, cutoff, size):
    """In cells of any shape, periodic in any directions, smaller than the cutoff, with atoms outside."""
    generator = np.random.default_rng(seed)
    structures = []
    for number in range(2):
        cell = generator.normal(scale=3.0, size=(3, 3)) + 4 * np.eye(3)
        cell[generator.random(3) < 0.3] = 0.0
        assume(not cell.any() or np.linalg.svd(cell[cell.any(1)])[1].min() > 1.5)  # flatter ones have too many images
        positions = generator.normal(scale=6.0, size=(3 + 4 * number, 3))
        structures.append(Structure(np.ones(len(positions), np.int64), positions, 0, 1, cell=cell))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_SIZE", size)
        batch = Batch.collate(structures, F64)
        found = find_blocks(batch, cutoff, min(cutoff, 4.0))
    pairs, near = lengths_of_pairs(batch, found)
    for number, structure in enumerate(structures):
        expected = neighbor_list("d", structure.to_atoms(), cutoff)
        own = pairs[number]
        assert np.sort(own[own > 1e-9]) == pytest.approx(np.sort(expected))
        assert np.sort(near[number]) == pytest.approx(np.sort(expected[expected < min(cutoff, 4.0)]))


def lengths_of_pairs(batch: Batch, found: Blocks) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Lengths of the listed pairs of each structure, and of those of the neighbours; Å."""
    assert found.pair_index is not None and found.pair_rows is not None and found.neighbor_index is not None
    assert found.neighbor_mask is not None and batch.cell is not None and found.image_shifts is not None
    atom_of_slot = found.query_index.flatten()
    structure = batch.structure_index[atom_of_slot]
    rows = found.to_rows(found.to_blocks(found.wrap(batch.positions, batch.cell, batch)))
    moved = torch.einsum("is,isx->ix", found.image_shifts, batch.cell[structure[found.image_slot]])
    rows[len(atom_of_slot) :] += moved
    slot = found.pair_index // found.key_mask.shape[1]
    keys = found.gather_keys(torch.arange(len(rows), dtype=F64)).long()
    position = found.pair_index % found.key_mask.shape[1]
    block = slot // found.query_index.shape[1]
    assert torch.equal(keys[block, position], found.pair_rows) and found.key_mask[block, position].all()
    is_atom = torch.zeros(len(atom_of_slot), dtype=torch.bool)
    is_atom[found.slot_index] = True
    lengths = (rows[found.pair_rows] - rows[slot]).norm(dim=1)
    near = (rows[found.neighbor_index] - rows[: len(atom_of_slot)].view(*found.query_index.shape, 1, 3)).norm(dim=-1)
    listed = found.neighbor_mask & is_atom.view(found.query_index.shape)[..., None]
    near_structure = structure.view(found.query_index.shape)[..., None].expand(listed.shape)
    each = range(len(batch))
    return (
        [lengths[is_atom[slot] & (structure[slot] == number)].numpy() for number in each],
        [near[listed & (near_structure == number)].numpy() for number in each],
    )


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 200), size=st.integers(1, 40), seed=st.integers(0, 100))
def test_blocks_hold_every_atom_once_and_are_full(count, size, seed):
    positions = np.random.default_rng(seed).normal(size=(count, 3))
    order = blocks._compact_order(positions, size)
    assert np.array_equal(np.sort(order), np.arange(count))


def test_blocks_are_compact():
    """Neighbouring atoms are together: half as far from each other as any atoms are."""
    positions = np.random.default_rng(0).uniform(size=(512, 3))
    order = blocks._compact_order(positions, 32)
    extent = np.ptp(positions[order].reshape(16, 32, 3), axis=1)
    assert extent.max() < 0.75 and np.prod(extent, axis=1).mean() < 1.2 / 16


def test_memory_grows_with_the_atoms(make_model):
    """Of a chain of molecules, nothing that waits for the backward pass grows faster."""
    model, largest = make_model(forces="conservative", cutoff=CUTOFF), [0, 0]

    def watch(case: int, saved: torch.Tensor) -> torch.Tensor:
        largest[case] = max(largest[case], saved.numel())
        return saved

    for case, count in enumerate((200, 400)):
        positions = np.stack([np.arange(count) * 1.5, np.arange(count) % 3, np.arange(count) % 2], 1)
        chain = Structure(np.full(count, 6), positions, 0, 1)
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(partial(watch, case), lambda saved: saved):
            model(Batch.collate([chain], F64))
    assert largest[1] < 2.2 * largest[0]


def test_dynamics_finds_blocks_rarely_and_feels_nothing_of_it(make_model, make_structure, small_blocks):
    model, fresh = (copy.deepcopy(make_model(forces="conservative", cutoff=CUTOFF)) for _ in range(2))
    found: list[float] = []
    find = model.backbone.find_blocks
    object.__setattr__(model.backbone, "find_blocks", lambda batch, skin=0.0: found.append(skin) or find(batch, skin))
    structure, velocity = make_structure(14), np.random.default_rng(0).normal(scale=0.02, size=(14, 3))
    for step in range(20):
        moved = Structure(structure.numbers, structure.positions + step * velocity, structure.charge, structure.spin)
        batch = Batch.collate([moved], F64)
        fresh.verlet_blocks = VerletBlocks()
        with torch.no_grad():
            one, other = model(batch), fresh(batch)
        torch.testing.assert_close(one.forces, other.forces, rtol=0, atol=1e-10)
        torch.testing.assert_close(one.energy, other.energy, rtol=0, atol=1e-10)
    assert found[:2] == [0.0, SKIN] and 2 < len(found) < 10


def test_another_molecule_gets_blocks_of_its_own(make_model, make_structure, small_blocks):
    model = make_model(forces="conservative", cutoff=CUTOFF)
    with torch.no_grad():
        for count in (9, 14, 9):
            batch = Batch.collate([make_structure(count)], F64)
            assert len(model.with_blocks(batch).blocks.slot_index) == count


def test_blocks_survive_rotation_but_not_selection(make_structure, small_blocks):
    batch = Batch.collate([make_structure(9), make_structure(5)], F64)
    prepared = Batch(**{**vars(batch), "blocks": find_blocks(batch, CUTOFF, 4.0)})
    assert prepared.head(1).blocks is None and prepared.concatenate(prepared).blocks is None
    assert prepared.index_select(torch.tensor([1, 0])).blocks is None
    assert prepared.to(dtype=torch.float32).blocks is not None


def test_water_in_a_cell_has_the_atoms_of_ase():
    """A cell of which one block is too small, against a reference that was written independently."""
    atoms = ase.build.bulk("NaCl", "rocksalt", 5.6, cubic=True).repeat(2)
    structure = Structure(np.array(atoms.numbers), atoms.positions, 0, 1, cell=atoms.cell.array)
    batch = Batch.collate([structure], F64)
    lengths, near = lengths_of_pairs(batch, find_blocks(batch, 6.0, 4.0))
    assert len(find_blocks(batch, 6.0, 4.0).query_index) == 2
    assert np.count_nonzero(lengths[0] > 1e-9) == len(neighbor_list("i", atoms, 6.0))
    assert len(near[0]) == len(neighbor_list("i", atoms, 4.0))
