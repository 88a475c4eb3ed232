"""Batches: every structure once, within the limits, and the same again from any point."""

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.config import BatchSettings
from transip.data.sampler import MAX_PAIRS, AtomBudgetSampler, sorted_batches
from transip.errors import InputError

sizes = st.lists(st.integers(1, 20), min_size=4, max_size=60).map(np.array)
limits = st.builds(
    BatchSettings,
    batch_size=st.integers(1, 8),
    max_atoms=st.integers(20, 60),
    bucket_window=st.integers(1, 4),
)


def assert_within_limits(counts, share, limit):
    assert 1 <= len(share) <= limit.batch_size
    assert counts[share].sum() <= limit.max_atoms
    assert len(share) == 1 or len(share) * counts[share].max() ** 2 <= MAX_PAIRS


@settings(max_examples=60, deadline=None)
@given(sizes, limits, st.integers(1, 4), st.integers(0, 5))
def test_an_epoch_has_every_structure_once_and_keeps_to_the_limits(counts, limit, processes, e):
    batches = AtomBudgetSampler(counts, limit, seed=1, processes=processes).epoch(e)
    for batch in batches:
        for rank in range(processes):
            assert_within_limits(counts, batch[rank::processes], limit)
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen)
    assert len(counts) - len(seen) < processes


@settings(max_examples=30, deadline=None)
@given(sizes, limits, st.integers(1, 3), st.integers(0, 40))
def test_going_on_from_any_batch_gives_the_same_batches(counts, limit, processes, start):
    def stream(begin):
        return AtomBudgetSampler(counts, limit, seed=7, processes=processes).stream(begin)

    whole, rest = list(islice(stream(0), start + 10)), list(islice(stream(start), 10))
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_epochs_and_seeds_differ():
    counts = np.full(50, 5)
    orders = [
        np.concatenate(AtomBudgetSampler(counts, BatchSettings(), s).epoch(e)) for s, e in [(0, 0), (0, 1), (1, 0)]
    ]
    assert not any(np.array_equal(orders[i], orders[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_a_batch_closes_only_when_the_next_structure_does_not_fit():
    counts = np.random.default_rng(0).integers(1, 20, 500)
    limit = BatchSettings(batch_size=8, max_atoms=60, bucket_window=1)
    batches = AtomBudgetSampler(counts, limit, seed=0).epoch(0)
    for batch, following in pairwise(batches):
        with pytest.raises(AssertionError):
            assert_within_limits(counts, np.append(batch, following[0]), limit)


def test_windows_reduce_padding():
    counts = np.random.default_rng(0).integers(2, 60, 2000)

    def padding(window):
        batches = AtomBudgetSampler(counts, BatchSettings(bucket_window=window), seed=0).epoch(0)
        return sum(len(b) * counts[b].max() for b in batches) / counts.sum()

    assert padding(16) < 1.1 < 1.5 < padding(1)


def test_large_structures_share_a_batch_only_as_memory_allows():
    counts = np.array([900, 700, 700, 20, 10])
    batches = sorted_batches(counts, BatchSettings(max_atoms=4096))
    assert [batch.tolist() for batch in batches] == [[0], [1, 2], [3, 4]]
    assert [len(batch) for batch in sorted_batches(counts, BatchSettings(), max_pairs=1)] == [1] * 5


def test_structure_larger_than_the_budget_is_named():
    counts = np.array([3, 31, 5])
    for build in (lambda s: AtomBudgetSampler(counts, s, seed=0), lambda s: sorted_batches(counts, s)):
        with pytest.raises(InputError, match=r"structure 1: has 31 atoms(.|\n)*training\.batch\.max_atoms"):
            build(BatchSettings(max_atoms=30))


def test_more_processes_than_structures():
    with pytest.raises(InputError, match="2 structures cannot be shared by 3 processes"):
        AtomBudgetSampler(np.array([3, 4]), BatchSettings(), seed=0, processes=3)


@settings(max_examples=30, deadline=None)
@given(sizes, limits)
def test_sorted_batches_are_sorted_and_complete(counts, limit):
    batches = sorted_batches(counts, limit)
    for batch in batches:
        assert_within_limits(counts, batch, limit)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(counts)))
    assert (np.diff(counts[order]) <= 0).all()


def test_no_structures_no_batches():
    assert sorted_batches(np.zeros(0, dtype=np.int64), BatchSettings()) == []
