"""What the templates of the packaged models, of water in periodic boxes and of robustness may call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common.records import Record
from docs.page_parts import axes_of, figure, in_words, number, records, table
from transip.quantities import ENERGY_MAE, FORCE_COSINE, FORCE_MAE

COLUMNS = (FORCE_MAE, FORCE_COSINE, ENERGY_MAE)
DOMAINS = (
    "neutral organics at 300 K", "neutral_organics", "biomolecules", "reactivity", "elytes", "metal_complexes",
)  # fmt: skip


def domain_table(model: Record) -> str:
    """Errors of a packaged model, domain by domain."""
    rows = [
        [
            in_words(name),
            number(metrics["structures"], 0),
            *(q.text(metrics) for q in (FORCE_MAE, FORCE_COSINE, ENERGY_MAE)),
        ]
        for name, metrics in ((name, model["domains"][name]) for name in DOMAINS)
    ]
    return table(["domain", "structures", FORCE_MAE.heading, FORCE_COSINE.heading, ENERGY_MAE.heading], rows)


def models_figure(caption: str) -> str:
    """Force errors of all packaged models by domain."""
    drawing = Figure(figsize=(8, 3.6), layout="constrained")
    (axes,) = axes_of(drawing)
    models = list(records("released").values())
    for k, model in enumerate(models):
        errors = [1e3 * model["domains"][name]["force_mae"] for name in DOMAINS]
        axes.barh(np.arange(len(DOMAINS)) + 0.27 * (k - 1), errors, 0.27, label=model["model"])
    axes.set(xlabel="force MAE, meV/Å", yticks=range(len(DOMAINS)), yticklabels=[in_words(name) for name in DOMAINS])
    axes.invert_yaxis()
    axes.legend(fontsize="small")
    return figure("models", drawing, caption)


def simulations() -> list[Record]:
    """Results at constant energy, a model each."""
    return _starting_with("simulation", "conservation/")


def kills() -> tuple[str, str]:
    """A table with a row per command, and how many kills were survived."""
    rows, survived, total = [], 0, 0
    for run in _starting_with("robustness", "kill/"):
        kills, random = run["kills"], run["kills"]["at a random moment"]
        total, survived = total + sum(kills.values()), survived + run["survived"]
        row = [run["renames_and_removals"], sum(kills.values()) - random, random, run["survived"]]
        rows.append([f"`{run['name'].removeprefix('kill/')}`", *row])
    heads = ["command", "files renamed or removed", "kills at these", "kills at random", "survived"]
    return table(heads, rows), f"{survived:,} of {total:,}"


def fuzzing() -> tuple[str, str]:
    """A table with a row per format, all runs together, and the number of inputs."""
    runs = _starting_with("robustness", "fuzz/")
    rows, total = [], 0
    for name in runs[0]["formats"]:
        counts = np.sum([_outcomes(run["formats"][name]) for run in runs], 0)
        total += counts[0]
        rows.append([in_words(name), *(f"{count:,}" for count in counts)])
    return table(["format", "inputs", "read", "refused", "findings"], rows), f"{total:,}"


def _outcomes(result: Mapping[str, Any]) -> list[int]:
    read, refused = (result["outcomes"].get(outcome, 0) for outcome in ("ok", "refused"))
    return [result["inputs"], read, refused, result["inputs"] - read - refused]


def of_processes(run: Record, key: str, digits: int) -> str:
    """A number of each process of a long run."""
    return ", ".join(number(process[key], digits) for process in run["memory"])


def commands(runs: Iterable[Record]) -> str:
    """A block with the command of each run as it was, one each."""
    lines = dict.fromkeys(f"$ {run['command']}" for run in runs)
    return "\n".join(["```console", *lines, "```"])


def _starting_with(benchmark: str, prefix: str) -> list[Record]:
    return [record for name, record in records(benchmark).items() if name.startswith(prefix)]


FUNCTIONS = {
    function.__name__: function
    for function in (domain_table, models_figure, simulations, kills, fuzzing, of_processes, commands)
}
