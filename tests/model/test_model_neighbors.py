"""Geometry of pairs and neighbour lists."""

import numpy as np
import pytest
import torch

from transip import blocks
from transip.batch import Batch
from transip.blocks import find_blocks
from transip.model.geometry import block_geometry
from transip.model.neighbors import LOCAL_CUTOFF, MIN_LENGTH, neighbor_list
from transip.model.radial import GaussianBasis
from transip.structure import Structure

F64 = torch.float64


def test_lengths_are_query_by_key(make_structure):
    batch = Batch.collate([make_structure(5), make_structure(3)], F64)
    lengths = block_geometry(batch.positions, None, batch, find_blocks(batch, None, LOCAL_CUTOFF)).edge_lengths
    expected = torch.cdist(*2 * [batch.to_dense(batch.positions)])
    for lengths_of_one, expected_of_one, count in zip(lengths, expected, (5, 3), strict=True):
        torch.testing.assert_close(
            lengths_of_one[:count, :count], (expected_of_one[:count, :count].square() + 1e-6).sqrt()
        )


@pytest.mark.parametrize("listed", [False, True])
def test_neighbours_fade_out_smoothly_at_the_cutoff(monkeypatch, listed):
    """Value and slope vanish where a neighbour leaves, else molecular dynamics would feel a kick."""
    monkeypatch.setattr(blocks, "MAX_DENSE_ATOMS", 1 if listed else 10_000)
    x = np.linspace(3.0, 4.5, 1501)
    line = np.concatenate([np.zeros((1, 3)), x[:, None] * [0.6, 0.0, 0.8]])
    batch = Batch.collate([Structure(np.ones(len(line), np.int64), line, 0, 1)], F64)
    found = find_blocks(batch, None, LOCAL_CUTOFF)
    geometry = block_geometry(batch.positions, None, batch, found)
    near = neighbor_list(geometry, found, GaussianBasis(MIN_LENGTH, LOCAL_CUTOFF, 12).double(), l_max=2)
    index = torch.arange(len(line)) if found.neighbor_index is None else found.neighbor_index[0, 0]
    of_first = torch.arange(len(index)) if found.neighbor_mask is None else found.neighbor_mask[0, 0].nonzero()[:, 0]
    order = of_first[index[of_first].argsort()]
    values = near.rbf[0, 0, order] if listed else near.rbf[0, 0, 1:]
    inside, outside = values[x[: len(values)] < LOCAL_CUTOFF], values[x[: len(values)] > LOCAL_CUTOFF]
    assert len(inside) == 1000 and len(outside) == (0 if listed else 500)
    assert inside[0].abs().max() > 0.1
    assert inside[-1].abs().max() < 1e-5 and (inside[-1] - inside[-2]).abs().max() < 1e-5
    assert not outside.any()
