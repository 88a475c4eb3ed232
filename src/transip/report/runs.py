"""Reading what a run has left behind: its recipe, its learning curve and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from transip.errors import InputError
from transip.evaluation.result import METRICS_FILE, ROTATION_ERRORS, Evaluation
from transip.files import LOG, RECIPE
from transip.model.card import describe_objective, has_latent_loss

Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder.

    Attributes:
        name: of the folder.
        recipe_text: recipe.yaml as it stands; empty if there is none.
        recipe: the same, parsed.
        training: lines of metrics.jsonl of the kind ``train``, in order.
        validation: lines of the kind ``evaluation``.
        references: the line of the kind ``references``; empty if there is none.
        evaluation: what `transip evaluate` measured; None if it has not been run.
    """

    name: str
    recipe_text: str
    recipe: dict[str, Any]
    training: list[Line]
    validation: list[Line]
    references: Line
    evaluation: Evaluation | None

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics and rotation errors, also relative, of the evaluation or, without one, of the last validation."""
        if self.evaluation is None:
            metrics = dict(self.validation[-1]) if self.validation else {}
        else:
            symmetry = self.evaluation.symmetry or {}
            metrics = self.evaluation.overall | {key: symmetry[key] for key in ROTATION_ERRORS if key in symmetry}
        rotation, mae = metrics.get("force_rotation_error"), metrics.get("force_mae")
        return metrics | ({"relative_rotation_error": rotation / mae} if rotation is not None and mae else {})

    @property
    def compute(self) -> dict[str, Any]:
        """The last line of the log: step, time_s, forward_passes, atoms_processed."""
        return max((*self.training[-1:], *self.validation[-1:]), key=lambda line: line["step"], default={})

    @property
    def objective(self) -> str:
        """What the run was trained with, in a few words; empty if there is no recipe."""
        return describe_objective(self.recipe)

    @property
    def latent_loss(self) -> bool:
        """Whether it was trained with the latent loss."""
        return has_latent_loss(self.recipe)


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read run folders; two of the same name are told apart by their path.

    Raises:
        InputError: none is given, or one cannot be read.
    """
    if not folders:
        raise InputError("no run is given", where="report", remedy="name at least one run folder, e.g. runs/NAME")
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(folder)) if names.count(run.name) > 1 else run
        for run, folder in zip(runs, folders, strict=True)
    ]


def with_evaluation(runs: Sequence[Run]) -> list[tuple[int, Evaluation]]:
    """Number and evaluation of each run that has one."""
    return [(k, run.evaluation) for k, run in enumerate(runs) if run.evaluation is not None]


def read_run(folder: str | Path) -> Run:
    """Read a run folder, or any folder that holds an evaluation.json.

    Raises:
        InputError: there is neither a log nor an evaluation, or a file is corrupt.
    """
    folder = Path(folder)
    log, evaluation = folder / LOG, folder / METRICS_FILE
    if not log.is_file() and not evaluation.is_file():
        raise InputError(
            f"is not a run: it has neither {LOG} nor {METRICS_FILE}" if folder.is_dir() else "is not a folder",
            where=str(folder),
            remedy="give a folder written by `transip train` or `transip evaluate`, e.g. runs/NAME",
        )
    lines = _read_log(log) if log.is_file() else []
    text, recipe = _read_recipe(folder / RECIPE)
    return Run(
        name=folder.resolve().name,
        recipe_text=text,
        recipe=recipe,
        training=[line for line in lines if line["kind"] == "train"],
        validation=[line for line in lines if line["kind"] == "evaluation"],
        references=next((line for line in lines if line["kind"] == "references"), {}),
        evaluation=Evaluation.read(folder) if evaluation.is_file() else None,
    )


def _read_log(path: Path) -> list[Line]:
    """Lines of metrics.jsonl; a last one torn by a kill is left out."""
    try:
        texts = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    lines: list[Line] = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            if not isinstance(line["kind"], str) or not isinstance(line["step"], int):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            if number == len(texts):  # without its newline: torn, or nothing
                break
            raise InputError(
                "is not a line of a training log",
                where=f"{path}, line {number}",
                remedy="the file is corrupt: delete the line, or train again",
            ) from None
        lines.append(line)
    return lines


def _read_recipe(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.exists():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read ({error})", where=str(path), remedy="the file is corrupt") from error
    if not isinstance(recipe, dict):
        raise InputError("is not a recipe", where=str(path), remedy="the file is corrupt")
    return text, recipe
