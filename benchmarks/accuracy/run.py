"""Accuracy at fixed compute on one core: train recipes on the organics task, evaluate on unseen compositions.

    python benchmarks/accuracy/run.py recipes/organics.yaml [more recipes] [--seeds 0 1 2] [--set a.b=c]

The task is `recipes/data-organics.yaml` (built first, once, if it is not there). Each run leaves one JSON object in
benchmarks/accuracy/results/.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one core, whatever the machine has

import argparse
import json
import platform
import shlex
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from transip.config import LabelSettings, Recipe, load
from transip.evaluation.evaluate import evaluate_saved
from transip.files import write_json
from transip.labels.campaign import build
from transip.training.loop import train

HERE = Path(__file__).parent
DATA = Path("data/organics.pack")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", help="override settings: a.b=c")
    parser.add_argument("--name", default="", help="appended to the entry's name, to tell overrides apart")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not DATA.exists():
        build(load(LabelSettings, "recipes/data-organics.yaml"), DATA)
    for path in arguments.recipes:
        for seed in arguments.seeds:
            overrides = [*arguments.overrides, f"training.seed={seed}"]
            run(load(Recipe, path, overrides), f"{path.stem}{arguments.name}", seed)


def run(recipe: Recipe, entry: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, folder)
        found = evaluate_saved(folder)
        config = json.loads((Path(folder) / "model" / "config.json").read_text())
    training = config["training"]
    result = {
        "entry": entry,
        "seed": seed,
        "force_mae_mev_per_angstrom": 1e3 * found.overall["force_mae"],
        "energy_mae_mev_per_atom": 1e3 * found.overall["energy_mae_per_atom"],
        "force_cosine": found.overall["force_cosine"],
        "force_rotation_error_mev_per_angstrom": 1e3 * found.symmetry["force_rotation_error"],
        "structures_evaluated": found.overall["structures"],
        "train_structures": config["data"]["structures"],
        "parameters": config["parameters"],
        "steps": training["step"],
        "seconds": training["time_s"],
        "forward_passes": training["forward_passes"],
        "atoms_seen": training["atoms_seen"],
        "command": shlex.join(["python", *sys.argv]),
        "recipe": recipe.model_dump(mode="json"),
        "hardware": f"one core of {_processor()}",
        "versions": {name: version(name) for name in ("transip", "torch", "numpy")},
    }
    write_json(HERE / "results" / f"{entry}-seed{seed}.json", result)
    print(json.dumps({key: value for key, value in result.items() if key not in ("recipe", "versions")}, indent=2))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
