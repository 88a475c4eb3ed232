"""The rotational average distilled back into a model: it learns its own mean over rotations in the place of labels.

    python -m benchmarks.averaging.distill RUN [--rotations 12] [--steps 1000] [--seeds 0 1 2]

RUN goes on from its weights, with an eighth of the learning rates, on the structures that it was trained on: with their
labels, which is the control, and with the mean of its predictions over a group of rotations, which needs no labels.
Errors are on what RUN held out. The record `distill` goes into benchmarks/averaging/results.jsonl.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.config import Recipe, load
from transip.data.dataset import Dataset
from transip.data.split import load_splits
from transip.data.store import write_pack
from transip.evaluation.saved import batch_limits_for, evaluate
from transip.model.files import load_model
from transip.symmetry.average import with_rotation_average
from transip.training.trainer import train

RESULTS = results_file(__file__)
GENTLE = ["training.optimizer.learning_rate=2.5e-4", "training.optimizer.muon_learning_rate=0.002"]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rotations", type=int, default=12, help="of the average")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load(Recipe, arguments.run / "recipe.yaml")
    learned, held_out = load_splits(recipe.data)
    rows = [{"way": "as it is", **errors(arguments.run, held_out)}]
    rows += [{"way": "averaged", **errors(arguments.run, held_out, arguments.rotations)}]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        theory = learned.level_of_theory
        labels, mean, other = (folder / f"{name}.pack" for name in ("labels", "mean", "held-out"))
        write_pack(labels, map(learned.structure, range(len(learned))), level_of_theory=theory)
        write_pack(mean, predicted(arguments.run, learned, arguments.rotations), level_of_theory=theory)
        write_pack(other, map(held_out.structure, range(len(held_out))), level_of_theory=theory)
        for way, pack in (("labels", labels), ("average", mean)):
            for seed in arguments.seeds:
                run = train(continued(arguments, pack, other, seed), folder / f"{way}-{seed}").parent
                rows.append({"way": way, "seed": seed, **errors(run, held_out)})
                print(rows[-1], flush=True)
    result = {
        "name": "distill",
        "recipe": recipe.model_dump(mode="json"),
        "structures": len(learned),
        "steps": arguments.steps,
        "rows": rows,
        **provenance(),
    }
    save_results(RESULTS, [result])
    print(json.dumps(rows, indent=1))


def predicted(run: Path, data: Dataset, rotations: int) -> Any:
    """The structures of `data` with what the averaged model says in the place of their labels."""
    found = evaluate(
        with_rotation_average(load_model(run), rotations), data, batch=batch_limits_for(data), symmetry=False
    ).predictions
    ends = np.cumsum(found["natoms"])
    for i, (energy, forces) in enumerate(zip(found["energy"], np.split(found["forces"], ends[:-1]), strict=True)):
        yield replace(data[i], energy=float(energy), forces=forces.astype(np.float64))


def continued(arguments: argparse.Namespace, pack: Path, held_out: Path, seed: int) -> Recipe:
    """The recipe of the run, from its weights on."""
    budget = [
        "training.minutes=null",
        "training.compile=false",
        f"training.steps={arguments.steps}",
        f"training.seed={seed}",
    ]
    data = [
        f"init_from={arguments.run}",
        f"data.train=[{pack}]",
        f"data.validation=[{held_out}]",
        "data.max_train=null",
    ]
    return load(Recipe, arguments.run / "recipe.yaml", [*budget, *data, *GENTLE])


def errors(run: Path, data: Dataset, rotations: int | None = None) -> dict[str, float]:
    found = evaluate(
        with_rotation_average(load_model(run), rotations), data, batch=batch_limits_for(data), progress=False
    )
    return errors_in_mev(found.overall, found.symmetry)


if __name__ == "__main__":
    main()
