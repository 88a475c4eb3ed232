"""What the template of the study may call: numbers, ratios, tables and figures of its groups of entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from benchmarks.common.records import Record
from benchmarks.study.entries import GROUPS
from docs.page_parts import axes_of, figure, in_words, mean_std, records, table

Runs = dict[int, Record]  # by seed
FORCE, ENERGY, ROTATION, TURNED = (
    "force_mae_mev_per_angstrom",
    "energy_mae_mev_per_atom",
    "force_rotation_error_mev_per_angstrom",
    "force_mae_turned_mev_per_angstrom",
)
SIZES = {  # groups that repeat their entries at several sizes: the field that varies, and its name
    "few-labels": ("train_structures", "labels"),
    "data-size": ("train_structures", "structures"),
    "paper-comparison": ("train_structures", "structures"),
    "model-size": ("parameters", "parameters"),
    "long": ("parameters", "parameters"),
}
CHANCE, GONE = "†", "‡"  # marks in tables, which the template explains


def runs(entry: str) -> Runs:
    """Results of GROUP/ENTRY by seed."""
    found = [run for run in records("study").values() if f"{run['group']}/{run['entry']}" == entry]
    return {run["seed"]: run for run in sorted(found, key=lambda run: run["seed"])}


def entries(group: str) -> dict[str, Runs]:
    """All entries of a group: the smallest size first, then the lowest force error."""
    grouped: dict[str, Runs] = defaultdict(dict)
    for run in records("study").values():
        if run["group"] == group:
            grouped[run["entry"]][run["seed"]] = run
    size = SIZES.get(group, ("steps", ""))[0]
    order = {entry: (mean(values(found, size)), mean(values(found, FORCE))) for entry, found in grouped.items()}
    return {entry: grouped[entry] for entry in sorted(grouped, key=order.__getitem__)}


def values(found: Runs, key: str) -> list[float]:
    """One number of each run."""
    return [run[key] for run in found.values()]


def measured(entry: str, key: str = FORCE, digits: int = 1) -> str:
    """Mean ± standard deviation over the seeds of GROUP/ENTRY."""
    return mean_std(values(runs(entry), key), digits)


def ratios(found: Runs, reference: Runs, key: str = FORCE) -> list[float]:
    """Error relative to `reference` for each seed that both have."""
    return [run[key] / reference[seed][key] for seed, run in found.items() if seed in reference]


def ratio(entry: str, reference: str, key: str = FORCE) -> str:
    """Error of GROUP/ENTRY relative to that of another entry of the group, marked if it may be chance."""
    return _ratio_text(ratios(runs(entry), runs(f"{entry.partition('/')[0]}/{reference}"), key))


def _ratio_text(found: Sequence[float]) -> str:
    return f"{mean_std(found, 2)}{CHANCE if chance(found) else ''}" if found else ""


def chance(found: Sequence[float]) -> bool:
    """Whether 1 lies within the 95 % interval (Student's t) of the mean of several ratios."""
    if len(found) < 2:
        return False
    return abs(mean(found) - 1) <= student.ppf(0.975, len(found) - 1) * stdev(found) / len(found) ** 0.5


def study_table(group: str, *references: str) -> str:
    """A row per entry, with its force error relative to that of each reference of the same size."""
    field, axis = SIZES.get(group, ("", ""))
    every = entries(group)
    heads = ["objective" if axis else "entry", *([axis] if axis else []), "forces"]
    heads += [*(f"÷ {in_words(name)}" for name in references), "energy", "rotation"]
    rows = []
    for entry, found in every.items():
        what, at, size = entry.partition("@")
        gone = "" if entry in GROUPS.get(group, every) else f" {GONE}"
        row = [in_words(what) + gone, *([f"{next(iter(found.values()))[field]:,}"] if axis else [])]
        row.append(mean_std(values(found, FORCE)))
        row += [_ratio_text(ratios(found, every[f"{name}{at}{size}"])) if name != what else "" for name in references]
        turning = [run[ROTATION] / run[FORCE] for run in found.values()]
        rows.append([*row, mean_std(values(found, ENERGY)), mean_std(turning, 2)])
    return table(heads, rows)


def exponent(group: str, what: str) -> str:
    """Mean over seeds of α in force error ∝ size^α, fitted to all sizes of an entry."""
    points = [found for entry, found in entries(group).items() if entry.partition("@")[0] == what]
    return mean_std([_slope([point[seed] for point in points], SIZES[group][0]) for seed in points[0]], 2)


def _slope(found: Sequence[Record], key: str) -> float:
    logarithms = np.log([[run[key], run[FORCE]] for run in found])
    return float(np.polyfit(*logarithms.T, 1)[0])


def size_figure(group: str, caption: str) -> str:
    """Force error against size, both logarithmic."""
    field, axis = SIZES[group]
    lines: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for entry, found in entries(group).items():
        errors = values(found, FORCE)
        point = (mean(values(found, field)), mean(errors), stdev(errors) if len(errors) > 1 else 0.0)
        lines[entry.partition("@")[0]].append(point)
    drawing = Figure(figsize=(7, 4.2), layout="constrained")
    (axes,) = axes_of(drawing)
    for what, points in lines.items():
        x, y, deviation = zip(*points, strict=True)
        axes.errorbar(x, y, deviation, fmt=_style(what), marker=".", capsize=3, label=in_words(what))
    axes.set(xlabel=axis, ylabel="force MAE, meV/Å", xscale="log", yscale="log")
    axes.legend(fontsize="small")
    return figure(f"study-{group}", drawing, caption)


def share_figure(group: str, chosen: Sequence[str], caption: str) -> str:
    """How invariant the embedding after each block is in the end, and that after the last block through training."""
    drawing = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = axes_of(drawing, 2, sharey=True)
    for entry in chosen:
        found = list(runs(f"{group}/{entry}").values())
        final = np.mean([[layer["invariant_share"] for layer in run["layers"]] for run in found], 0)
        left.plot(range(1, len(final) + 1), final, _style(entry), marker=".", label=in_words(entry))
        curves = [run["curve"] for run in found if "invariant_share" in run["curve"]]
        if curves:
            last = np.mean([[layers[-1] for layers in curve["invariant_share"]] for curve in curves], 0)
            right.plot(curves[0]["step"], last, _style(entry), marker=".")
    left.set(xlabel="block", ylabel="invariant share of the embedding", xticks=range(1, len(final) + 1))
    right.set(xlabel="step", title="after the last block")
    left.legend(fontsize="x-small")
    return figure(f"study-{group}-layers", drawing, caption)


def curve_figure(group: str, caption: str) -> str:
    """Force error on training and validation structures against the step, a panel for each size."""
    panels: dict[str, dict[str, Runs]] = defaultdict(dict)
    for entry, found in entries(group).items():
        what, _, size = entry.partition("@")
        panels[size][what] = found
    drawing = Figure(figsize=(9, 4), layout="constrained")
    for axes, (size, members) in zip(axes_of(drawing, len(panels), sharey=True), panels.items(), strict=True):
        for color, (what, found) in enumerate(sorted(members.items())):
            for part, line in (("force_mae", "-"), ("train_force_mae", ":")):
                errors = np.mean([run["curve"][part] for run in found.values()], 0)
                steps = next(iter(found.values()))["curve"]["step"]
                axes.plot(steps, errors, line, color=f"C{color}", label=in_words(what) if line == "-" else None)
        axes.set(title=f"width {size}", xlabel="step", yscale="log")
    drawing.axes[0].set_ylabel("force MAE, meV/Å")
    drawing.axes[0].legend(fontsize="small")
    return figure(f"study-{group}", drawing, caption)


def averaging_figure(caption: str) -> str:
    """Force error and rotation error of a model against the number of rotations that it is averaged over."""
    drawing = Figure(figsize=(9, 3.4), layout="constrained")
    labels = {FORCE: "force MAE, meV/Å", ROTATION: "force rotation error, meV/Å"}
    rows = records("averaging")["averaging"]["rows"]
    for axes, (key, label) in zip(axes_of(drawing, 2), labels.items(), strict=True):
        for kind, title in (("random", "random rotations"), ("group", "rotation group")):
            chosen = [row for row in rows if row["rotations"] in (kind, "none")]
            axes.plot([row["number"] for row in chosen], [row[key] for row in chosen], "o-", label=title)
        axes.set(xlabel="rotations", ylabel=label, xscale="log")
    drawing.axes[0].legend()
    return figure("averaging", drawing, caption)


def share(entry: str) -> str:
    """Invariant share of the embedding after the last block."""
    return f"{mean(run['layers'][-1]['invariant_share'] for run in runs(entry).values()):.2f}"


def end_over_lowest(group: str) -> float:
    """Of all runs, the largest % by which the last validation error lies above the lowest."""
    found = [run for of_entry in entries(group).values() for run in of_entry.values()]
    return 100 * (max(run[FORCE] / min(run["curve"]["force_mae"]) for run in found) - 1)


def train_and_validation(group: str, size: str) -> tuple[str, str]:
    """Mean force errors on training and on validation structures over the entries of a size."""
    found = [
        run for entry, of_entry in entries(group).items() if entry.endswith(f"@{size}") for run in of_entry.values()
    ]
    train, validation = (mean(run[key] for run in found) for key in ("train_force_mae_mev_per_angstrom", FORCE))
    return f"{train:.0f}", f"{validation:.0f}"


def study_origin() -> dict[str, Any]:
    """Number of runs, hours of training and hardware."""
    every = list(records("study").values())
    hours = sum(run["cpu_seconds"] for run in every if "copied_from" not in run) / 3600
    joined = {key: " and ".join(sorted({get(run) for run in every})) for key, get in _ORIGIN.items()}
    return {"runs": len(every), "hours": f"{hours:.1f}", **joined}


_ORIGIN = {"hardware": lambda run: run["hardware"], "torch": lambda run: run["versions"]["torch"]}


def _style(what: str) -> str:
    """Runs without a loss between views are dashed."""
    return "--" if what.startswith(("augment", "raw")) else "-"


FUNCTIONS = {
    function.__name__: function
    for function in (
        measured, ratio, study_table, exponent, size_figure, share_figure, curve_figure, averaging_figure, share,
        end_over_lowest, train_and_validation, study_origin,
    )
}  # fmt: skip
