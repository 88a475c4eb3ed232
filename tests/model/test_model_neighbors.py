"""Geometry of pairs and neighbour lists."""

import pytest
import torch

from transip.batch import Batch
from transip.model import neighbors
from transip.model.geometry import AtomGeometry, log_envelope
from transip.model.neighbors import LOCAL_CUTOFF, MIN_LENGTH, neighbor_list
from transip.model.radial import GaussianBasis

F64 = torch.float64


def test_geometry_is_query_by_key_and_points_to_the_key():
    positions = torch.randn(2, 5, 3, dtype=F64)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    geometry = AtomGeometry(positions, positions, mask, cutoff=6.0).pairs(slice(1, 3))
    for query, atom in enumerate((1, 2)):
        for key in range(5):
            vector = positions[:, key] - positions[:, atom]
            torch.testing.assert_close(geometry.edge_vectors[:, query, key], vector)
            length = geometry.edge_lengths[:, query, key]
            torch.testing.assert_close(length, (vector.square().sum(-1) + 1e-6).sqrt())
            expected = log_envelope(length, 6.0).masked_fill(~mask[:, key], -torch.inf)
            torch.testing.assert_close(geometry.attention_mask[:, query, key], expected)
            assert torch.equal(geometry.is_edge[:, query, key], mask[:, key] & (key != atom))


def test_gathered_neighbours_train_like_dense_ones(make_model, make_structure, monkeypatch):
    batch = Batch.collate([make_structure(count, seed=count) for count in (9, 1, 14)], F64)

    def gradients() -> list[torch.Tensor]:
        model = make_model().requires_grad_()
        prediction = model(batch)
        loss = prediction.energy.sum() + prediction.forces.square().sum()
        return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))

    expected = gradients()
    monkeypatch.setattr(neighbors, "NEIGHBOR_LIST_MIN_ATOMS", 2)
    for a, b in zip(gradients(), expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gathered", [False, True])
def test_neighbours_fade_out_smoothly_at_the_cutoff(monkeypatch, gathered):
    """Value and slope vanish where a neighbour leaves, else molecular dynamics would feel a kick."""
    monkeypatch.setattr(neighbors, "NEIGHBOR_LIST_MIN_ATOMS", 1 if gathered else 10_000)
    x = torch.linspace(3.0, 4.5, 1501, dtype=F64)
    line = torch.cat([torch.zeros(1, 3, dtype=F64), x[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=F64)])[None]
    geometry = AtomGeometry(line[:, :1], line).pairs()
    near = neighbor_list(geometry, GaussianBasis(MIN_LENGTH, LOCAL_CUTOFF, 12).double(), l_max=2)
    values = near.rbf[0, 0] if gathered else near.rbf[0, 0, 1:]  # nearest first, which is the order given
    inside, outside = values[x[: len(values)] < LOCAL_CUTOFF], values[x[: len(values)] > LOCAL_CUTOFF]
    assert len(inside) == 1000 and len(outside) == (0 if gathered else 500)
    assert inside[0].abs().max() > 0.1
    assert inside[-1].abs().max() < 1e-5 and (inside[-1] - inside[-2]).abs().max() < 1e-5
    assert not outside.any()
