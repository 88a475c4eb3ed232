"""Several runs side by side on the terminal: errors, learned symmetry and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from transip.evaluation.runs import Run

ROWS = (  # label, key, factor, format; errors first, then symmetry, then compute
    ("force MAE, meV/Å", "force_mae", 1e3, ".1f"),
    ("energy MAE, meV/atom", "energy_mae_per_atom", 1e3, ".2f"),
    ("force cosine", "force_cosine", 1.0, ".3f"),
    ("force rotation error, meV/Å", "force_rotation_error", 1e3, ".1f"),
    ("energy rotation spread, meV/atom", "energy_rotation_spread_per_atom", 1e3, ".2f"),
    ("steps", "step", 1.0, ",.0f"),
    ("forward passes", "forward_passes", 1.0, ",.0f"),
    ("atoms seen", "atoms_seen", 1.0, ",.0f"),
    ("training minutes", "time_s", 1 / 60, ".1f"),
)


def comparison(runs: Sequence[Run]) -> Table:
    """A column per run; what it was trained with stands under its name."""
    table = Table(title="Runs compared")
    table.add_column("")
    for run in runs:
        table.add_column(Text(f"{run.name}\n{run.objective}"), justify="right")
    for label, key, factor, form in ROWS:
        cells = [_cell({**run.metrics, **_compute(run)}, key, factor, form) for run in runs]
        table.add_row(label, *cells, end_section=key in ("force_cosine", "energy_rotation_spread_per_atom"))
    return table


def _compute(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.compute.items() if key in {key for _, key, *_ in ROWS[5:]}}


def _cell(values: dict[str, Any], key: str, factor: float, form: str) -> str:
    value = values.get(key)
    return "–" if value is None else format(value * factor, form)
