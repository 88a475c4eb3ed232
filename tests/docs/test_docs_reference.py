"""The generated reference knows every setting and every verb."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from transip.config import LabelSettings, Recipe, Settings


@pytest.fixture(scope="module")
def generate():
    path = Path(__file__).parents[2] / "docs" / "generate.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every setting of a recipe with its explanation."""
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}", field.description
        for inside in (field.annotation, *get_args(field.annotation)):
            if isinstance(inside, type) and issubclass(inside, Settings):
                yield from settings(inside, f"{prefix}{name}.")


@pytest.mark.parametrize("kind", [Recipe, LabelSettings])
def test_every_setting_is_explained(generate, kind):
    page = generate.settings_page()
    for name, description in settings(kind):
        assert description, f"{name} has no description in config.py"
        assert f"| `{name}` |" in page


def test_every_verb_is_there(generate):
    page = generate.cli_page()
    for verb in ("data build", "data pack", "data info", "train", "evaluate", "symmetry", "report", "predict"):
        assert f"## `transip {verb}`" in page
