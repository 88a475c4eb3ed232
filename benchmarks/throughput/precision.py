"""How far energies and forces in lower precision are from those in float64, and what they cost.

    python benchmarks/throughput/precision.py transip-s-gfn2

Predicts the 64 molecules of 20 atoms of the other measurements with the same weights in float64, in float32, the same
compiled, and in float32 with matrix products in bfloat16, as `training.precision: bf16` trains. Times are those of one
batch, as in run.py. Leaves precision.json in benchmarks/throughput/results.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cases import FILE, export, structures_of

from hardware import measure, processor
from transip.batch import Batch, Prediction
from transip.files import write_json
from transip.inference.inference import prepare
from transip.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "precision.json"
WAYS = {  # name → precision of the weights, compiled, bfloat16 in products
    "float64": ("float64", False, False),
    "float32": ("float32", False, False),
    "float32, compiled": ("float32", True, False),
    "bfloat16 products": ("float32", False, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or folders")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if not FILE.exists():
        export()
    rows = [row for model in arguments.models for row in rows_of(model)]
    origin = {
        "hardware": f"one core of {processor()}",
        "command": shlex.join(["python", *sys.argv]),
        "versions": {name: version(name) for name in ("transip", "torch")},
    }
    write_json(arguments.output, [row | origin for row in rows])
    print(json.dumps(rows, indent=1))


def rows_of(name: str) -> list[dict[str, object]]:
    """One for each way to predict; deviations are those from the first."""
    structures = structures_of("batch64x20")
    rows: list[dict[str, object]] = []
    exact: Prediction | None = None
    for way, (dtype, compiled, bf16) in WAYS.items():
        model = prepare(name, "cpu", dtype, compile=compiled)
        batch = Batch.collate(structures, getattr(torch, dtype))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            time = measure(lambda model=model, batch=batch: model(batch))["milliseconds"]
            found = model(batch)
        exact = found if exact is None else exact
        energy = 1e3 * (found.energy - exact.energy).abs() / batch.atom_counts
        forces = 1e3 * (found.forces - exact.forces).abs()
        rows.append(
            {
                "model": name,
                "precision": way,
                "milliseconds": time,
                "energy_mean_mev_per_atom": energy.mean().item(),
                "energy_max_mev_per_atom": energy.max().item(),
                "forces_mean_mev_per_angstrom": forces.mean().item(),
                "forces_max_mev_per_angstrom": forces.max().item(),
            }
        )
    return rows


if __name__ == "__main__":
    main()
