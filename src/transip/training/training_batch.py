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
    The first two count labelled structures and their atoms in each of their views; the last two count structures,
    labelled or not, that are seen in two views, and their atoms.
    """

    structures: int | float
    atoms: int | float
    paired_structures: int | float = 0
    paired_atoms: int | float = 0


@dataclass(frozen=True, eq=False)
class Views:
    """Structures x in one view, x₀ = R₀ x, or in two, x₀ and x₁ = R₁ x.

    Attributes:
        batch: the structures as they were stored.
        rotations: R₀ (and R₁), which may be improper, both or neither, (views, structures, 3, 3).
    """

    batch: Batch
    rotations: ViewRotations

    @property
    def rotated(self) -> Batch:
        """All structures in the first view, then, if there are two, all in the second, as one batch."""
        return reduce(Batch.concatenate, [rotate(self.batch, rotations) for rotations in self.rotations])

    @property
    def relative_rotation(self) -> Rotations:
        """The rotation r of two views, with x₁ = r x₀, (structures, 3, 3)."""
        return self.rotations[1] @ self.rotations[0].mT

    def concatenate(self, other: Views) -> Views:
        """These structures, then the other ones."""
        return Views(self.batch.concatenate(other.batch), torch.cat([self.rotations, other.rotations], 1))


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What one process sees at one step.

    Attributes:
        labelled: structures with labels, in one view or in two.
        normalizer: what losses are divided by.
        unlabelled: structures in two views whose labels, if there are any, do not count; None if the recipe has none.
        number: of the global batch, from which random numbers of a step may be drawn.
    """

    labelled: Views
    normalizer: Normalizer
    unlabelled: Views | None = None
    number: int = 0

    @property
    def pairs(self) -> Views | None:
        """All structures in two views, the labelled ones first; None if there are none."""
        labelled = self.labelled if len(self.labelled.rotations) == 2 else None
        if labelled is None or self.unlabelled is None:
            return labelled or self.unlabelled
        return labelled.concatenate(self.unlabelled)
