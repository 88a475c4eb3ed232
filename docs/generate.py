"""Writes the pages that are made from the code: reference/settings.md and reference/cli.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
import typer
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from transip.cli import app
from transip.config import PRESETS, SIZES, LabelSettings, ModelSettings, Recipe, Settings
from transip.model.potential import Potential

REFERENCE = Path(__file__).parent / "reference"
FILES = {"A training recipe": Recipe, "A labelling recipe": LabelSettings}


def main() -> None:
    """Write both pages."""
    (REFERENCE / "settings.md").write_text(settings_page(), encoding="utf-8")
    (REFERENCE / "cli.md").write_text(cli_page(), encoding="utf-8")


def settings_page() -> str:
    """A table for each group of settings, in the order in which a recipe has them."""
    lines = [
        "# Settings",
        "",
        "Recipes are YAML files. Settings without a default must be given; unknown ones are errors. Any setting can be",
        "overridden on the command line: `--set training.steps=1000`.",
    ]
    for title, kind in FILES.items():
        lines += ["", f"## {title}", "", *_group("", kind)]
    lines += ["", "## Sizes", "", *_sizes()]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """What `--help` says, command by command."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="transip")
    text = get_docs_for_click(obj=command, ctx=context, name="transip")
    return text.replace("# `transip`", "# Command line", 1)


def _group(path: str, kind: type[Settings]) -> Iterator[str]:
    yield (kind.__doc__ or "").strip()
    yield from ("", "| setting | type | default | meaning |", "|---|---|---|---|")
    groups = []
    for name, field in kind.model_fields.items():
        key = f"{path}.{name}" if path else name
        nested = _nested(field.annotation)
        if nested is not None:
            groups.append((key, nested))
        yield f"| `{key}` | {_type(field.annotation)} | {_default(field)} | {_meaning(field, key, nested)} |"
    for key, nested in groups:
        yield from ("", f"### `{key}`", "", *_group(key, nested))


def _sizes() -> Iterator[str]:
    yield from (
        "| size | width | depth | heads | parameters, `default` | parameters, `paper` |",
        "|---|---|---|---|---|---|",
    )
    for size, shape in SIZES.items():
        counts = (f"{_parameters(size, preset):,}" for preset in PRESETS)
        yield "| " + " | ".join([size, *map(str, shape.values()), *counts]) + " |"


def _parameters(size: str, preset: str) -> int:
    settings = ModelSettings.model_validate({"size": size, "preset": preset})
    with torch.device("meta"):
        return Potential(settings, torch.zeros(1, dtype=torch.float64), 1.0).num_parameters


def _nested(annotation: Any) -> type[Settings] | None:
    found = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    return found if isinstance(found, type) and issubclass(found, Settings) else None


def _type(annotation: Any) -> str:
    kind, inside = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _type(inside[0])
    if kind is Literal:
        return ", ".join(f"`{choice}`" for choice in inside)
    if kind is tuple:
        return f"list of {_type(inside[0])}"
    if kind is dict:
        return f"map of {_type(inside[0])} to {_type(inside[1])}"
    if kind in (Union, UnionType):
        return " or ".join(_type(choice) for choice in inside if choice is not NoneType)
    if _nested(annotation):
        return "group"
    return {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if _nested(field.annotation):
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`"  # as it is written in YAML


def _meaning(field: FieldInfo, key: str, nested: type[Settings] | None) -> str:
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"{text}; [its settings](#{key.replace('.', '').replace('_', '-')})" if nested else text


if __name__ == "__main__":
    main()
