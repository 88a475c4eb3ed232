"""The data of a recipe, opened and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transip.config import Recipe
from transip.data.dataset import Dataset
from transip.data.sampler import check_budget
from transip.data.split import load_replay, load_splits, load_unlabelled
from transip.errors import InputError
from transip.model.transformer import NO_CUTOFF


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a run learns from and is validated on.

    Attributes:
        train: labelled structures.
        validation: labelled structures, of other compositions unless the recipe names packs that share some.
        unlabelled: structures of which only geometries are used; None if the recipe has none.
        replay: labelled structures of what the start model was trained on; None if the recipe has none.
    """

    train: Dataset
    validation: Dataset
    unlabelled: Dataset | None = None
    replay: Dataset | None = None

    @classmethod
    def open(cls, recipe: Recipe) -> TrainingData:
        """Open the packs of a recipe.

        Raises:
            InputError: they cannot be used, do not fit together, or hold what the recipe's model cannot learn.
        """
        train, validation = load_splits(recipe.data)
        for dataset in (train, validation):
            check_budget(dataset.atom_counts, recipe.training.batch, dataset.describe)
        unlabelled = load_unlabelled(recipe.data) if recipe.data.unlabelled else None
        replay = load_replay(recipe.data) if recipe.data.replay else None
        if any(dataset.periodic for dataset in (train, validation, unlabelled, replay) if dataset is not None):
            _check_periodic(recipe)
        return cls(train, validation, unlabelled, replay)

    @property
    def num_validation_trained_on(self) -> int:
        """Validation structures whose composition is also in the training data."""
        return int(np.isin(self.validation.composition_hashes(), self.train.composition_hashes()).sum())


def _check_periodic(recipe: Recipe) -> None:
    """Check that crystals and liquids can be learned.

    Raises:
        InputError: the model has no cutoff, or equigrad is asked for.
    """
    where = ", ".join(recipe.data.train)
    if recipe.model.cutoff is None:
        raise InputError(f"holds periodic structures, and {NO_CUTOFF}", where=where, remedy="set model.cutoff, in Å")
    if recipe.objective.equigrad_weight:
        problem = "holds periodic structures, whose torque, which equigrad punishes, need not vanish"
        raise InputError(problem, where=where, remedy="set objective.equigrad_weight to 0")
