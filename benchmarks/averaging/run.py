"""How error and cost of a model fall and rise with the number of rotations that it is averaged over.

    python benchmarks/averaging/run.py MODEL [DATA ...] [--structures 100] [--device cpu] [--output FOLDER]

Without DATA, on what the recipe of the run MODEL held out. Rotations are random ones or groups (12, 24, 60); 1 is the
model as it is. Leaves averaging.json and averaging.png in FOLDER (benchmarks/averaging/results).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import track
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hardware import processor
from transip.data.dataset import Dataset
from transip.evaluation.saved import batch_limits_for, evaluate, load_validation_set
from transip.files import atomic_path, write_json
from transip.model.files import load_model
from transip.rotations import random_rotations, rotation_group
from transip.symmetry.average import RotationAverage

RANDOM = (2, 4, 8, 12, 24, 60)
GROUPS = (12, 24, 60)
SEED = 0  # of structures and random rotations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--structures", type=int, default=100, help="drawn at random from the data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    model = load_model(arguments.model, arguments.device).eval()
    data = load_validation_set(arguments.model, arguments.data)
    chosen = np.random.default_rng(SEED).permutation(len(data))[: arguments.structures]
    sample = data.select(np.sort(chosen))
    potentials = {("none", 1): model, **averages(model)}
    rows = [
        measure(kind, number, potential, sample)
        for (kind, number), potential in track(potentials.items(), "averaging", len(potentials))
    ]
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "model": str(arguments.model),
        "structures": len(sample),
        "seed": SEED,
        "hardware": f"{processor()}, {torch.get_num_threads()} threads, {arguments.device}",
        "versions": {name: version(name) for name in ("transip", "torch", "numpy")},
        "rows": rows,
    }
    write_json(arguments.output / "averaging.json", result)
    plot(rows, arguments.output / "averaging.png")
    print(json.dumps(rows, indent=1))


def averages(model: nn.Module) -> dict[tuple[str, int], RotationAverage]:
    generator = torch.Generator().manual_seed(SEED)
    drawn = {number: random_rotations(number, generator, torch.float64) for number in RANDOM}
    groups = {number: rotation_group(number) for number in GROUPS}
    return {
        (kind, number): RotationAverage(model, rotations)
        for kind, sets in (("random", drawn), ("group", groups))
        for number, rotations in sets.items()
    }


def measure(kind: str, number: int, potential: nn.Module, sample: Dataset) -> dict[str, Any]:
    found = evaluate(
        potential, sample, batch=batch_limits_for(sample), symmetry_structures=len(sample), progress=False
    )  # in its own and four random orientations
    return {
        "rotations": kind,
        "number": number,
        "force_mae_mev_per_angstrom": 1e3 * found.overall["force_mae"],
        "energy_mae_mev_per_atom": 1e3 * found.overall["energy_mae_per_atom"],
        "force_rotation_error_mev_per_angstrom": 1e3 * found.symmetry["force_rotation_error"],
        "energy_rotation_spread_mev_per_atom": 1e3 * found.symmetry["energy_rotation_spread_per_atom"],
        "forward_passes": found.cost["forward_passes"],
        "seconds": found.cost["seconds"],
    }


PANELS = {
    "force_mae_mev_per_angstrom": "force MAE, meV/Å",
    "force_rotation_error_mev_per_angstrom": "force rotation error, meV/Å",
    "seconds": "prediction time, s",
}


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    figure, panels = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.4), layout="constrained")
    for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
        for kind, style in (("random", "o-"), ("group", "s-")):
            mine = [row for row in rows if row["rotations"] in ((kind, "none") if kind == "random" else (kind,))]
            axes.plot([row["number"] for row in mine], [row[key] for row in mine], style, label=kind)
        axes.set(xlabel="rotations", ylabel=label, xscale="log", yscale="linear" if "mae" in key else "log")
        axes.set_xticks(numbers := sorted({row["number"] for row in rows}), numbers)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].legend()
    with atomic_path(target) as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
