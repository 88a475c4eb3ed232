"""What the templates of the speedrun, throughput and scaling pages may call."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common.records import Record, results_file
from benchmarks.throughput import growth
from docs.page_parts import axes_of, figure, in_words, mean_std, number, records, table

FORCE, ENERGY = "force_mae_mev_per_angstrom", "energy_mae_mev_per_atom"
STYLES = {"recipe": "-", "control": "--", "peer": ":"}
LINES = 10  # of the speedrun's figure


# ------------------------------------------------------------------------------------------ speedrun


def speedruns(earlier: bool = False, every_size: bool = False) -> list[list[Record]]:
    """Results with a time budget, one list per entry and number of structures (its seeds), the best first."""
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for name, run in records("speedrun").items():
        if run.get("budget_minutes") and name.startswith("earlier/") == earlier:
            groups[run["entry"], run["train_structures"]].append(run)
    most = max(size for _, size in groups)
    chosen = [found for (_, size), found in groups.items() if every_size or size == most]
    return sorted(chosen, key=lambda found: mean(run[FORCE] for run in found))


def speedrun_table(earlier: bool = False) -> str:
    """A row per entry."""
    groups = speedruns(earlier)
    tested = any("test" in run for found in groups for run in found)
    heads = ["model", "seeds", "forces", "energy", *(["larger: forces", "energy"] if tested else [])]
    rows = []
    for found in groups:
        row = [_entry_in_words(found[0], earlier), len(found)]
        row += [mean_std([run[key] for run in found], digits) for key, digits in ((FORCE, 1), (ENERGY, 2))]
        for key, digits in ((FORCE, 1), (ENERGY, 2)) if tested else ():
            on_test = [run["test"][key] for run in found if "test" in run]
            row.append(mean_std(on_test, digits) if on_test else number(None))
        rotation = mean(run["force_rotation_error_mev_per_angstrom"] for run in found)
        rows.append([*row, number(rotation), f"{found[0]['parameters'] / 1e6:.2f}"])
    return table([*heads, "rotation", "million parameters"], rows)


def _entry_in_words(run: Record, earlier: bool) -> str:
    return in_words(f"{'earlier/' if earlier else ''}{run['entry']}")


def speedrun_figure(caption: str) -> str:
    """Force MAE against training time, the first seed of each of the best entries."""
    drawing = Figure(figsize=(8, 4.6), layout="constrained")
    (axes,) = axes_of(drawing)
    for found in speedruns()[:LINES]:
        seconds, errors = zip(*found[0]["curve"], strict=True)
        label = _entry_in_words(found[0], False)
        axes.plot([s / 60 for s in seconds], errors, STYLES[found[0]["kind"]], marker=".", label=label)
    axes.set(xlabel="minutes of training on one core", ylabel="force MAE, meV/Å", yscale="log")
    axes.legend(fontsize="small")
    return figure("speedrun", drawing, caption)


def sizes_table() -> str:
    """Errors of the entries that were also given fewer structures, and how fast they fall."""
    by_entry: dict[str, dict[int, list[Record]]] = defaultdict(dict)
    for found in speedruns(earlier=True, every_size=True):
        by_entry[found[0]["entry"]][found[0]["train_structures"]] = found
    chosen = {entry: sizes for entry, sizes in by_entry.items() if len(sizes) > 2}
    sizes = sorted(set.intersection(*map(set, chosen.values())))
    rows = []
    for entry, found in chosen.items():
        errors = [mean(run[FORCE] for run in found[size]) for size in sizes]
        alpha = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
        rows.append([in_words(f"earlier/{entry}"), *map(number, errors), f"{alpha:.2f}"])
    return table(["model", *(f"{size:,} structures" for size in sizes), "α"], rows)


def width_rows() -> list[Record]:
    """eSEN of several widths on 1,000 steps."""
    found = [run for name, run in records("speedrun").items() if name.startswith("esen-w")]
    return sorted(found, key=lambda run: run["width"])


# ------------------------------------------------------------------------------------------ throughput


def speed_table(*columns: tuple[str, str, str, int]) -> str:
    """A row per model, kind of forces and compilation, the fastest first; columns: head, case, key, digits."""
    groups: dict[tuple[str, str, bool], dict[str, Record]] = defaultdict(dict)
    cases = {case for _, case, _, _ in columns}
    for row in records("throughput").values():
        if row.get("case") in cases:
            groups[row["entry"], row["forces"], row["compiled"]][row["case"]] = row
    first = columns[0][1]
    ordered = sorted(groups.items(), key=lambda item: -(item[1].get(first, {}).get("atoms_per_second") or 0))
    rows = []
    for (entry, forces, compiled), found in ordered:
        cells = [number(found.get(case, {}).get(key), digits) for _, case, key, digits in columns]
        if set(cells) != {number(None)}:
            rows.append([in_words(entry), forces + (", compiled" if compiled else ""), *cells])
    return table(["model", "forces", *(head for head, *_ in columns)], rows)


GROWTH_COLUMNS = {  # key of a row → digits
    "milliseconds": 0,
    "calculator_milliseconds": 0,
    "dynamics_milliseconds": 0,
    "memory_mb": 0,
}
GROWTH = {"transip-S": "transip S", "nequip": "NequIP (compiled)"}


def growth_table() -> str:
    """Time and memory of liquids of more and more atoms, and the powers by which they grow."""
    rows = []
    for (entry, shape), found in growth.grown(results_file(growth.__file__)).items():
        for row in found:
            values = [number(row.get(key), digits) for key, digits in GROWTH_COLUMNS.items()]
            rows.append([GROWTH[entry], shape, number(row["atoms"], 0), *values])
        powers = (growth.exponent(found, key) for key in GROWTH_COLUMNS)
        rows.append([GROWTH[entry], shape, "exponent", *("–" if p is None else f"{p:.2f}" for p in powers)])
    heads = ["model", "system", "atoms", "model, ms", "with a new list, ms", "step of dynamics, ms", "memory, MB"]
    return table(heads, rows)


def growth_figure(caption: str) -> str:
    """Time and memory against atoms."""
    drawing = Figure(figsize=(8, 3.4), layout="constrained")
    panels = {"milliseconds": "time, ms", "memory_mb": "memory, MB"}
    for axes, (key, label) in zip(axes_of(drawing, 2), panels.items(), strict=True):
        for (entry, shape), found in growth.grown(results_file(growth.__file__)).items():
            label_of_line = f"{GROWTH[entry]}, {shape}"
            axes.loglog([row["atoms"] for row in found], [row[key] for row in found], "o-", label=label_of_line)
        axes.set(xlabel="atoms", ylabel=label)
    drawing.axes[0].legend()
    return figure("throughput", drawing, caption)


def precision_table() -> str:
    """How far lower precision is from float64: largest and mean deviation."""
    rows = []
    for row in (row for row in records("throughput").values() if "precision" in row):
        deviations = [
            f"{_significant(row[f'{quantity}_max_{unit}'])} ({_significant(row[f'{quantity}_mean_{unit}'])})"
            for quantity, unit in (("energy", "mev_per_atom"), ("forces", "mev_per_angstrom"))
        ]
        rows.append([f"`{row['model']}`", row["precision"], *deviations, number(row["milliseconds"])])
    return table(["model", "precision", "energy, meV/atom", "forces, meV/Å", "batch, ms"], rows)


def _significant(value: float) -> str:
    """Two significant digits, without an exponent where a person would not write one."""
    return f"{float(f'{value:.2g}'):g}"


# ------------------------------------------------------------------------------------------ scaling


def scaling_runs() -> str:
    """Hours of training on 1, 8 and 64 GPUs."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for run in records("throughput")["plan"]["runs"]:
        row = rows.setdefault((run["data"], run["size"]), [run["data"], run["epochs"], run["size"]])
        row.append(f"{run['hours']:,.{1 if run['hours'] > 1 else 2}f}")
    return table(["data", "epochs", "size", "hours on 1 GPU", "on 8", "on 64"], rows.values())


FUNCTIONS = {
    function.__name__: function
    for function in (
        speedrun_table, speedrun_figure, sizes_table, width_rows, speed_table, growth_table, growth_figure,
        precision_table, scaling_runs,
    )
}  # fmt: skip
