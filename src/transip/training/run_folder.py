"""The folder of a run: recipe, log, checkpoints and model, and who may write there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transip import config
from transip.config import Recipe
from transip.data.split import changed_packs, fingerprints
from transip.errors import InputError, InputWarning
from transip.files import LOG, PACKS, RECIPE, output_lock, remove_stale, write_json, write_text
from transip.training.checkpoint import prune
from transip.training.log import MetricsFile


class RunFolder:
    """Paths of a run, and checks that nothing in them is overwritten or silently changed.

    Attributes:
        path: of the folder.
        recipe: the resolved recipe; what has one is a run.
        log: metrics.jsonl.
        checkpoints: a folder.
        model: a folder with the best model so far.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe, self.log = self.path / RECIPE, self.path / LOG
        self.checkpoints, self.model = self.path / "checkpoints", self.path / "model"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from training here meanwhile; clear away what killed ones have left.

        Raises:
            InputError: another process is training here.
        """
        with output_lock(self.path):
            for written in (RECIPE, PACKS, LOG, "checkpoints/*", "model/*"):
                remove_stale(self.path / written)
            yield

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Check that a run of `recipe` may begin here, or go on.

        Raises:
            InputError: another run, or this one with other settings or data, would be overwritten.
        """
        if not self.recipe.exists():
            return
        if not resume:
            raise InputError(
                "already holds a run",
                where=str(self.path),
                remedy="go on with --resume, choose another folder with -o, or delete it",
            )
        before = config.load(Recipe, self.recipe)
        same_optimizer = before.training.optimizer.name == recipe.training.optimizer.name
        if before.model_copy(update={"training": recipe.training}) != recipe or not same_optimizer:
            raise InputError(
                "was started with other data, model, objective or optimizer settings",
                where=str(self.path),
                remedy=f"resume with the recipe in {self.recipe} (of `training`, all but optimizer.name may change)",
            )
        if changed := changed_packs(recipe.data, self.path):
            raise InputError(
                f"was started before a change of {', '.join(changed)}",
                where=str(self.path),
                remedy="put the packs back that it was started with, or begin a new run",
            )

    def begin(self, recipe: Recipe) -> None:
        """Write down what is trained on what."""
        write_json(self.path / PACKS, fingerprints(recipe.data))
        write_text(self.recipe, config.dump(recipe))  # last: what has a recipe is a run

    def open_log(self, step: int, checkpoint_every: int) -> MetricsFile:
        """The log as far as the checkpoint of `step` goes; what a killed run was about to remove is removed."""
        prune(self.checkpoints, step)
        metrics = MetricsFile(self.log, step)
        if metrics.last_logged_step > step + checkpoint_every:
            warnings.warn(
                f"{self.path}: {LOG} reaches step {metrics.last_logged_step}, but the newest sound checkpoint is of "
                f"step {step}: a later one is missing or damaged; training goes on from step {step}",
                InputWarning,
                stacklevel=2,
            )
        return metrics
