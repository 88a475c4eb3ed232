"""What a step sees: which structures, in which orientations, and what that counts.

All of it is a pure function of the recipe and the number of the global batch, however many processes share the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch

from transip.batch import Batch
from transip.config import Recipe
from transip.data.dataset import Dataset
from transip.data.sampler import AtomBudgetSampler, Indices, check_budget
from transip.rotations import random_rotations
from transip.training.losses import Share, Turns, Twice

POOL_SEED = 2**31  # on top of the run's seed: the pool has random numbers of its own, whatever the labelled data are
REPLAY_SEED = 2**32  # so have the replayed ones
NONE = np.empty(0, dtype=np.int64)


class GlobalBatch(NamedTuple):
    """What all processes together see at once: numbers of structures in their datasets."""

    labelled: Indices
    unlabelled: Indices = NONE
    replay: Indices = NONE


class Views:
    """Draws batches and orientations for process `rank` of `processes`.

    Args:
        recipe: what to draw.
        data: labelled structures.
        pool: unlabelled ones, if the recipe has any.
        rank: of this process.
        processes: that share a global batch.
        replay: labelled structures of other packs, if the recipe has any.

    Raises:
        InputError: a structure is larger than a batch may be, or there are fewer structures than processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        pool: Dataset | None,
        rank: int,
        processes: int,
        replay: Dataset | None = None,
    ):
        self.objective, self.seed, self.rank, self.processes = recipe.objective, recipe.training.seed, rank, processes
        self.data, self.pool, self.replay, self.limits = data, pool, replay, recipe.training.batch
        self.labelled = AtomBudgetSampler(data.atom_counts, self.limits, self.seed, processes)
        self.unlabelled = self._beside(pool, self.limits.unlabelled, POOL_SEED)
        self.replayed = self._beside(replay, self.limits.replay, REPLAY_SEED)
        layers, depth = recipe.objective.latent.layers, recipe.model.depth
        needed = depth if recipe.objective.consistency else 1 + max(layer % depth for layer in layers)
        # what a view without labels counts: the share of the blocks that see it
        self.share_of_pass = 1 if needed == depth else needed / depth

    def _beside(self, data: Dataset | None, structures: int, seed: int) -> AtomBudgetSampler | None:
        """Draws so many structures of `data`, if there are any, for each batch."""
        if data is None:
            return None
        limits = self.limits.model_copy(update={"batch_size": structures})
        check_budget(data.atom_counts, limits, data.describe)
        return AtomBudgetSampler(data.atom_counts, limits, self.seed + seed, self.processes)

    def stream(self, start: int) -> Iterator[GlobalBatch]:
        """Global batches without end, from number `start` on."""
        others = (self.unlabelled, self.replayed)
        drawn = (repeat(NONE) if sampler is None else sampler.stream(start) for sampler in others)
        return map(GlobalBatch, self.labelled.stream(start), *drawn)

    def parts(self, drawn: GlobalBatch) -> list[tuple[Dataset, Indices]]:
        """This process's structures: labelled, replayed (if any are), of the pool (if there is one)."""
        parts = [(self.data, drawn.labelled), (self.replay, drawn.replay), (self.pool, drawn.unlabelled)]
        return [(data, indices[self.rank :: self.processes]) for data, indices in parts if data is not None]

    def seen(self, number: int, drawn: GlobalBatch, device: torch.device) -> tuple[Batch, Turns, int, Twice | None]:
        """This process's part of global batch `number`, as `Objective.forward` takes it."""
        batches = [data.get_batch(indices).to(device) for data, indices in self.parts(drawn)]
        pool = None
        if self.pool is not None:
            of_pool = self._turns((self.seed + POOL_SEED) * 1_000_003 + number, 2, len(drawn.unlabelled))
            pool = Twice(batches.pop(), of_pool.to(device))
        turns = self._turns(self.seed * 1_000_003 + number, self.objective.views, len(drawn.labelled))
        if self.replay is not None:
            seed = (self.seed + REPLAY_SEED) * 1_000_003 + number
            turns = torch.cat([turns, self._turns(seed, self.objective.views, len(drawn.replay))], 1)
        paired = self._paired(len(drawn.labelled) + len(drawn.replay))  # the replayed ones come last
        new = min(paired, len(drawn.labelled))
        mine = sum(len(range(self.rank, part, self.processes)) for part in (new, paired - new))
        return reduce(Batch.concatenate, batches), turns.to(device), mine, pool

    def share(self, group: Sequence[GlobalBatch]) -> Share:
        """What this process's losses on `group` are divided by."""
        structures = atoms = pairs = paired_atoms = 0
        for drawn in group:
            first, second, pool = self._counts(drawn)
            labelled = [first, second] if self.objective.second_view_labels else [first]
            structures += sum(map(len, labelled))
            atoms += sum(int(view.sum()) for view in labelled)
            pairs += len(second) + len(pool)
            paired_atoms += int(second.sum() + pool.sum())
        n = self.processes
        return Share(structures / n, atoms / n, pairs / n, paired_atoms / n)

    def cost(self, drawn: GlobalBatch) -> tuple[int | float, int]:
        """Forward passes and atoms of a global batch; a view that only some blocks see is a fraction of a pass."""
        first, second, pool = self._counts(drawn)
        part = self.share_of_pass
        of_second = len(second) * (1 if self.objective.second_view_labels else part)
        atoms = int(first.sum() + second.sum() + 2 * pool.sum())
        return len(first) + of_second + 2 * len(pool) * part, atoms

    def atoms(self, drawn: GlobalBatch) -> int:
        """Atoms of the labelled structures of a global batch, replayed ones included."""
        return int(self._counts(drawn)[0].sum())

    def _counts(self, drawn: GlobalBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Atoms of each structure of the labelled first and second views, and of the pool."""
        first = self.data.atom_counts[drawn.labelled]
        if self.replay is not None:
            first = np.concatenate([first, self.replay.atom_counts[drawn.replay]])
        pool = NONE if self.pool is None else self.pool.atom_counts[drawn.unlabelled]
        return first, first[: self._paired(len(first))], pool

    def _paired(self, structures: int) -> int:
        """Labelled structures of a global batch that get a second view: at least one for each process."""
        if self.objective.views == 1:
            return 0
        return max(round(self.objective.second_view * structures), min(self.processes, structures))

    def _turns(self, seed: int, views: int, structures: int) -> Turns:
        """This process's orientations in a global batch of so many structures."""
        if not self.objective.augment:
            return torch.eye(3).expand(views, len(range(self.rank, structures, self.processes)), 3, 3)
        generator = torch.Generator().manual_seed(seed)
        turns = random_rotations(views * structures, generator).view(views, structures, 3, 3)
        if self.objective.mirror:  # in both views or in neither: between them is a rotation
            turns = turns * (1 - 2 * torch.randint(2, (structures, 1, 1), generator=generator))
        return turns[:, self.rank :: self.processes]
