"""Query atoms in chunks: the same values and derivatives as of all at once, and nothing kept meanwhile."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from transip.batch import Batch
from transip.model import chunking, neighbors
from transip.model.chunking import checkpoint_chunks, map_query_chunks
from transip.model.geometry import AtomGeometry
from transip.model.pair_features import AtomPairs, PairEncoder, PairFeatures

CHUNKS = [slice(0, 3), slice(3, 6), slice(6, 7)]


def attention(chunk: slice, query: Tensor, key: Tensor) -> Tensor:
    return (query[:, chunk] @ key.mT).softmax(-1) @ key


@pytest.fixture
def values() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_values_and_derivatives(values, needed):
    query, key = (x.requires_grad_(need) for x, need in zip(values, needed, strict=True))
    leaves = [x for x in (query, key) if x.requires_grad]
    whole, chunked = attention(slice(None), query, key), checkpoint_chunks(attention, CHUNKS, query, key)
    torch.testing.assert_close(chunked, whole)
    for found, exact in zip(*(torch.autograd.grad(x.sin().sum(), leaves) for x in (chunked, whole)), strict=True):
        torch.testing.assert_close(found, exact)


def test_what_a_chunk_does_not_depend_on(values):
    query, key = values
    found = torch.autograd.grad(
        checkpoint_chunks(lambda chunk, query, _: query[:, chunk], CHUNKS, query, key).sum(), [query, key]
    )
    assert (found[0] == 1).all() and (found[1] == 0).all()


def test_a_second_derivative_is_refused_rather_than_wrong(values):
    (gradient,) = torch.autograd.grad(
        checkpoint_chunks(attention, CHUNKS, *values).sin().sum(), values[:1], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_operations_can_be_counted(make_model, make_structure, monkeypatch):
    monkeypatch.setattr(chunking, "MAX_PAIRS_PER_CHUNK", 30)
    batch = Batch.collate([make_structure(9)], torch.float64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        make_model(forces="conservative")(batch)
    assert counter.get_total_flops() > 0


def test_only_the_values_are_kept(values):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        checkpoint_chunks(attention, CHUNKS, *values)
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in values]


@pytest.fixture
def batch(make_structure) -> Batch:
    return Batch.collate([make_structure(count, seed=count) for count in (9, 1, 14)], torch.float64)


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize(("pairs", "gather_from"), [(2**18, 2), (100, 64), (1, 64), (1, 2)])
def test_dense_gathered_and_chunked_pairs_give_the_same_numbers(
    make_model, batch, monkeypatch, forces, pairs, gather_from
):
    model = make_model("default", forces)
    with torch.no_grad():
        expected = model(batch)
        monkeypatch.setattr(chunking, "MAX_PAIRS_PER_CHUNK", pairs)
        monkeypatch.setattr(neighbors, "NEIGHBOR_LIST_MIN_ATOMS", gather_from)
        found = model(batch)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-9)


def test_forces_that_are_differentiated_again_are_not_chunked(make_model, batch, monkeypatch):
    """A chunk has no second derivative."""
    model = make_model("default", "conservative")
    expected = model(batch).forces.square().sum()
    monkeypatch.setattr(chunking, "MAX_PAIRS_PER_CHUNK", 100)
    positions = batch.positions.requires_grad_()
    found = model(batch).forces.square().sum()
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found, positions)[0].abs().max() > 0


@pytest.mark.parametrize(("max_pairs", "linear"), [(2**18, False), (128, True)])
def test_conservative_forces_of_a_large_molecule_do_not_keep_its_pairs(
    make_model, make_structure, monkeypatch, max_pairs, linear
):
    """Nothing that waits for the backward pass grows with all pairs, if they are chunked."""
    monkeypatch.setattr(chunking, "MAX_PAIRS_PER_CHUNK", max_pairs)
    model, largest = make_model(forces="conservative"), [0, 0]

    def watch(case: int, saved: torch.Tensor) -> torch.Tensor:
        largest[case] = max(largest[case], saved.numel())
        return saved

    for case, atoms in enumerate((150, 300)):
        batch = Batch.collate([make_structure(atoms)], torch.float64)
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(partial(watch, case), lambda saved: saved):
            model(batch)
    assert (largest[1] / largest[0] < 2.05) == linear


def test_chunks_cover_every_atom_once(monkeypatch):
    monkeypatch.setattr(chunking, "MAX_PAIRS_PER_CHUNK", 70)
    positions = torch.randn(2, 10, 3)
    chunks: list[slice] = []

    def distances(pairs: PairFeatures) -> Tensor:
        chunks.append(pairs.queries)
        return pairs.geometry.edge_lengths

    pairs = AtomPairs(AtomGeometry(positions, positions), PairEncoder(None, None, 1), dense=None)
    for _ in range(2):  # computed anew for every layer
        chunks.clear()
        found = map_query_chunks(distances, pairs)
        torch.testing.assert_close(found, torch.cdist(positions, positions), rtol=0, atol=2e-3)
        assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(10))
    assert len(chunks) == 4
