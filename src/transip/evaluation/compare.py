"""Several runs side by side on the terminal: errors, learned symmetry and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from transip.evaluation.runs import Run

ERRORS = (  # label, key, factor, format
    ("force MAE, meV/Å", "force_mae", 1e3, ".1f"),
    ("energy MAE, meV/atom", "energy_mae_per_atom", 1e3, ".2f"),
    ("force cosine", "force_cosine", 1.0, ".3f"),
)
SYMMETRY = (
    ("force rotation error, meV/Å", "force_rotation_error", 1e3, ".1f"),
    ("energy rotation spread, meV/atom", "energy_rotation_spread_per_atom", 1e3, ".2f"),
)
COST = (
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
    metrics, compute = [run.metrics for run in runs], [run.compute for run in runs]
    for rows, values in ((ERRORS, metrics), (SYMMETRY, metrics), (COST, compute)):
        for label, key, factor, form in rows:
            table.add_row(label, *(_cell(value.get(key), factor, form) for value in values))
        table.add_section()
    return table


def _cell(value: float | int | None, factor: float, form: str) -> str:
    return "–" if value is None else format(value * factor, form)
