"""How error and cost of a model fall and rise with the number of rotations that it is averaged over.

    python -m benchmarks.averaging.run MODEL [DATA ...] [--structures 100] [--device cpu]

Without DATA, on what the recipe of the run MODEL held out. Rotations are random ones or groups (12, 24, 60); 1 is the
model as it is. The record `averaging` goes into benchmarks/averaging/results.jsonl.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import nn

from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.data.dataset import Dataset
from transip.evaluation.saved import batch_limits_for, evaluate, load_validation_set
from transip.model.files import load_model
from transip.rotations import random_rotations, rotation_group
from transip.symmetry.average import RotationEnsemble

RANDOM = (2, 4, 8, 12, 24, 60)
GROUPS = (12, 24, 60)
SEED = 0  # of structures and random rotations


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--structures", type=int, default=100, help="drawn at random from the data")
    parser.add_argument("--device", default="cpu")
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
        "name": "averaging",
        "model": str(arguments.model),
        "structures": len(sample),
        "seed": SEED,
        "rows": rows,
        **provenance(device=arguments.device),
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(rows, indent=1))


def averages(model: nn.Module) -> dict[tuple[str, int], RotationEnsemble]:
    generator = torch.Generator().manual_seed(SEED)
    drawn = {number: random_rotations(number, generator, torch.float64) for number in RANDOM}
    groups = {number: rotation_group(number) for number in GROUPS}
    return {
        (kind, number): RotationEnsemble(model, rotations)
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
        **errors_in_mev(found.overall, found.symmetry),
        "forward_passes": found.cost["forward_passes"],
        "seconds": found.cost["seconds"],
    }


if __name__ == "__main__":
    main()
