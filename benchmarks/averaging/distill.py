"""The rotational average distilled back into a model: it learns its own mean over rotations in the place of labels.

    python benchmarks/averaging/distill.py RUN [--rotations 12] [--steps 1000] [--seeds 0 1 2]

RUN goes on from its weights, with an eighth of the learning rates, on the structures that it was trained on: with their
labels, which is the control, and with the mean of its predictions over a group of rotations, which needs no labels.
Errors are on what RUN held out. Leaves distill.json in benchmarks/averaging/results.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hardware import processor
from transip.config import Recipe, load
from transip.data.dataset import Dataset
from transip.data.split import prepare
from transip.data.store import write_pack
from transip.evaluation.saved import batch_limits_for, evaluate
from transip.files import write_json
from transip.model.files import load_model
from transip.symmetry.average import averaged
from transip.training.loop import train

RESULT = Path(__file__).parent / "results" / "distill.json"
GENTLE = ["training.optimizer.learning_rate=2.5e-4", "training.optimizer.muon_learning_rate=0.002"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rotations", type=int, default=12, help="of the average")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load(Recipe, arguments.run / "recipe.yaml")
    learned, held_out = prepare(recipe.data)
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
        "command": shlex.join(["python", *sys.argv]),
        "recipe": recipe.model_dump(mode="json"),
        "structures": len(learned),
        "steps": arguments.steps,
        "hardware": f"one core of {processor()}",
        "versions": {name: version(name) for name in ("transip", "torch", "numpy")},
        "rows": rows,
    }
    write_json(RESULT, result)
    print(json.dumps(rows, indent=1))


def predicted(run: Path, data: Dataset, rotations: int) -> Any:
    """The structures of `data` with what the averaged model says in the place of their labels."""
    found = evaluate(
        averaged(load_model(run), rotations), data, batch=batch_limits_for(data), symmetry=False
    ).predictions
    ends = np.cumsum(found["natoms"])
    for i, (energy, forces) in enumerate(zip(found["energy"], np.split(found["forces"], ends[:-1]), strict=True)):
        yield replace(data.structure(i), energy=float(energy), forces=forces.astype(np.float64))


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
    found = evaluate(averaged(load_model(run), rotations), data, batch=batch_limits_for(data), progress=False)
    assert found.symmetry is not None
    return {
        "force_mae_mev_per_angstrom": 1e3 * found.overall["force_mae"],
        "energy_mae_mev_per_atom": 1e3 * found.overall["energy_mae_per_atom"],
        "force_rotation_error_mev_per_angstrom": 1e3 * found.symmetry["force_rotation_error"],
    }


if __name__ == "__main__":
    main()
