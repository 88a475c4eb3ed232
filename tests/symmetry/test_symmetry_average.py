"""Rotational averages against potentials whose averages are known, and as functions of the positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transip.batch import Batch, Prediction, centered, dipole_moment, segment_sum
from transip.errors import InputError
from transip.rotations import random_rotations, rotate, rotate_vectors
from transip.symmetry.average import RotationEnsemble, rotation_set, with_rotation_average
from transip.symmetry.committee import Committee

F64 = torch.float64


class Field(nn.Module):
    """Springs to the centroid, and a uniform field of 2 eV/Å along z that pulls at every atom."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, batch: Batch) -> Prediction:
        self.sizes.append(len(batch))
        x = centered(batch.positions, batch)
        energies = (0.5 * x.square().sum(-1) - 2 * batch.positions[:, 2]).double() - 1e6
        forces = -x + 2 * torch.tensor([0.0, 0.0, 1.0], dtype=x.dtype)
        return Prediction(segment_sum(energies, batch), energies, forces)


def batch_of(make_structure, *counts: int, dtype: torch.dtype = F64) -> Batch:
    return Batch.collate([make_structure(count, seed) for seed, count in enumerate(counts)], dtype)


def turned(batch: Batch, rotation: torch.Tensor) -> tuple[Batch, torch.Tensor]:
    each = rotation.expand(len(batch), 3, 3)
    return rotate(batch, each), each


@pytest.mark.parametrize("number", [12, 24, 60])
def test_a_field_averages_out(make_structure, number):
    """What is left are the springs; the spread is that of the field, ±2 eV/Å along each axis at random."""
    batch = batch_of(make_structure, 3, 1, 6)
    x = centered(batch.positions, batch)
    found = with_rotation_average(Field(), number)(batch)
    torch.testing.assert_close(found.forces, -x)
    springs = segment_sum(0.5 * x.square().sum(-1), batch) - 1e6 * batch.atom_counts
    torch.testing.assert_close(found.energy, springs, rtol=0, atol=1e-8)
    torch.testing.assert_close(segment_sum(found.atom_energies, batch), found.energy)
    unbiased = (number / (number - 1)) ** 0.5
    torch.testing.assert_close(found.forces_std, torch.full((10,), 2.0 * unbiased, dtype=F64))
    dipole = segment_sum(2 * batch.positions, batch).norm(dim=-1)  # cos² θ is 1/3 on average
    torch.testing.assert_close(found.energy_std, dipole * unbiased / 3**0.5)


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize("number", [12, 24, 60])
def test_groups_are_exact_symmetries(make_model, make_structure, forces, number):
    batch = batch_of(make_structure, 5, 2)
    model = with_rotation_average(make_model(forces=forces), number)
    found = model(batch)
    raw = model.model(batch)
    for rotation in rotation_set(number)[[1, 5, -1]]:
        moved, each = turned(batch, rotation)
        again = model(moved)
        torch.testing.assert_close(again.energy, found.energy, rtol=0, atol=1e-8)
        torch.testing.assert_close(again.forces, rotate_vectors(found.forces, each, batch), rtol=0, atol=1e-8)
        torch.testing.assert_close(again.forces_std, found.forces_std, rtol=0, atol=1e-6)
        assert (model.model(moved).energy - raw.energy).abs().min() > 1e-3  # not symmetric by itself


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_more_rotations_leave_less_error(make_model, make_structure, seed):
    """Against any rotation: 60 of the icosahedron are closer to the mean over all than one orientation."""
    batch = batch_of(make_structure, 6, 4)
    model = make_model()
    moved, each = turned(batch, random_rotations(1, torch.Generator().manual_seed(seed), F64)[0])

    def error(potential: nn.Module) -> float:
        a, b = potential(batch), potential(moved)
        return float((rotate_vectors(b.forces, each.mT, batch) - a.forces).square().mean().sqrt())

    assert error(with_rotation_average(model, 60)) < 0.5 * error(model)


def test_rotations_may_have_weights(make_model, make_structure):
    """Twice the weight is the same as the rotation twice."""
    batch, rotations = batch_of(make_structure, 3), rotation_set(7)
    weights = torch.tensor([2.0, 1, 1, 1, 1, 1, 1], dtype=F64) / 8
    weighted = RotationEnsemble(make_model(), rotations, weights)(batch)
    repeated = RotationEnsemble(make_model(), torch.cat([rotations[:1], rotations]))(batch)
    torch.testing.assert_close(weighted.energy, repeated.energy)
    torch.testing.assert_close(weighted.forces, repeated.forces)


@pytest.mark.parametrize("number", [7, 12])
@pytest.mark.parametrize(("limits", "passes"), [({"max_atoms": 20}, 1), ({"max_atoms": 1}, 1), ({"max_pairs": 400}, 4)])
def test_memory_is_bounded(make_structure, number, limits, passes):
    """Fewer rotations at a time change nothing but the sizes of forward passes."""
    batch = batch_of(make_structure, 3, 7)  # 10 atoms, 98 padded pairs
    many, few = Field(), Field()
    whole = RotationEnsemble(many, rotation_set(number))(batch)
    chunked = RotationEnsemble(few, rotation_set(number), **limits)(batch)
    assert many.sizes == [2 * number]
    assert sum(few.sizes) == 2 * number and max(few.sizes) <= 2 * max(passes, limits.get("max_atoms", 0) // 10)
    for name in ("energy", "atom_energies", "forces", "energy_std", "forces_std"):
        torch.testing.assert_close(getattr(chunked, name), getattr(whole, name), rtol=0, atol=1e-8)


@pytest.mark.parametrize("number", [5, 12])
def test_average_of_gradients_is_gradient_of_average(make_model, make_structure, number):
    batch = batch_of(make_structure, 4, 3)
    model = with_rotation_average(make_model(forces="conservative"), number)
    forces = model(batch).forces
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(batch.positions.shape, generator=generator, dtype=F64)
    step = 1e-4 * direction
    ahead, behind = (
        model(Batch(**(vars(batch) | {"positions": batch.positions + sign * step}))).energy for sign in (1, -1)
    )
    expected = -segment_sum((forces * direction).sum(-1), batch)
    torch.testing.assert_close((ahead - behind) / 2e-4, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_positions_may_need_gradients(make_model, make_structure, forces):
    batch = batch_of(make_structure, 4, 3)
    model = with_rotation_average(make_model(forces=forces), 12)
    positions = batch.positions.requires_grad_()
    found = model(batch)
    (gradient,) = torch.autograd.grad(found.energy.sum(), positions, retain_graph=True)
    if forces == "conservative":
        torch.testing.assert_close(-gradient, found.forces)
    else:
        assert (gradient + found.forces).norm() > 1e-3
    (second,) = torch.autograd.grad(found.forces.square().sum(), positions)  # as a loss on forces needs it
    assert torch.isfinite(second).all() and second.any()
    assert not found.forces_std.requires_grad


def test_every_call_gives_the_same(make_model, make_structure):
    batch = batch_of(make_structure, 5, dtype=torch.float32)
    first, second = (with_rotation_average(make_model(dtype=torch.float32), 7)(batch) for _ in range(2))
    assert torch.equal(first.forces, second.forces) and torch.equal(first.energy_std, second.energy_std)
    assert first.forces.dtype == torch.float32 and first.energy.dtype == F64


def test_the_batch_is_left_alone(make_structure):
    batch = batch_of(make_structure, 3, 2)
    before = batch.positions.clone()
    with_rotation_average(Field(), 12)(batch)
    assert torch.equal(batch.positions, before)


def test_weights_are_shared_and_none_is_the_model(make_model):
    model = make_model()
    assert with_rotation_average(model, None) is model
    assert next(with_rotation_average(model, 12).parameters()) is next(model.parameters())


@pytest.mark.parametrize("number", [1, 0, -3])
def test_too_few_rotations(make_model, number):
    with pytest.raises(InputError, match=f"average is {number}"):
        with_rotation_average(make_model(), number)


def test_one_rotation_has_no_spread(make_model):
    with pytest.raises(InputError, match="over 1 rotations"):
        RotationEnsemble(make_model(), torch.eye(3, dtype=F64)[None])


def test_embeddings_have_no_average(make_model, make_structure):
    with pytest.raises(InputError, match="no embeddings"):
        with_rotation_average(make_model(), 12)(batch_of(make_structure, 3), (0,))


def test_charges_and_dipoles_are_averaged_like_energies_and_forces(charged_model, make_structure):
    """The mean dipole is that of the mean charges, and turns with the molecule under the group."""
    batch = batch_of(make_structure, 5, 3)
    model = with_rotation_average(charged_model, 12)
    found, raw = model(batch), charged_model(batch)
    torch.testing.assert_close(found.dipole, dipole_moment(found.charges, batch))
    torch.testing.assert_close(segment_sum(found.charges, batch), batch.charge.double(), rtol=0, atol=1e-10)
    moved, each = turned(batch, rotation_set(12)[5])
    again = model(moved)
    for name in ("charges", "spin_populations"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), rtol=0, atol=1e-8)
        assert (getattr(raw, name) - getattr(charged_model(moved), name)).abs().max() > 1e-4  # not by itself
    torch.testing.assert_close(again.dipole, torch.einsum("sij,sj->si", each, found.dipole), rtol=0, atol=1e-8)
    assert Committee([charged_model, charged_model])(batch).dipole.allclose(raw.dipole)


def test_a_mean_has_charges_if_all_members_have(charged_model, make_model, make_structure):
    prediction = Committee([charged_model, make_model()])(batch_of(make_structure, 3))
    assert prediction.charges is prediction.spin_populations is prediction.dipole is None
