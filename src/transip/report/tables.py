"""What the report says in tables and sentences, on the page (HTML, with all that comes from data escaped) and on the
terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from transip.evaluation.result import NO_DOMAIN, Evaluation
from transip.model.card import errors_by_domain
from transip.model.released import builtin_models
from transip.quantities import (
    ATOMS_PROCESSED,
    CHARGE_MAE,
    DIPOLE_MAE,
    EFWT,
    ENERGY_MAE,
    FORCE_COSINE,
    FORCE_MAE,
    MINUTES,
    MISSING,
    PASSES,
    REFERENCES,
    ROTATION_ERROR,
    ROTATION_SPREAD,
    SPIN_POPULATION_MAE,
    STEPS,
    STRESS_MAE,
    MetricSpec,
)
from transip.report.plots import colour_of, relative_energies
from transip.report.runs import Run, with_evaluation

ERRORS = (
    FORCE_MAE,
    MetricSpec("force_rmse", "force RMSE", "meV/Å", 1e3, 1),
    FORCE_COSINE,
    ENERGY_MAE,
    MetricSpec("energy_rmse_per_atom", "energy RMSE", "meV/atom", 1e3, 2),
    MetricSpec("energy_mae", "energy MAE, total", "meV", 1e3, 1),
    STRESS_MAE,
    CHARGE_MAE,
    SPIN_POPULATION_MAE,
    DIPOLE_MAE,
    EFWT,
)
SYMMETRY = (
    ROTATION_ERROR,
    MetricSpec("relative_rotation_error", "rotation error / force MAE", digits=2),
    ROTATION_SPREAD,
)
TRAINING = (STEPS, PASSES, ATOMS_PROCESSED, MINUTES, MetricSpec("atoms_per_second", "training speed", "atoms/s"))
EVALUATION = (
    MetricSpec("forward_passes", "forward passes of the evaluation", "structures"),
    MetricSpec("atoms_per_second", "speed of the evaluation", "atoms/s"),
)
HIGHER_IS_BETTER = (FORCE_COSINE, EFWT)
COMPUTE_TOLERANCE = 1.05  # forward passes that differ by more than this factor are not equal compute


@dataclass(frozen=True)
class Row:
    """A line of a table: a label with a note, a text per run, and the runs whose text is the best."""

    label: str
    cells: list[str]
    best: frozenset[int] = frozenset()
    note: str = ""


def summary(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Errors, symmetry and cost of the runs by group; rows that no run has a value for are left out."""
    metrics = [run.metrics for run in runs]
    costs = [run.evaluation.cost if run.evaluation is not None else {} for run in runs]
    errors = [metric for metric in ERRORS if metric is not EFWT or any(values.get(EFWT.key) for values in metrics)]
    memory = MetricSpec("memory_mb", "peak memory", "MB")
    peaks = [{memory.key: max((line.get(memory.key) or 0 for line in run.training), default=None)} for run in runs]
    hardware = [str(cost.get("hardware", MISSING)) for cost in costs]
    versions = [", ".join(f"{k} {v}" for k, v in cost.get("versions", {}).items()) or MISSING for cost in costs]
    groups = {
        "Errors": [_compared(metric, metrics, runs) for metric in errors],
        "Learned symmetry": [_compared(metric, metrics, runs) for metric in SYMMETRY],
        "References": [_plain(metric, [run.references for run in runs]) for metric in REFERENCES],
        "Cost of training": [
            *(_plain(metric, [_with_speed(run.compute) for run in runs]) for metric in TRAINING),
            _plain(memory, peaks),
        ],
        "Evaluation": [
            *(_plain(metric, costs) for metric in EVALUATION),
            Row("Hardware", hardware),
            Row("Versions", versions),
        ],
    }
    return {name: [row for row in rows if set(row.cells) != {MISSING}] for name, rows in groups.items()}


def domain_rows(runs: Sequence[Run], metric: MetricSpec) -> list[Row]:
    """A metric of every run in each chemical domain where one has it; empty if no run has been evaluated."""
    by_run = [run.evaluation.domains if run.evaluation is not None else {} for run in runs]
    rows = []
    for domain in sorted(set().union(*by_run)):
        values = [domains.get(domain, {}) for domains in by_run]
        structures = max(value.get("structures", 0) for value in values)
        rows.append(_compared(metric, values, runs, domain or NO_DOMAIN, f"{structures:,} structures"))
    return [row for row in rows if set(row.cells) != {MISSING}]


def differing_settings(runs: Sequence[Run]) -> list[Row]:
    """Settings in which the recipes differ."""
    flat = [_flatten(run.recipe) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = {key: [str(settings.get(key, MISSING)) for settings in flat] for key in keys if key != "name"}
    return [Row(key, cells) for key, cells in rows.items() if len(set(cells)) > 1]


def html_table(runs: Sequence[Run], groups: Mapping[str, Sequence[Row]], corner: str = "") -> str:
    """Groups of rows under the names of the runs; nothing if there are no rows."""
    if not any(groups.values()):
        return ""
    names = "".join(
        f'<th scope="col">{_swatch(k)}{escape(run.name)}<small>{escape(describe(run, runs))}</small></th>'
        for k, run in enumerate(runs)
    )
    body = ""
    for name, rows in groups.items():
        if name and rows:
            body += f'<tr class="group"><th scope="rowgroup" colspan="{len(runs) + 1}">{escape(name)}</th></tr>'
        for row in rows:
            cells = (f"<b>{escape(cell)}</b>" if k in row.best else escape(cell) for k, cell in enumerate(row.cells))
            note = f"<small>{escape(row.note)}</small>" if row.note else ""
            values = "".join(f"<td>{cell}</td>" for cell in cells)
            body += f'<tr><th scope="row">{escape(row.label)}{note}</th>{values}</tr>'
    head = f'<tr><th scope="col">{escape(corner)}</th>{names}</tr>'
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def comparison(runs: Sequence[Run]) -> Table:
    """The summary for the terminal, a column per run; what it was trained with stands under its name."""
    table = Table(title="Runs compared" if len(runs) > 1 else None)
    table.add_column("")
    for run in runs:
        table.add_column(Text(f"{run.name}\n{describe(run, runs)}"), justify="right")
    for name, rows in summary(runs).items():
        if name != "Evaluation":
            for row in rows:
                cells = (Text(cell, style="bold" if k in row.best else "") for k, cell in enumerate(row.cells))
                table.add_row(row.label, *cells)
            table.add_section()
    return table


def legend(runs: Sequence[Run]) -> str:
    """The runs and their colours, shared by all figures (HTML)."""
    entries = [f"<li>{_swatch(k)}{escape(run.name)}</li>" for k, run in enumerate(runs)]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def describe(run: Run, runs: Sequence[Run]) -> str:
    """What a run was trained with; beside a run with the latent loss, one without it is called its control."""
    is_control = run.objective and not run.latent_loss and any(other.latent_loss for other in runs)
    return f"control: {run.objective}" if is_control else run.objective


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a careful reader should be told before comparing the numbers."""
    sentences = []
    if waiting := [run.name for run in runs if run.evaluation is None]:
        sentences.append(
            f"Not evaluated yet: {', '.join(waiting)}. Numbers are those of the last validation during training; "
            "`transip evaluate` gives the rest."
        )
    scored = [runs[k] for k in _comparable(runs) if isinstance(runs[k].metrics.get(FORCE_MAE.key), int | float)]
    groups = [[run for run in scored if run.objective and run.latent_loss is latent] for latent in (True, False)]
    if all(groups):
        method, control = (min(group, key=lambda run: run.metrics[FORCE_MAE.key]) for group in groups)
        change = method.metrics[FORCE_MAE.key] / control.metrics[FORCE_MAE.key] - 1
        sentences.append(
            f"The force MAE of {method.name} ({method.objective}) is {abs(change):.1%} "
            f"{'below' if change < 0 else 'above'} that of the best control, {control.name}. "
            "One seed each: a few per cent may be chance."
        )
    passes = [value for run in runs if (value := PASSES.value(run.compute))]
    if passes and max(passes) > COMPUTE_TOLERANCE * min(passes):
        sentences.append(
            f"Not equal compute: forward passes differ by a factor of {max(passes) / min(passes):.2f}. "
            "Compare the curves at equal forward passes."
        )
    if len({tuple(evaluation.predictions["ids"]) for _, evaluation in with_evaluation(runs)}) > 1:
        sentences.append("The runs were evaluated on different structures: their errors do not compare.")
    return sentences


def scale_of_errors(evaluation: Evaluation) -> str:
    """What the errors of an evaluation may be held against: no model at all, and a model of this package."""
    arrays = evaluation.predictions
    no_forces = {FORCE_MAE.key: float(np.abs(arrays["reference_forces"]).mean())}
    (residual,) = relative_energies(arrays["numbers"], arrays["natoms"], arrays["reference_energy"])
    no_energies = {ENERGY_MAE.key: float(np.abs(residual).mean())}
    sentence = (
        f"For scale: predicting zero forces everywhere has a force MAE of {FORCE_MAE.with_unit(no_forces)} on these "
        "structures, and a sum of element energies, fitted to them, an energy MAE of "
        f"{ENERGY_MAE.with_unit(no_energies)}."
    )
    rivals = [
        (domain not in evaluation.domains, metrics[FORCE_MAE.key], name, domain, metrics)
        for name, config in builtin_models().items()
        for domain, metrics in errors_by_domain(config).items()
    ]
    if not rivals:
        return sentence
    _, _, name, domain, metrics = min(rivals, key=lambda rival: rival[:2])
    return (
        f"{sentence} The packaged model {name} has {FORCE_MAE.with_unit(metrics)} and {ENERGY_MAE.with_unit(metrics)} "
        f"on held-out molecules of its domain “{domain}”."
    )


def _comparable(runs: Sequence[Run]) -> list[int]:
    """Numbers of the evaluated runs; a validation during training, on other structures, does not compete with them."""
    return [k for k, _ in with_evaluation(runs)] or list(range(len(runs)))


def _compared(
    metric: MetricSpec, stored: Sequence[Mapping[str, Any]], runs: Sequence[Run], label: str = "", note: str = ""
) -> Row:
    """A metric of each run; none is marked as the best if there is one run only, or all look equal."""
    cells = [metric.text(values) for values in stored]
    rivals = {k: value for k in _comparable(runs) if (value := metric.value(stored[k])) is not None}
    best: frozenset[int] = frozenset()
    if len({cells[k] for k in rivals}) > 1:
        winner = (max if metric in HIGHER_IS_BETTER else min)(rivals, key=lambda k: rivals[k])
        best = frozenset(k for k in rivals if cells[k] == cells[winner])
    return Row(label or metric.label, cells, best, note)


def _plain(metric: MetricSpec, stored: Sequence[Mapping[str, Any]]) -> Row:
    return Row(metric.label, [metric.text(values) for values in stored])


def _with_speed(compute: dict[str, Any]) -> dict[str, Any]:
    """A line of the log with the mean speed of the whole run in the place of that of its last step."""
    atoms, seconds = compute.get(ATOMS_PROCESSED.key), compute.get(MINUTES.key)
    return compute | {"atoms_per_second": atoms / seconds if atoms and seconds else None}


def _swatch(run: int) -> str:
    return f'<i class="swatch" style="background:var(--run-{run % 6})" title="{colour_of(run)}"></i>'


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
