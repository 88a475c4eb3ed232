"""What a model gains that knows where charge and spin are, and what of it: one mixture, equal steps, several seeds.

    python -m benchmarks.ions.run [before references after ...] --seeds 0 1 2
    python -m benchmarks.ions.run --table

Each run adds the record ENTRY-seedK to benchmarks/ions/results.jsonl, and its model stays in runs/ions; a run that is
there is not repeated. Errors (meV/Å, meV/atom) are those of the last weights on a tenth of the compositions, the same
for all, which was not trained on and chose nothing. `ms_per_step` is wall time: entries that are compared run at the
same time.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import argument_parser, provenance, read_results, results_file, save_results
from transip.config import Recipe, load
from transip.data.dataset import Dataset
from transip.data.split import load_splits
from transip.evaluation.saved import batch_limits_for
from transip.metrics.validation import validation_metrics
from transip.model.files import load_model
from transip.training.trainer import train

HERE, RESULTS = Path(__file__).parent, results_file(__file__)
RUNS = Path("runs/ions")
ENTRIES: dict[str, dict[str, Any]] = {
    "before": {"references.terms": [], "model.charges": "none"},  # what commit 52deeb2 trains
    "references": {"model.charges": "none"},
    "cutoff": {"model.charges": "none", "model.cutoff": 6.0},
    "local": {"model.charges": "local", "model.cutoff": 6.0},
    "after": {"model.charges": "local", "model.cutoff": 6.0, "model.smearing": 2.0},
}
Where = Callable[[Dataset], np.ndarray]


def domain(name: str) -> Where:
    return lambda data: data.domains == name


GROUPS: dict[str, Where] = {
    "charged": lambda data: (data.charge != 0) & (data.domains != "pairs"),
    "radicals": lambda data: (data.charge == 0) & (data.spin > 1) & (data.domains != "pairs"),
    "elytes": domain("elytes"),
    "reactivity": domain("reactivity"),
    "organics": domain("neutral_organics"),
    "pairs": domain("pairs"),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("entries", nargs="*", default=[*ENTRIES], choices=[*ENTRIES, []])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only print what has been found")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in [] if arguments.table else arguments.seeds:
        for entry in arguments.entries:
            if f"{entry}-seed{seed}" not in read_results(RESULTS):
                save_results(RESULTS, [run(entry, seed)])
    print(table())


def run(entry: str, seed: int) -> dict[str, Any]:
    name = f"{entry}-seed{seed}"
    print(name, "…", flush=True)
    changes = {"training.seed": seed, "training.evaluate_every": 1500, **ENTRIES[entry]}
    recipe = load(Recipe, HERE / "recipe.yaml", [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    model = load_model(train(recipe, RUNS / name, resume=True, progress=False))
    data = load_splits(recipe.data)[1]
    return {
        "name": name,
        "entry": entry,
        "seed": seed,
        "settings": ENTRIES[entry],
        "steps": recipe.training.steps,
        "ms_per_step": 1e3 * model.card["training"]["time_s"] / model.card["training"]["step"],
        "groups": {group: errors(model, data.select(np.flatnonzero(where(data)))) for group, where in GROUPS.items()},
        **provenance(),
    }


def errors(model: Any, data: Dataset) -> dict[str, float]:
    found = validation_metrics(model, data, batch_limits_for(data))
    return {**errors_in_mev(found), "structures": found["structures"]}


def table() -> str:
    """Means over the seeds, and as parts of those before."""
    records = list(read_results(RESULTS).values())
    lines = [f"{'force, energy (× before)':26}" + "".join(f"{group:>34}" for group in GROUPS)]
    for entry in ENTRIES:
        chosen = [record for record in records if record["entry"] == entry]
        cells = []
        for group in GROUPS if chosen else ():
            cell = ""
            for key in ("force_mae_mev_per_angstrom", "energy_mae_mev_per_atom"):
                values, first = (
                    statistics.mean(record["groups"][group][key] for record in records if record["entry"] == which)
                    for which in (entry, "before")
                )
                cell += f"{values:9.1f} ({values / first:.2f})"
            cells.append(f"{cell:>34}")
        if chosen:
            cost = statistics.mean(record["ms_per_step"] for record in chosen)
            lines.append(f"{entry:10} {len(chosen)} × {cost:4.0f} ms/step" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
