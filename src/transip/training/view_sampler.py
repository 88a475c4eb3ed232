"""Which structures a step sees, and in which orientations.

All of it is a pure function of the recipe and the number of the global batch, however many processes share the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import count, repeat

import numpy as np
import torch
from jaxtyping import Integer

from transip.config import Recipe
from transip.data.dataset import Dataset
from transip.data.sampler import AtomBudgetSampler, Indices, check_budget
from transip.rotations import random_rotations
from transip.training.training_batch import Normalizer, TrainingBatch, ViewRotations, Views

# Streams of random numbers, added to the run's seed: what one kind of data sees does not depend on the others.
LABELLED, UNLABELLED, REPLAYED = 0, 2**31, 2**32


@dataclass(frozen=True, eq=False)
class SampledViews:
    """Structures of one dataset, and their orientation in each view.

    Attributes:
        dataset: that holds the structures.
        indices: of the structures in it.
        rotations: (views, structures, 3, 3).
    """

    dataset: Dataset
    indices: Indices
    rotations: ViewRotations

    def shard(self, rank: int, num_processes: int) -> SampledViews:
        """What process `rank` of `num_processes` sees of them: every so many-th structure."""
        own = slice(rank, None, num_processes)
        return replace(self, indices=self.indices[own], rotations=self.rotations[:, own])

    @property
    def atom_counts(self) -> Integer[np.ndarray, "structures"]:
        """Atoms of each structure."""
        return self.dataset.atom_counts[self.indices]

    def load(self, device: torch.device) -> Views:
        """Read the structures."""
        return Views(self.dataset.get_batch(self.indices).to(device), self.rotations.to(device))


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """What all processes together see at one step (or, of a shard, what one of them does).

    Attributes:
        number: of the batch, from 0 on.
        labelled: structures whose labels are learned: of the training data, then replayed ones, if there are any.
        unlabelled: structures in two views, if there are any.
    """

    number: int
    labelled: tuple[SampledViews, ...]
    unlabelled: SampledViews | None = None

    def shard(self, rank: int, num_processes: int) -> ViewBatch:
        """The part of process `rank`; all parts together are the whole."""
        labelled = tuple(views.shard(rank, num_processes) for views in self.labelled)
        return replace(
            self, labelled=labelled, unlabelled=self.unlabelled and self.unlabelled.shard(rank, num_processes)
        )

    @property
    def samples(self) -> tuple[SampledViews, ...]:
        """Labelled and unlabelled structures."""
        return self.labelled if self.unlabelled is None else (*self.labelled, self.unlabelled)

    @property
    def num_labelled_atoms(self) -> int:
        """Atoms of the labelled structures, counted once."""
        return sum(int(views.atom_counts.sum()) for views in self.labelled)

    @property
    def num_passes(self) -> int:
        """Forward passes of one structure: one for each structure and view."""
        return sum(len(views.rotations) * len(views.indices) for views in self.samples)

    @property
    def num_atoms(self) -> int:
        """Atoms that pass through the network: those of each structure, counted in each view."""
        return sum(len(views.rotations) * int(views.atom_counts.sum()) for views in self.samples)

    def collate(self, normalizer: Normalizer, device: torch.device) -> TrainingBatch:
        """Read the structures."""
        labelled = reduce(Views.concatenate, [views.load(device) for views in self.labelled])
        unlabelled = None if self.unlabelled is None else self.unlabelled.load(device)
        return TrainingBatch(labelled, normalizer, unlabelled, self.number)


class ViewSampler:
    """Draws global batches: structures and their orientations.

    Args:
        recipe: what to draw.
        data: labelled structures.
        unlabelled: structures of which only geometries are used, if the recipe has any.
        replay: labelled structures of other packs, if the recipe has any.
        num_processes: that share a global batch.

    Raises:
        InputError: a structure is larger than a batch may be, or there are fewer structures than processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        unlabelled: Dataset | None = None,
        replay: Dataset | None = None,
        num_processes: int = 1,
    ):
        self.objective, self.seed, self.num_processes = recipe.objective, recipe.training.seed, num_processes
        limits = recipe.training.batch
        sizes = {LABELLED: limits.batch_size, REPLAYED: limits.replay, UNLABELLED: limits.unlabelled}
        self._datasets = {LABELLED: data, REPLAYED: replay, UNLABELLED: unlabelled}
        self._samplers: dict[int, AtomBudgetSampler] = {}
        for stream, dataset in self._datasets.items():
            if dataset is not None:
                limits_of_stream = limits.model_copy(update={"batch_size": sizes[stream]})
                check_budget(dataset.atom_counts, limits_of_stream, dataset.describe)
                seed = self.seed + stream
                self._samplers[stream] = AtomBudgetSampler(dataset.atom_counts, limits_of_stream, seed, num_processes)

    def batches(self, start: int = 0) -> Iterator[ViewBatch]:
        """Global batches without end, from number `start` on."""
        streams = (LABELLED, REPLAYED, UNLABELLED)
        drawn = (self._samplers[s].stream(start) if s in self._samplers else repeat(None) for s in streams)
        for number, *indices in zip(count(start), *drawn, strict=False):
            labelled, replayed, unlabelled = (
                None if chosen is None else self._sample(stream, number, chosen)
                for stream, chosen in zip(streams, indices, strict=True)
            )
            assert labelled is not None
            yield ViewBatch(number, (labelled,) if replayed is None else (labelled, replayed), unlabelled)

    def batch(self, number: int) -> ViewBatch:
        """Global batch `number`."""
        return next(self.batches(number))

    def normalizer(self, micro_batches: Sequence[ViewBatch]) -> Normalizer:
        """What losses on these global batches, of one optimiser step, are divided by in each process."""
        labelled = [views for batch in micro_batches for views in batch.labelled]
        pairs = [views for batch in micro_batches for views in batch.samples if len(views.rotations) == 2]
        totals = (
            sum(len(views.rotations) * len(views.indices) for views in labelled),
            sum(len(views.rotations) * int(views.atom_counts.sum()) for views in labelled),
            sum(len(views.indices) for views in pairs),
            sum(int(views.atom_counts.sum()) for views in pairs),
        )
        return Normalizer(*(total / self.num_processes for total in totals))

    def rng(self, stream: int, number: int) -> torch.Generator:
        """Random numbers of one kind of data for global batch `number`."""
        return torch.Generator().manual_seed((self.seed + stream) * 1_000_003 + number)

    def _sample(self, stream: int, number: int, indices: Indices) -> SampledViews:
        """Structures with random orientations, if the recipe augments."""
        dataset, num_structures = self._datasets[stream], len(indices)
        assert dataset is not None
        num_views = 2 if stream == UNLABELLED else self.objective.views
        if not self.objective.augment:
            return SampledViews(dataset, indices, torch.eye(3).expand(num_views, num_structures, 3, 3))
        rng = self.rng(stream, number)
        rotations = random_rotations(num_views * num_structures, rng).view(num_views, num_structures, 3, 3)
        if self.objective.mirror:  # in both views or in neither: the second is a proper rotation of the first
            rotations = rotations * (1 - 2 * torch.randint(2, (num_structures, 1, 1), generator=rng))
        return SampledViews(dataset, indices, rotations)
