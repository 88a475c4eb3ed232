"""Which structures go into which batch: random for training, sorted for evaluation, within an atom budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64, Integer

from transip.config import BatchSettings
from transip.errors import InputError

Counts = Integer[np.ndarray, "structures"]
Indices = Int64[np.ndarray, "batch"]

# Padded atoms² in a batch of several structures, at most, number × (largest)²: bounds the memory of attention.
MAX_PAIRS = 1_000_000


class AtomBudgetSampler:
    """Random *global* batches, of which process `rank` works on ``batch[rank::processes]``.

    The limits of `settings` hold for each process's share. The batches are a pure function of (counts,
    settings, seed, processes, epoch), so training can go on at any batch by its number alone.

    Args:
        counts: atoms per structure.
        settings: limits of one process's batch, and the window within which structures are sorted by size.
        seed: of the order.
        processes: number of processes that share a global batch.

    Raises:
        InputError: a structure alone is larger than the limits.
    """

    def __init__(self, counts: Counts, settings: BatchSettings, seed: int, processes: int = 1):
        check_budget(counts, settings)
        self._counts, self._settings, self._seed, self._processes = counts, settings, seed, processes
        if len(counts) < processes:
            raise InputError(
                f"{len(counts)} structures cannot be shared by {processes} processes",
                remedy="train on more data or with fewer processes",
            )

    def epoch(self, e: int) -> list[Indices]:
        """The global batches of epoch `e`: every structure once.

        Only the last batch filled can have fewer structures than there are processes; it is left out then (at
        most `processes` − 1 structures of an epoch), so that no process is ever without work.
        """
        generator = np.random.default_rng((self._seed, e))
        order = generator.permutation(len(self._counts))
        window = self._settings.bucket_window * self._settings.batch_size * self._processes
        if self._settings.bucket_window > 1:
            windows = np.arange(len(order)) // window
            order = order[np.lexsort((self._counts[order], windows))]
        batches = _cut_batches(order, self._counts, self._settings, self._processes, MAX_PAIRS)
        if len(batches[-1]) < self._processes:
            batches.pop()
        if self._settings.bucket_window > 1:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return batches

    def stream(self, start: int = 0) -> Iterator[Indices]:
        """Batches of epoch 0, 1, … without end, from global batch number `start` on."""
        e = 0
        while True:
            batches = self.epoch(e)
            yield from batches[start:]
            start, e = max(start - len(batches), 0), e + 1


def sorted_batches(counts: Counts, settings: BatchSettings, max_pairs: int = MAX_PAIRS) -> list[Indices]:
    """Batches for evaluation: every structure once, largest first, so that a lack of memory shows at once.

    Several structures share a batch only if it has at most `max_pairs` padded atoms².

    Raises:
        InputError: a structure alone is larger than the limits.
    """
    check_budget(counts, settings)
    return _cut_batches(np.argsort(-counts, kind="stable"), counts, settings, 1, max_pairs)


def check_budget(
    counts: Counts, settings: BatchSettings, describe: Callable[[int], str] = "structure {}".format
) -> None:
    """Check that each structure fits into a batch of its own; `describe` names it in the message.

    Raises:
        InputError: one does not; its index, size and the limit are named.
    """
    if not len(counts):
        return
    largest = int(counts.argmax())
    atoms = int(counts[largest])
    if atoms > settings.max_atoms:
        raise InputError(
            f"has {atoms} atoms, more than a batch may hold ({settings.max_atoms} atoms)",
            where=describe(largest),
            remedy=f"raise training.batch.max_atoms to at least {atoms}, or leave the structure out",
        )


def _cut_batches(
    order: np.ndarray, counts: np.ndarray, settings: BatchSettings, processes: int, max_pairs: int
) -> list[Indices]:
    """Cut `order` into batches, closing one as soon as the next structure would break a process's limit."""
    cuts, begin = [], 0
    atoms, largest = [0] * processes, [0] * processes
    for i, count in enumerate(counts[order].tolist()):
        quotient, rank = divmod(i - begin, processes)
        size = count if count > largest[rank] else largest[rank]
        if (
            quotient == settings.batch_size
            or atoms[rank] + count > settings.max_atoms
            or (quotient and (quotient + 1) * size * size > max_pairs)
        ):
            cuts.append(i)
            begin, rank, size = i, 0, count
            atoms, largest = [0] * processes, [0] * processes
        atoms[rank] += count
        largest[rank] = size
    return [batch.astype(np.int64) for batch in np.split(order, cuts)] if len(order) else []
