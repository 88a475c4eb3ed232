"""The generated pages: the reference knows every setting and every command, the committed results are not stale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import typer

from docs import generate, pages
from transip.cli import app
from transip.config import LabelSettings, Recipe, Settings


def settings(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every setting of a recipe with its explanation."""
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}", field.description
        for inside in (field.annotation, *get_args(field.annotation)):
            if isinstance(inside, type) and issubclass(inside, Settings):
                yield from settings(inside, f"{prefix}{name}.")


@pytest.mark.parametrize("kind", [Recipe, LabelSettings])
def test_every_setting_is_explained(kind):
    page = generate.settings_page()
    for name, description in settings(kind):
        assert description, f"{name} has no description in transip.config"
        assert f"| `{name}` |" in page


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_command_is_there_with_its_options():
    page = generate.cli_page()
    found = dict(commands(typer.main.get_command(app), "transip"))
    assert {"transip train", "transip data pack"} < set(found)
    for name, command in found.items():
        assert not command.hidden and command.help, name
        _, _, section = page.partition(f" `{name}`\n")
        section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
        for parameter in command.params:
            assert parameter.opts[-1] in section, (name, parameter.name)


def test_committed_results_are_what_would_be_written():
    assert pages.stale_pages() == []
