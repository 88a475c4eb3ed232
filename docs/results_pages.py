"""Writes results/speedrun.md, results/throughput.md, their figures and the tables of explanation/scaling.md.

They come from benchmarks/*/results and from benchmarks/throughput/plan.py: nothing in them is typed by hand.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common.records import read_results
from transip.files import atomic_path

HERE = Path(__file__).parent
PAGES, BENCHMARKS = HERE / "results", HERE.parent / "benchmarks"
RESULTS, SPEED = BENCHMARKS / "speedrun" / "results.jsonl", BENCHMARKS / "throughput" / "results.jsonl"
FORCES = "force_mae_mev_per_angstrom"
COLUMNS = {
    "forces, meV/Å": (FORCES, 1),
    "energy, meV/atom": ("energy_mae_mev_per_atom", 2),
    "forces, larger molecules": (f"test_{FORCES}", 1),
    "energy, larger molecules": ("test_energy_mae_mev_per_atom", 2),
    "force cosine": ("force_cosine", 4),
    "rotation error, meV/Å": ("force_rotation_error_mev_per_angstrom", 1),
    "forward passes": ("forward_passes", 0),
    "parameters": ("parameters", 0),
}
ERRORS = list(COLUMNS.values())[:2]
INTRODUCTION = """# The speedrun

The lowest force error after twelve minutes of training on one core: 8,370 structures of neutral organic molecules of at
most 26 atoms, displaced at random, with GFN2-xTB energies and forces; evaluated on 930 structures of unseen
composition, by which settings were chosen, and on 930 of *larger molecules*, the 27 and 28 atoms of the same list, by
which nothing was. Every entry sees the same structures, minimises the same loss, and counts only its training towards
the budget. A *recipe* is ours, a *control* is ours without the latent loss on the same number of views, a *peer* runs
its own package in its own environment (`benchmarks/peers`). One command each, in the result's JSON:

```console
$ python -m benchmarks.speedrun.run organics painn --seeds 0 1 2
```

Mean over seeds, ± their standard deviation where there are several; one seed alone says nothing about differences of a
few per cent. What was tried on the way, and failed, is in `benchmarks/speedrun/log.md`. All on one machine, each core
busy with a run of its own; ours are timed by the wall, compiling included, peers by the processor. An entry's name says
what differs from the recipe or the adapter; `before` is the recipe as it was (width 64, angles of second degree). The
energy's weight in the loss is 2 Å in `organics` and in peers, 8 Å where the name says `before` or `energy-8`.
"""
EARLIER = """
## Earlier

On another machine, about 1.4 times slower, and with older networks and sizes of peers: comparable with each other, not
with those above. `organics-beside-controls` is `organics` once more, on the day of the controls.
"""


SIZES_INTRODUCTION = """
### Fewer structures

The same twelve minutes on part of the structures: force error in meV/Å, energy error in meV/atom. α is the fitted
exponent of force error ∝ structures^α. Few structures are seen hundreds of times.

eSEN's size and rate were badly chosen here, too.

```console
$ python -m benchmarks.speedrun.run organics esen --structures 1000
```
"""
SPEED_INTRODUCTION = """# Throughput

Energies and forces, and a training step, on one core: ours, the peers and GFN2-xTB itself, on the same structures, with
random weights. Processor time of one thread, the shortest of up to 30 repeats. The batch is 64 molecules of 20 atoms,
training a step on 16 of them, or on all, or that with products in bfloat16; the others are one molecule, or one ball of
molecules packed at least 2.5 Å apart. The model is timed on a prepared batch, whose neighbours the peers are given;
*calculator* is 20 atoms through `TransIPCalculator`; of these and the 20 atoms, those of S are the fastest of three
processes, those of XS and the peers of one. Memory is the largest of the whole process over the cases; *share of peak*
that of the core's float32 matrix-product peak, in useful operations of the model, the optimiser's time included. All
one after another with the machine's other core idle, but for growth with the number of atoms, long files, and AllScAIP,
measured with the other core busy. Each process has glibc's limits of freed memory raised; sizes as the presets are: XS
and S, two blocks, angles of second degree; eSEN has 64 channels, not the 32 of the speedrun.

```console
$ python -m benchmarks.throughput.run ours import growth reference painn esen allscaip mace nequip
$ python -m benchmarks.throughput.stream --molecules 100000 --forces conservative
$ python -m benchmarks.throughput.precision transip-s-gfn2 transip-s-gfn2-direct
```
"""
SPEED_COLUMNS = {  # column → case, key, digits
    "batch, atoms/s": ("batch64x20", "atoms_per_second", 0),
    "20 atoms, ms": ("single20", "milliseconds", 2),
    "200 atoms, ms": ("single200", "milliseconds", 1),
    "1,000 atoms, ms": ("single1000", "milliseconds", 0),
    "calculator, ms": ("calculator20", "milliseconds", 2),
    "training, atoms/s": ("train", "atoms_per_second", 0),
    "share of peak, training": ("train", "matmul_peak_share", 2),
    "64 a step": ("train64", "matmul_peak_share", 2),
    "… bfloat16": ("train64-bf16", "matmul_peak_share", 2),
}


def write() -> None:
    """Write the pages, the figures and the scaling plan's tables."""
    PAGES.mkdir(exist_ok=True)
    now, earlier = on_everything(entries("")), entries("earlier/")
    more = [EARLIER, *table(on_everything(earlier)), *size_table(earlier)]
    write_page("speedrun", [INTRODUCTION, *table(now)], figure(now), more)
    rows = speed_rows()
    grown = [row for row in rows if row["case"] == "growth"]
    page = [SPEED_INTRODUCTION, *speed_table(rows), *start_table(rows), *growth_text(grown), *stream_text()]
    page += precision_table()
    write_page("throughput", page, growth_figure(grown) if grown else None)
    plan = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput.plan"], cwd=HERE.parent, check=True, capture_output=True
    )
    (PAGES / "scaling-plan.txt").write_bytes(plan.stdout)


def write_page(name: str, lines: list[str], drawing: Figure | None, more: Sequence[str] = ()) -> None:
    """A page with its figure below `lines`."""
    image = ["", f"```{{image}} {name}.svg", "```"] if drawing else []
    (PAGES / f"{name}.md").write_text("\n".join([*lines, *image, *more, ""]), encoding="utf-8")
    if drawing:
        with atomic_path(PAGES / f"{name}.svg") as partial:
            drawing.savefig(partial, format="svg")


def entries(prefix: str) -> list[list[dict[str, Any]]]:
    """Results with a time budget, one list per entry and number of structures (its seeds), the best first."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for name, result in read_results(RESULTS).items():
        if result.get("budget_minutes") and name.rpartition("/")[0] == prefix.rstrip("/"):
            result |= {f"test_{key}": value for key, value in result.get("test", {}).items()}
            groups[result["entry"], result["train_structures"]].append(result)
    return sorted(groups.values(), key=lambda runs: mean(run[FORCES] for run in runs))


def on_everything(groups: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Entries that were trained on all structures."""
    everything = max(runs[0]["train_structures"] for runs in groups)
    return [runs for runs in groups if runs[0]["train_structures"] == everything]


def table(groups: list[list[dict[str, Any]]]) -> list[str]:
    """A row per entry, in the columns that were measured."""
    columns = {name: column for name, column in COLUMNS.items() if any(column[0] in run for run in chain(*groups))}
    rows = [f"| entry | kind | seeds | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for runs in groups:
        cells = [known(runs, key, digits) for key, digits in columns.values()]
        rows.append(f"| {runs[0]['entry']} | {runs[0]['kind']} | {len(runs)} | {' | '.join(cells)} |")
    return rows


def known(runs: list[dict[str, Any]], key: str, digits: int) -> str:
    """Mean ± standard deviation of what the runs have of it; a dash if none has."""
    found = [run[key] for run in runs if key in run]
    return spread(found, digits) if found else "–"


def size_table(groups: list[list[dict[str, Any]]]) -> list[str]:
    """Errors of the entries that were also given fewer structures, and how fast they fall."""
    by_entry: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    for runs in groups:
        by_entry[runs[0]["entry"]][runs[0]["train_structures"]] = runs
    chosen = {entry: dict(sorted(sizes.items())) for entry, sizes in by_entry.items() if len(sizes) > 2}
    if not chosen:
        return []
    sizes = sorted(set.intersection(*map(set, chosen.values())))
    rows = [f"| entry | {' | '.join(f'{size:,}' for size in sizes)} | α |", "|---|" + "---|" * (len(sizes) + 1)]
    for entry, of_entry in chosen.items():
        cells = [", ".join(spread([run[key] for run in of_entry[n]], digits) for key, digits in ERRORS) for n in sizes]
        errors = [mean(run[FORCES] for run in runs) for runs in of_entry.values()]
        rows.append(f"| {entry} | {' | '.join(cells)} | {exponent(list(of_entry), errors):.2f} |")
    return [SIZES_INTRODUCTION, *rows]


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """α of y ∝ x^α, fitted."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation."""
    text = f"{mean(values):,.{digits}f}"
    return text if len(set(values)) == 1 else f"{text} ± {stdev(values):,.{digits}f}"


def figure(groups: list[list[dict[str, Any]]]) -> Figure:
    """Force MAE against training time, the first seed of each entry."""
    drawing = Figure(figsize=(8, 5), layout="constrained")
    axes = drawing.add_subplot()
    for runs in groups:
        seconds, errors = zip(*runs[0]["curve"], strict=True)
        style = {"recipe": "-", "control": "--", "peer": ":"}[runs[0]["kind"]]
        axes.plot([s / 60 for s in seconds], errors, style, marker=".", label=runs[0]["entry"])
    axes.set(xlabel="minutes of training on one core", ylabel="force MAE, meV/Å", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return drawing


# ------------------------------------------------------------------------------------------ throughput


def speed_rows() -> list[dict[str, Any]]:
    """Rows of all entries."""
    return [row for row in read_results(SPEED).values() if row.get("case", "stream") != "stream"]


def speed_table(rows: list[dict[str, Any]]) -> list[str]:
    """A line per entry, kind of forces and compilation, the fastest batch first."""
    groups: dict[tuple[str, str, bool], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["case"] in {case for case, _, _ in SPEED_COLUMNS.values()}:
            groups[row["entry"], row["forces"], row["compiled"]][row["case"]] = row
    if not groups:
        return ["Nothing has been measured yet."]
    lines = [
        f"| entry | forces | compiled | {' | '.join(SPEED_COLUMNS)} | memory, MB |",
        "|---|---|---|" + "---|" * (len(SPEED_COLUMNS) + 1),
    ]
    fastest = sorted(groups.items(), key=lambda item: -item[1].get("batch64x20", {}).get("atoms_per_second", 0))
    for (entry, forces, compiled), cases in fastest:
        cells = [number(cases.get(case, {}).get(key), digits) for case, key, digits in SPEED_COLUMNS.values()]
        memory = number(max(row["peak_memory_mb"] for row in cases.values()), 0)
        lines.append(f"| {entry} | {forces} | {'yes' if compiled else 'no'} | {' | '.join(cells)} | {memory} |")
    return lines


def start_table(rows: list[dict[str, Any]]) -> list[str]:
    """What comes before the first energy."""
    names = {
        ("torch", "import"): "importing PyTorch",
        ("transip", "import"): "importing `transip.TransIPCalculator` after it",
        ("transip-S", "first12"): "loading a model, first energy and forces of benzene",
    }
    found = [(names[key], row) for row in rows if (key := (row["entry"], row["case"])) in names]
    if not found:
        return []
    return ["", "| start | ms |", "|---|---|", *(f"| {name} | {row['milliseconds']:,.0f} |" for name, row in found)]


def growth_text(rows: list[dict[str, Any]]) -> list[str]:
    """How time and memory grow."""
    lines = []
    for last in {row["forces"]: row for row in rows}.values():
        lines += [
            "",
            f"**One structure of up to {last['atoms']:,} atoms** (S, {last['forces']} forces, eager): from 1,000 atoms "
            f"on, time grows as N^{last['time_exponent']:.2f} and memory, over that of the process before, as "
            f"N^{last['memory_exponent']:.2f}; {last['atoms']:,} atoms take {last['milliseconds'] / 1e3:,.1f} s and "
            f"{last['peak_memory_mb'] / 1e3:,.2f} GB in all.",
        ]
    return lines


def growth_figure(rows: list[dict[str, Any]]) -> Figure:
    """Time and memory against atoms."""
    drawing = Figure(figsize=(8, 3.6), layout="constrained")
    panels = {"milliseconds": "ms", "memory_over_before_mb": "memory over the process before, MB"}
    for axes, (key, label) in zip(drawing.subplots(1, 2), panels.items(), strict=True):
        for forces in dict.fromkeys(row["forces"] for row in rows):
            of_these = [row for row in rows if row["forces"] == forces]
            axes.loglog([row["atoms"] for row in of_these], [row[key] for row in of_these], "o-", label=forces)
        axes.legend()
        axes.set(xlabel="atoms", ylabel=label)
        axes.grid(alpha=0.3, which="both")
    return drawing


def stream_text() -> list[str]:
    """`transip predict` over a long file."""
    lines = []
    for found in (row for row in read_results(SPEED).values() if row.get("case") == "stream"):
        least, most = min(found["memory_mb"]), max(found["memory_mb"])
        lines += [
            "",
            f"**`transip predict` over {found['molecules']:,} molecules** in extxyz ({found['entry']}, "
            f"{found['forces']} forces): {found['atoms_per_second']:,.0f} atoms/s, "
            f"{100 * found['share_of_batched_rate']:.0f} % of the model's own rate; the most memory in a tenth of the "
            f"time is between {least:,.0f} and {most:,.0f} MB.",
        ]
    return lines


def precision_table() -> list[str]:
    """How far lower precision is from float64."""
    lines = [
        "",
        "**Precision**: the largest, and in brackets the mean, deviation from float64, over the batch.",
        "",
        "| model | precision | energy, meV/atom | forces, meV/Å | batch, ms |",
        "|---|---|---|---|---|",
    ]
    for row in (row for row in read_results(SPEED).values() if "precision" in row):
        energy, forces = (
            f"{row[f'{of}_max_{unit}']:.2g} ({row[f'{of}_mean_{unit}']:.2g})"
            for of, unit in (("energy", "mev_per_atom"), ("forces", "mev_per_angstrom"))
        )
        lines.append(f"| {row['model']} | {row['precision']} | {energy} | {forces} | {row['milliseconds']:.1f} |")
    return lines


def number(value: float | None, digits: int) -> str:
    """A cell; a dash where nothing was measured."""
    return "–" if value is None else f"{value:,.{digits}f}"
