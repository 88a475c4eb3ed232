"""What tests of whole commands need: a one-second recipe, and the command itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from transip.cli import main


def write_recipe(path: Path, pack: Path, **changes: object) -> Path:
    """A recipe of four steps for a model of a few thousand parameters, with the latent loss."""
    recipe = {
        "name": "tiny",
        "data": {"train": [str(pack)], "validation_fraction": 0.2},
        "model": {"width": 16, "depth": 2, "heads": 2},
        "objective": {"views": 2, "latent": {"weight": 1.0, "hidden": 8}},
        "training": {
            "steps": 4,
            "batch": {"batch_size": 4},
            "evaluate_every": 2,
            "checkpoint_every": 2,
            "log_every": 1,
        },
    }
    path.write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    return path


def call(*arguments: object) -> int:
    """Run `transip ARGUMENTS` in this process; returns the exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)
