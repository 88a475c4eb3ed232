"""The report's tables and remarks, as HTML in which everything that comes from data is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

from transip.evaluation.result import NO_DOMAIN
from transip.quantities import (
    ATOMS_PROCESSED,
    EFWT,
    ENERGY_MAE,
    FORCE_COSINE,
    FORCE_MAE,
    MINUTES,
    MISSING,
    PASSES,
    ROTATION_ERROR,
    ROTATION_SPREAD,
    STEPS,
    MetricSpec,
)
from transip.report.plots import colour_of
from transip.report.runs import Run

ERRORS: tuple[tuple[MetricSpec, Literal["low", "high"]], ...] = (
    (FORCE_MAE, "low"),
    (MetricSpec("force_rmse", "force RMSE", "meV/Å", 1e3), "low"),
    (FORCE_COSINE, "high"),
    (ENERGY_MAE, "low"),
    (MetricSpec("energy_rmse_per_atom", "energy RMSE", "meV/atom", 1e3), "low"),
    (MetricSpec("energy_mae", "energy MAE, total", "meV", 1e3), "low"),
    (EFWT, "high"),
)
SYMMETRY: tuple[tuple[MetricSpec, Literal["low", "high"]], ...] = (
    (ROTATION_ERROR, "low"),
    (MetricSpec("relative_rotation_error", "rotation error / force MAE"), "low"),
    (ROTATION_SPREAD, "low"),
)
COST = (STEPS, PASSES, ATOMS_PROCESSED, MINUTES)
Row = tuple[str, list[str]]  # label, and a cell of HTML per run
UNEQUAL = 1.05  # forward passes that differ by more than this factor are not equal compute


def summary_table(runs: Sequence[Run]) -> str:
    """Errors, symmetry and cost, a column per run; the best error of each row in bold."""
    memory = [max((line.get("memory_mb") or 0 for line in run.training), default=0) for run in runs]
    cost = [(quantity.label, [quantity.text(run.compute) for run in runs]) for quantity in COST]
    cost.append(("Training speed (atoms/s)", [_speed(run) for run in runs]))
    cost.append(("Peak memory (MB)", [f"{value:,.0f}" if value else MISSING for value in memory]))
    groups = {
        "Errors": [_error_row(runs, quantity, best) for quantity, best in ERRORS],
        "Learned symmetry": [_error_row(runs, quantity, best) for quantity, best in SYMMETRY],
        "Cost of training": cost,
        "Evaluation": _evaluation_rows(runs),
    }
    return _table(runs, [_group(name, rows, len(runs)) for name, rows in groups.items()])


def domain_table(runs: Sequence[Run], quantity: MetricSpec) -> str:
    """A metric per domain and run; empty if no run has been evaluated."""
    by_run = [run.evaluation.domains if run.evaluation is not None else {} for run in runs]
    rows = []
    for domain in sorted(set().union(*by_run)):
        values = [domains.get(domain, {}) for domains in by_run]
        structures = max(value.get("structures", 0) for value in values)
        cells = _best_in_bold([quantity.value(value) for value in values], "low", runs)
        rows.append(_row(domain or NO_DOMAIN, cells, note=f"{structures:,} structures"))
    return _table(runs, rows, quantity.label) if rows else ""


def differences_table(runs: Sequence[Run]) -> str:
    """Settings in which the recipes differ; empty if there are none."""
    flat = [_flatten(run.recipe) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [key for key in keys if key != "name" and len({repr(settings.get(key)) for settings in flat}) > 1]
    rows = [_row(key, [escape(str(settings.get(key, MISSING))) for settings in flat]) for key in differing]
    return _table(runs, rows, "Setting") if rows else ""


def legend(runs: Sequence[Run]) -> str:
    """The runs and their colours, shared by all figures."""
    entries = [f"<li>{_swatch(k)}{escape(run.name)}</li>" for k, run in enumerate(runs)]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def remarks(runs: Sequence[Run]) -> list[str]:
    """What a careful reader should be told before comparing the numbers; HTML."""
    found = []
    waiting = [escape(run.name) for run in runs if run.evaluation is None]
    if waiting:
        found.append(
            f"Not evaluated yet: {', '.join(waiting)}. Numbers are those of the last validation during training; "
            "<code>transip evaluate</code> gives the rest."
        )
    if len(runs) > 1:
        found += _comparison(runs) + _unequal_compute(runs) + _unequal_data(runs)
    return found


def _comparison(runs: Sequence[Run]) -> list[str]:
    """The best run that is no control against the best control."""
    scored = [run for run in _comparable(runs) if isinstance(run.metrics.get(FORCE_MAE.key), int | float)]
    controls = [run for run in scored if run.objective.startswith("control")]
    methods = [run for run in scored if run.objective and run not in controls]
    if not controls or not methods:
        return []
    method, control = (min(group, key=lambda run: run.metrics[FORCE_MAE.key]) for group in (methods, controls))
    change = method.metrics[FORCE_MAE.key] / control.metrics[FORCE_MAE.key] - 1
    direction = "below" if change < 0 else "above"
    return [
        f"The force MAE of {escape(method.name)} ({escape(method.objective)}) is {abs(change):.1%} {direction} that of "
        f"the best control, {escape(control.name)}. One seed each: a few per cent may be chance."
    ]


def _unequal_compute(runs: Sequence[Run]) -> list[str]:
    passes = [run.compute.get(PASSES.key) for run in runs]
    counted = [value for value in passes if isinstance(value, int | float) and value > 0]
    if len(counted) < 2 or max(counted) <= UNEQUAL * min(counted):
        return []
    return [
        f"Not equal compute: forward passes differ by a factor of {max(counted) / min(counted):.2f}. "
        "Compare the curves at equal forward passes."
    ]


def _unequal_data(runs: Sequence[Run]) -> list[str]:
    sets = {tuple(run.evaluation.predictions["ids"]) for run in runs if run.evaluation is not None}
    return ["The runs were evaluated on different structures: errors do not compare."] if len(sets) > 1 else []


def _table(runs: Sequence[Run], rows: Sequence[str], first: str = "") -> str:
    """Rows of HTML under the names of the runs; `first` heads their labels."""
    names = "".join(
        f'<th scope="col">{_swatch(k)}{escape(run.name)}<small>{escape(run.objective)}</small></th>'
        for k, run in enumerate(runs)
    )
    head = f'<tr><th scope="col">{escape(first)}</th>{names}</tr>'
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _group(name: str, rows: Sequence[Row], columns: int) -> str:
    """Rows under a heading; those that no run has a value for are left out."""
    shown = [_row(label, cells) for label, cells in rows if set(cells) != {MISSING}]
    heading = f'<tr class="group"><th scope="rowgroup" colspan="{columns + 1}">{escape(name)}</th></tr>'
    return heading + "".join(shown) if shown else ""


def _row(label: str, cells: Sequence[str], note: str = "") -> str:
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    remark = f"<small>{escape(note)}</small>" if note else ""
    return f'<tr><th scope="row">{escape(label)}{remark}</th>{values}</tr>'


def _error_row(runs: Sequence[Run], quantity: MetricSpec, best: Literal["low", "high"]) -> Row:
    values = [quantity.value(run.metrics) for run in runs]
    return quantity.label, _best_in_bold(values, best, runs)


def _comparable(runs: Sequence[Run]) -> list[Run]:
    """Evaluated runs; a validation during training, on other structures, does not compete with them."""
    return [run for run in runs if run.evaluation is not None] or list(runs)


def _best_in_bold(values: Sequence[float | None], best: Literal["low", "high"], runs: Sequence[Run]) -> list[str]:
    known = [value for value in values if value is not None]
    decimals = _decimals(max(known, key=abs, default=0.0))
    texts = [MISSING if value is None else f"{value:,.{decimals}f}" for value in values]
    compared = [run in _comparable(runs) for run in runs]
    rivals = {t: v for t, v, competes in zip(texts, values, compared, strict=True) if competes and v is not None}
    if len(rivals) < 2:  # one run, or all look equal
        return texts
    winner = (min if best == "low" else max)(rivals, key=lambda text: rivals[text])
    return [f"<b>{t}</b>" if competes and t == winner else t for t, competes in zip(texts, compared, strict=True)]


def _decimals(largest: float) -> int:
    """Decimals that leave a row's largest number about four digits."""
    magnitude = abs(largest)
    return 0 if magnitude >= 1000 else 1 if magnitude >= 100 else 2 if magnitude >= 1.5 else 3


def _speed(run: Run) -> str:
    atoms, seconds = (run.compute.get(key) for key in ("atoms_processed", "time_s"))
    return f"{atoms / seconds:,.0f}" if atoms and seconds else MISSING


def _evaluation_rows(runs: Sequence[Run]) -> list[Row]:
    costs = [run.evaluation.cost if run.evaluation is not None else {} for run in runs]
    versions = [cost.get("versions", {}) for cost in costs]

    def row(label: str, key: str) -> Row:
        values = [cost.get(key) for cost in costs]
        return label, [f"{v:,.0f}" if isinstance(v, int | float) else escape(str(v or MISSING)) for v in values]

    return [
        row("Forward passes", "forward_passes"),
        row("Atoms", "atoms"),
        row("Speed (atoms/s)", "atoms_per_second"),
        row("Hardware", "hardware"),
        ("Versions", [escape(", ".join(f"{k} {v}" for k, v in each.items())) or MISSING for each in versions]),
    ]


def _swatch(run: int) -> str:
    return f'<i class="swatch" style="background:var(--run-{run % 6})" title="{colour_of(run)}"></i>'


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
