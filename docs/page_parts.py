"""What all pages of results are made of: records, numbers, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from matplotlib.figure import Figure

from benchmarks.common.records import ROOT, Record, read_results

TEMPLATES = Path(__file__).parent / "templates"
NAMES: dict[str, str] = yaml.safe_load((TEMPLATES / "names.yaml").read_text(encoding="utf-8"))
FIGURES: dict[str, Figure] = {}  # drawn by the templates rendered so far


@cache
def records(benchmark: str) -> dict[str, Record]:
    """The records of a benchmark by name."""
    return read_results(ROOT / "benchmarks" / benchmark / "results.jsonl")


def in_words(entry: str) -> str:
    """An entry's name for people, from names.yaml.

    Raises:
        KeyError: the file has none.
    """
    return NAMES[entry]


def number(value: float | None, digits: int = 1) -> str:
    """A cell of a table; a dash where nothing was measured."""
    return "–" if value is None else f"{value:,.{digits}f}"


def mean_std(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation; the value alone if there is one."""
    text = number(mean(values), digits)
    return text if len(set(values)) == 1 else f"{text} ± {stdev(values):,.{digits}f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown; the first column is left-aligned, the others are right-aligned."""
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def figure(name: str, drawing: Figure, caption: str) -> str:
    """Markdown that shows `drawing`, which `write` stores as NAME.png."""
    FIGURES[name] = drawing
    return f"![{caption}]({name}.png)"


def axes_of(drawing: Figure, columns: int = 1, **options: Any) -> list[Any]:
    """Panels side by side, with a grid."""
    panels = list(drawing.subplots(1, columns, squeeze=False, **options)[0])
    for axes in panels:
        axes.grid(alpha=0.3, which="both")
    return panels


FUNCTIONS = {function.__name__: function for function in (records, in_words, number, mean_std, table)}
