"""How far energies and forces in lower precision are from those in float64, and what they cost.

    python -m benchmarks.throughput.precision transip-s-gfn2

Predicts the 64 molecules of 20 atoms of the other measurements with the same weights in float64, in float32, the same
compiled, and in float32 with matrix products in bfloat16, as `training.precision: bf16` trains. Times are those of one
batch, as in run.py. The records precision/MODEL/PRECISION go into
benchmarks/throughput/results.jsonl.
"""

import json

import torch

from benchmarks.common.hardware import measure
from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from benchmarks.throughput.cases import FILE, export, structures_of
from transip.batch import Batch, Prediction
from transip.inference.predict import load_for_inference
from transip.memory import tune_malloc

WAYS = {  # name → precision of the weights, compiled, bfloat16 in products
    "float64": ("float64", False, False),
    "float32": ("float32", False, False),
    "float32, compiled": ("float32", True, False),
    "bfloat16 products": ("float32", False, True),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="+", help="names or folders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()
    if not FILE.exists():
        export()
    rows = [row for model in arguments.models for row in rows_of(model)]
    save_results(results_file(__file__), [row | provenance() for row in rows])
    print(json.dumps(rows, indent=1))


def rows_of(name: str) -> list[dict[str, object]]:
    """One for each way to predict; deviations are those from the first."""
    structures = structures_of("batch64x20")
    rows: list[dict[str, object]] = []
    exact: Prediction | None = None
    for way, (dtype, compiled, bf16) in WAYS.items():
        model = load_for_inference(name, "cpu", dtype, compile=compiled)
        batch = Batch.collate(structures, getattr(torch, dtype))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            time = measure(lambda model=model, batch=batch: model(batch))["milliseconds"]
            found = model(batch)
        exact = found if exact is None else exact
        energy = 1e3 * (found.energy - exact.energy).abs() / batch.atom_counts
        forces = 1e3 * (found.forces - exact.forces).abs()
        rows.append(
            {
                "name": f"precision/{name}/{way}",
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
