import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch
from transip.rotations import (
    quaternions_to_matrices,
    random_rotations,
    rotate,
    rotate_vectors,
    rotation_group,
)

F64 = torch.float64


def draw(count: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(count, torch.Generator().manual_seed(seed), F64)


def test_rotations_are_proper():
    r = draw(200)
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=F64).expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(200, dtype=F64))


def test_rotations_are_uniform():
    """Moments of the Haar measure: E[r] = 0, E[r_ij²] = 1/3; the angle has density (1 − cos θ)/π."""
    r = draw(40_000)
    assert r.mean(0).abs().max() < 0.015
    assert (r.square().mean(0) - 1 / 3).abs().max() < 0.01
    angle = ((r.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1).acos()
    assert abs(float(angle.mean()) - (np.pi / 2 + 2 / np.pi)) < 0.015
    turned = draw(1, seed=5)[0] @ r  # invariant under any fixed rotation
    assert turned.mean(0).abs().max() < 0.015


def test_the_seed_decides():
    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(5, seed=1))


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -2, 3)])
def test_quaternions_of_half_turns(axis):
    """(0, u) is the half turn about u, 2 u uᵀ − 1."""
    unit = torch.tensor(axis, dtype=F64) / np.linalg.norm(axis)
    quaternion = torch.cat([torch.zeros(1, dtype=F64), unit])[None]
    expected = 2 * torch.outer(unit, unit) - torch.eye(3, dtype=F64)
    torch.testing.assert_close(quaternions_to_matrices(quaternion)[0], expected)


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_each_structure_turns_by_its_own_rotation(make_structure, counts, seed):
    structures = [
        make_structure(
            c, seed, energy=1.0, forces=np.random.default_rng(c).normal(size=(c, 3)), dipole=np.arange(3.0) + c
        )
        for c in counts
    ]
    batch = Batch.collate(structures, F64)
    r = draw(len(counts), seed)
    turned = rotate(batch, r)
    first = 0
    for count, matrix in zip(counts, r.numpy(), strict=True):
        mine = slice(first, first + count)
        np.testing.assert_allclose(turned.positions[mine].numpy(), batch.positions[mine].numpy() @ matrix.T)
        np.testing.assert_allclose(turned.forces[mine].numpy(), batch.forces[mine].numpy() @ matrix.T)
        first += count
    expected = np.einsum("sij,sj->si", r.numpy(), batch.dipole.numpy())
    np.testing.assert_allclose(turned.dipole.numpy(), expected)
    assert torch.equal(turned.energy, batch.energy)
    back = rotate(turned, r.mT)
    torch.testing.assert_close(back.positions, batch.positions)
    torch.testing.assert_close(back.forces, batch.forces)


GROUPS = {12: 2, 24: 3, 60: 5}  # order: degree up to which its mean is the mean over all rotations


@pytest.mark.parametrize("order", GROUPS)
def test_groups_are_groups(order):
    group = rotation_group(order)
    assert group.shape == (order, 3, 3) and group.dtype == F64
    assert torch.equal(group[0], torch.eye(3, dtype=F64))
    torch.testing.assert_close(group @ group.mT, torch.eye(3, dtype=F64).expand_as(group), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order, dtype=F64), rtol=0, atol=1e-12)
    assert nearest(group, group).eq(torch.arange(order)).all()  # all different
    for products in (group @ group[:, None], group.mT[None]):
        matches = nearest(products.reshape(-1, 3, 3), group).view(-1, order)
        assert (matches.sort(-1).values == torch.arange(order)).all()  # each row holds every element once


def nearest(rotations: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Which element of `group` each rotation is, to 1e-12."""
    distance = (rotations[:, None] - group).abs().amax((-1, -2))
    assert (distance.min(-1).values < 1e-12).all()
    assert ((distance < 0.1).sum(-1) == 1).all()
    return distance.argmin(-1)


def wigner_trace(degree: int, rotations: torch.Tensor) -> torch.Tensor:
    """Trace of the Wigner D matrix: 1 + 2 Σ cos mθ. The mean over a group vanishes only if the mean of D does."""
    angle = ((rotations.diagonal(dim1=-1, dim2=-2).sum(-1) - 1) / 2).clamp(-1, 1).acos()
    return 1 + 2 * sum(torch.cos(m * angle) for m in range(1, degree + 1))


@pytest.mark.parametrize(("order", "exact"), GROUPS.items())
def test_groups_average_low_degrees_exactly(order, exact):
    means = [float(wigner_trace(degree, rotation_group(order)).mean()) for degree in range(1, exact + 2)]
    np.testing.assert_allclose(means, [0] * exact + [1], atol=1e-12)  # one invariant in the first degree beyond


def check_powers(rotations: torch.Tensor, weights: torch.Tensor, degree: int) -> None:
    """The projection a · R b of one unit vector on another turned is uniform in [−1, 1]: mean of its powers."""
    a, b = torch.nn.functional.normalize(
        torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)).double(), dim=-1
    )
    projection = torch.einsum("ri,nij,rj->nr", a, rotations, b)
    for power in range(1, degree + 1):
        expected = 0.0 if power % 2 else 1 / (power + 1)
        torch.testing.assert_close(
            weights @ projection**power, torch.full((50,), expected, dtype=F64), rtol=0, atol=1e-12
        )
    beyond = weights @ projection ** (degree + 1) - (0.0 if degree % 2 == 0 else 1 / (degree + 2))
    assert beyond.abs().max() > 1e-4


@pytest.mark.parametrize(("order", "exact"), GROUPS.items())
def test_groups_average_powers_of_matrix_elements(order, exact):
    check_powers(rotation_group(order), torch.full((order,), 1 / order, dtype=F64), exact)


def test_unlabelled_batches_turn_too(make_structure):
    assert rotate(Batch.collate([make_structure(3)], F64), draw(1)).forces is None


def test_vectors_keep_their_precision(make_structure):
    batch = Batch.collate([make_structure(3)])
    assert rotate_vectors(batch.positions, draw(1), batch).dtype == torch.float32
