from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch, dipole_moment, segment_mean, segment_sum
from transip.rotations import random_rotations, rotate
from transip.structure import Structure

F64 = torch.float64
counts_ = st.lists(st.integers(1, 7), min_size=1, max_size=5)
quick = settings(max_examples=15, deadline=None)
TENSORS = ("numbers", "positions", "structure_index", "atom_counts", "charge", "spin", "energy", "forces")


@pytest.fixture(scope="session")
def labelled(make_structure):
    def build(counts: list[int], seed: int = 0) -> Batch:
        generator = np.random.default_rng(seed)
        structures = [
            make_structure(c, seed + i, energy=float(generator.normal()), forces=generator.normal(size=(c, 3)))
            for i, c in enumerate(counts)
        ]
        return Batch.collate(structures, F64)

    return build


def same(a: Batch, b: Batch) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@quick
@given(counts=counts_)
def test_collate_lays_atoms_out_one_after_another(labelled, make_structure, counts):
    batch = labelled(counts)
    assert len(batch) == len(counts) and batch.num_atoms == sum(counts) and batch.max_num_atoms == max(counts)
    assert batch.atom_counts.tolist() == counts
    assert batch.structure_index.tolist() == [i for i, c in enumerate(counts) for _ in range(c)]
    structures = [make_structure(c, i) for i, c in enumerate(counts)]
    assert batch.spin.tolist() == [s.spin for s in structures]
    np.testing.assert_array_equal(batch.positions.numpy(), np.concatenate([s.positions for s in structures]))


def test_labels_are_kept_only_if_all_structures_have_them(make_structure):
    full, bare = make_structure(2, energy=1.0, forces=np.zeros((2, 3))), make_structure(3)
    batch = Batch.collate([full, bare])
    assert batch.energy is None and batch.forces is None
    assert Batch.collate([full]).energy.dtype == F64
    assert Batch.collate([full]).forces.dtype == Batch.collate([full]).positions.dtype == torch.float32


@quick
@given(counts=counts_, extra=st.integers(0, 3))
def test_slots_and_mask_describe_the_same_padded_layout(labelled, counts, extra):
    batch = replace(labelled(counts), max_num_atoms=max(counts) + extra)
    expected = np.arange(batch.max_num_atoms) < np.array(counts)[:, None]
    np.testing.assert_array_equal(batch.mask.numpy(), expected)
    np.testing.assert_array_equal(batch.padded_index.numpy(), np.flatnonzero(expected))


@quick
@given(counts=counts_, rest=st.sampled_from([(), (3,), (2, 4)]))
def test_sums_and_means_are_those_of_numpy(labelled, counts, rest):
    batch = labelled(counts)
    values = np.random.default_rng(0).normal(size=(sum(counts), *rest))
    parts = np.split(values, np.cumsum(counts)[:-1])
    given_values = torch.from_numpy(values)
    np.testing.assert_allclose(segment_sum(given_values, batch), [p.sum(0) for p in parts], atol=1e-12)
    np.testing.assert_allclose(segment_mean(given_values, batch), [p.mean(0) for p in parts], atol=1e-12)


@quick
@given(counts=counts_, number=st.integers(1, 6))
def test_first_and_followed_by_cut_and_join(labelled, counts, number):
    batch = labelled(counts)
    head = batch.head(number)
    assert head.atom_counts.tolist() == counts[:number]
    assert head.num_atoms == sum(counts[:number])
    joined = batch.concatenate(head)
    assert joined.max_num_atoms == max(counts) and len(joined) == len(batch) + len(head)
    same(joined.head(len(batch)), batch)
    np.testing.assert_array_equal(joined.structure_index[batch.num_atoms :], head.structure_index + len(batch))
    assert torch.equal(joined.forces[batch.num_atoms :], head.forces)


@quick
@given(counts=counts_, data=st.data())
def test_another_order_moves_everything(labelled, counts, data):
    batch = labelled(counts)
    order = data.draw(st.permutations(range(len(counts))))
    found = batch.index_select(torch.tensor(order))
    parts = [batch.forces.split(counts)[i] for i in order]
    assert found.atom_counts.tolist() == [counts[i] for i in order] and torch.equal(found.forces, torch.cat(parts))
    assert torch.equal(found.energy, batch.energy[order]) and found.max_num_atoms == batch.max_num_atoms
    same(found.index_select(torch.tensor(order).argsort()), batch)


LABELS_OF_SOME = ("charges", "spin_populations", "dipole", "stress")


@quick
@given(counts=counts_, other=counts_, data=st.data())
def test_labels_of_some_follow_their_structures(make_structure, counts, other, data):
    """Every operation on batches is the same as on lists of structures, whoever of them has a label."""

    def draw(count: int, seed: int) -> Structure:
        shapes = {"charges": count, "spin_populations": count, "dipole": 3, "stress": (3, 3)}
        has = data.draw(st.sets(st.sampled_from(LABELS_OF_SOME)))
        return make_structure(
            count, seed, **{name: np.random.default_rng(seed).normal(size=shapes[name]) for name in has}
        )

    first = [draw(count, i) for i, count in enumerate(counts)]
    second = [draw(count, i + 10) for i, count in enumerate(other)]
    order = data.draw(st.permutations(range(len(first))))
    a, b = Batch.collate(first, F64), Batch.collate(second, F64)
    for found, expected in (
        (a.concatenate(b), [*first, *second]),
        (a.index_select(torch.tensor(order)), [first[i] for i in order]),
        (a.head(1), first[:1]),
        (a.to(dtype=torch.float32).to(dtype=F64), first),
    ):
        wanted = Batch.collate(expected, F64)
        for name in LABELS_OF_SOME:
            x, y = getattr(found, name), getattr(wanted, name)
            assert x is None or x.dtype == F64
            assert y is not None or x is None or x.isnan().all(), name
            if y is not None:
                torch.testing.assert_close(x, y, equal_nan=True, rtol=1e-6, atol=0)


def test_the_index_follows_its_structures(labelled):
    batch = replace(labelled([2, 3, 1]), index=torch.tensor([7, 5, 9]))
    assert batch.head(2).index.tolist() == [7, 5]
    assert batch.concatenate(batch.head(1)).index.tolist() == [7, 5, 9, 7]
    assert batch.concatenate(labelled([1])).index is None


def test_to_casts_positions_and_forces_but_never_energies(labelled):
    batch = labelled([2, 3])
    cast = batch.to(dtype=torch.float32)
    assert cast.positions.dtype == cast.forces.dtype == torch.float32
    assert cast.energy.dtype == F64 and cast.numbers.dtype == cast.charge.dtype == torch.int64
    same(
        cast.to(dtype=F64).to("cpu"),
        replace(batch, positions=batch.positions.float().double(), forces=batch.forces.float().double()),
    )
    assert batch.to("meta").positions.device.type == batch.to("meta").charge.device.type == "meta"
    assert batch.to("meta").max_num_atoms == 3


# ------------------------------------------------------------------------------------------------------------- dipoles


@quick
@given(counts=counts_, seed=st.integers(0, 1000))
def test_dipoles_are_those_of_ase_lie_nowhere_and_turn_with_the_molecule(labelled, counts, seed):
    """For any charges, of neutral molecules and ions."""
    batch = labelled(counts, seed)
    generator = torch.Generator().manual_seed(seed)
    charges = torch.randn(sum(counts), generator=generator, dtype=F64)
    dipole = dipole_moment(charges, batch)
    for i in range(len(batch)):
        own = batch.structure_index == i
        atoms = ase.Atoms(batch.numbers[own].numpy(), batch.positions[own].numpy())
        expected = charges[own].numpy() @ (atoms.positions - atoms.get_center_of_mass())
        np.testing.assert_allclose(dipole[i], expected, atol=1e-10)
    shift = 50 * torch.randn(len(counts), 3, generator=generator, dtype=F64)
    moved = replace(batch, positions=batch.positions + shift[batch.structure_index])
    torch.testing.assert_close(dipole_moment(charges, moved), dipole, rtol=0, atol=1e-10)
    rotations = random_rotations(len(counts), generator, F64)
    expected = torch.einsum("sij,sj->si", rotations, dipole)
    torch.testing.assert_close(dipole_moment(charges, rotate(batch, rotations)), expected, rtol=0, atol=1e-10)


def test_the_derivative_of_a_dipole_of_fixed_charges_are_the_charges(labelled):
    """Of a neutral molecule; what the centre of mass adds is zero there."""
    batch = labelled([5])
    charges = torch.tensor([0.3, -0.1, 0.4, -0.9, 0.3], dtype=F64)
    positions = batch.positions.requires_grad_()
    (gradient,) = torch.autograd.grad(dipole_moment(charges, batch)[0, 1], positions)
    torch.testing.assert_close(gradient, charges[:, None] * torch.tensor([0.0, 1.0, 0.0], dtype=F64))


def test_a_periodic_structure_has_no_dipole_and_leaves_those_of_molecules_alone(make_structure):
    molecule = make_structure(3)
    slab = replace(molecule, cell=np.diag([9.0, 9.0, 0.0]))
    batch = Batch.collate([molecule, slab], F64)
    positions = batch.positions.requires_grad_()
    charges = torch.arange(6, dtype=F64)
    dipole = dipole_moment(charges, batch)
    torch.testing.assert_close(dipole[:1], dipole_moment(charges[:3], Batch.collate([molecule], F64)))
    assert dipole[1].isnan().all()
    (gradient,) = torch.autograd.grad(dipole[0].sum(), positions)
    assert gradient.isfinite().all() and not gradient[3:].any()
