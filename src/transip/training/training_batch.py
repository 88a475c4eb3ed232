"""What one process sees at one step: structures, their orientation in each view, and what losses are divided by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from transip.batch import Batch
from transip.rotations import Rotations, rotate

ViewRotations = Float[Tensor, "views structures 3 3"]


@dataclass(frozen=True)
class Normalizer:
    """What sums over one process's batch are divided by, so that gradients averaged over processes are exact.

    Each number is that of the whole step, of all processes and accumulated batches, divided by the number of processes.

    Attributes:
        structures: labelled structures, counted in each of their views.
        atoms: their atoms.
        paired_structures: structures, labelled or not, that are seen in two views.
        paired_atoms: their atoms.
    """

    structures: int | float
    atoms: int | float
    paired_structures: int | float = 0
    paired_atoms: int | float = 0


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Structures x in two views x₀ = R₀ x and x₁ = R₁ x.

    Attributes:
        batch: the structures as they were stored.
        rotations: R₀ and R₁, which may be improper, both or neither, (2, structures, 3, 3).
    """

    batch: Batch
    rotations: ViewRotations

    @property
    def relative_rotation(self) -> Rotations:
        """The rotation r with x₁ = r x₀, (structures, 3, 3)."""
        return self.rotations[1] @ self.rotations[0].mT

    @property
    def views(self) -> Batch:
        """All structures in the first view, then all in the second, as one batch."""
        return rotated_views(self.batch, self.rotations)

    def concatenate(self, other: ViewPair) -> ViewPair:
        """These structures, then the other ones."""
        return ViewPair(self.batch.concatenate(other.batch), torch.cat([self.rotations, other.rotations], 1))


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What one process sees at one step.

    Attributes:
        labelled: structures with labels, as they were stored.
        rotations: their orientation in each view; (1, structures, 3, 3), or (2, structures, 3, 3) of two views.
        unlabelled: structures in two views whose labels, if there are any, do not count; None if the recipe has none.
        normalizer: what losses are divided by.
        number: of the global batch, from which random numbers of a step may be drawn.
    """

    labelled: Batch
    rotations: ViewRotations
    normalizer: Normalizer
    unlabelled: ViewPair | None = None
    number: int = 0

    @property
    def views(self) -> Batch:
        """The labelled structures in the first view, then, if there are two, in the second, as one batch."""
        return rotated_views(self.labelled, self.rotations)

    @property
    def pairs(self) -> ViewPair | None:
        """All structures in two views, the labelled ones first; None if there are none."""
        labelled = ViewPair(self.labelled, self.rotations) if len(self.rotations) == 2 else None
        if labelled is None or self.unlabelled is None:
            return labelled or self.unlabelled
        return labelled.concatenate(self.unlabelled)


def rotated_views(batch: Batch, rotations: ViewRotations) -> Batch:
    """The structures of `batch` in one view after another."""
    return reduce(Batch.concatenate, [rotate(batch, view) for view in rotations])
