"""Several runs side by side on the terminal: errors, learned symmetry and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from transip.quantities import (
    ATOMS_PROCESSED,
    ENERGY_MAE,
    FORCE_COSINE,
    FORCE_MAE,
    MINUTES,
    PASSES,
    ROTATION_ERROR,
    ROTATION_SPREAD,
    STEPS,
)
from transip.report.runs import Run

ERRORS = (FORCE_MAE, ENERGY_MAE, FORCE_COSINE)
SYMMETRY = (ROTATION_ERROR, ROTATION_SPREAD)
COST = (STEPS, PASSES, ATOMS_PROCESSED, MINUTES)


def comparison(runs: Sequence[Run]) -> Table:
    """A column per run; what it was trained with stands under its name."""
    table = Table(title="Runs compared")
    table.add_column("")
    for run in runs:
        table.add_column(Text(f"{run.name}\n{run.objective}"), justify="right")
    metrics, compute = [run.metrics for run in runs], [run.compute for run in runs]
    for rows, values in ((ERRORS, metrics), (SYMMETRY, metrics), (COST, compute)):
        for quantity in rows:
            table.add_row(quantity.heading, *(quantity.text(value) for value in values))
        table.add_section()
    return table
