"""Writes results/speedrun.md and its figure from benchmarks/speedrun/results: nothing in them is typed by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from transip.files import atomic_path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "speedrun" / "results"
PAGE, FIGURE = HERE / "results" / "speedrun.md", HERE / "results" / "speedrun.svg"
COLUMNS = {
    "forces, meV/Å": ("force_mae_mev_per_angstrom", 1),
    "energy, meV/atom": ("energy_mae_mev_per_atom", 2),
    "force cosine": ("force_cosine", 4),
    "rotation error, meV/Å": ("force_rotation_error_mev_per_angstrom", 1),
    "forward passes": ("forward_passes", 0),
    "parameters": ("parameters", 0),
}
INTRODUCTION = """# The speedrun

The lowest force error after twelve minutes of training on one core: 8,370 neutral organic molecules of at most 26
atoms, displaced at random, with GFN2-xTB energies and forces; evaluated on 930 structures of unseen composition.
Every entry sees the same structures, minimises the same loss, and counts only its training towards the budget. A
*recipe* is ours, a *control* is ours without the latent loss on the same number of views, a *peer* runs its own
package in its own environment (`benchmarks/peers`). One command each, in the result's JSON:

```console
$ python benchmarks/speedrun/run.py organics painn --seeds 0 1 2
```

Mean over seeds, ± their standard deviation where there are several; one seed alone says nothing about differences of a
few per cent. What was tried on the way, and failed, is in `benchmarks/speedrun/log.md`.
"""


def write() -> None:
    """Write the page and the figure."""
    groups = entries()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(
        "\n".join([INTRODUCTION, *table(groups), "", "```{image} speedrun.svg", "```", ""]), encoding="utf-8"
    )
    with atomic_path(FIGURE) as partial:
        figure(groups).savefig(partial, format="svg")


def entries() -> list[list[dict[str, Any]]]:
    """Results with a time budget, one list per entry (its seeds), the best first."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("budget_minutes"):
            groups[result["entry"]].append(result)
    return sorted(groups.values(), key=lambda runs: mean(run["force_mae_mev_per_angstrom"] for run in runs))


def table(groups: list[list[dict[str, Any]]]) -> list[str]:
    """A row per entry."""
    rows = [f"| entry | kind | seeds | {' | '.join(COLUMNS)} |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for runs in groups:
        cells = [spread([run[key] for run in runs], digits) for key, digits in COLUMNS.values()]
        rows.append(f"| {runs[0]['entry']} | {runs[0]['kind']} | {len(runs)} | {' | '.join(cells)} |")
    return rows


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
