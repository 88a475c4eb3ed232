"""Liquid water in periodic boxes: errors on unseen boxes, energy conservation, and the price beside GFN2-xTB's.

    python -m benchmarks.periodic.water runs/water

Boxes are those that the model's recipe held out: of numbers of molecules that it has not seen. Three of them are
simulated at constant energy, from the geometry as it is, with velocities of 300 K. Needs tblite
(`pip install ".[labels]"`). The record `water` goes into benchmarks/periodic/results.jsonl.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import GPa

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from benchmarks.simulation import nve
from transip.config import BatchSettings
from transip.data.dataset import Dataset
from transip.engines.torchsim import TransIPModel
from transip.evaluation.saved import evaluate, load_validation_set
from transip.files import read_json
from transip.inference.ase import TransIPCalculator
from transip.inference.md import energy_drift
from transip.inference.predict import load_for_inference
from transip.inference.progress import progress_bar
from transip.labels.methods import gfn2_xtb
from transip.structure import Structure

SIMULATED, SEED, TIMESTEP, INTERVAL = 3, 0, 0.5, 10  # boxes; of velocities; fs; steps between frames
OH = 1.3  # Å; a longer bond is broken


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--picoseconds", type=float, default=5.0)
    arguments = parser.parse_args()
    data = load_validation_set(arguments.model, [])
    network = load_for_inference(arguments.model, "cpu", "float32")
    found = evaluate(network, data, batch=BatchSettings(batch_size=4), progress=True)
    config = read_json(arguments.model / "model" / "config.json")
    result = {
        "name": "water",
        **provenance("ase", "tblite"),
        "training": config["training"],
        "parameters": config["parameters"],
        "boxes": len(data),
        "metrics": found.overall | {"stress_mae_gpa": found.overall["stress_mae"] / GPa},
        "symmetry": {key: value for key, value in (found.symmetry or {}).items() if key != "layers"},
        "spread_of_labels": spread(data),
        "nve": simulate_boxes(arguments.model, data, arguments.picoseconds),
        "seconds_per_box": price(arguments.model, data[0]),
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(result, indent=1))


def spread(data: Dataset) -> dict[str, float]:
    """What a model that always says the mean would have as errors."""
    batch = data.get_batch(range(len(data)))
    assert batch.energy is not None and batch.forces is not None and batch.stress is not None
    per_atom = batch.energy / batch.atom_counts
    return {
        "energy_mae_per_atom": float((per_atom - per_atom.mean()).abs().mean()),
        "force_mae": float(batch.forces.abs().mean()),
        "stress_mae_gpa": float((batch.stress - batch.stress.mean(0)).abs().mean()) / GPa,
    }


def simulate_boxes(model: Path, data: Dataset, picoseconds: float) -> list[dict[str, Any]]:
    """Energy drift (meV/atom/ps), temperature and the longest bond O–H of a few boxes, each alone."""
    steps = round(1000 * picoseconds / TIMESTEP)
    rows, network = [], TransIPModel(model)
    for number in np.linspace(0, len(data) - 1, SIMULATED).astype(int):
        box = data[int(number)]
        begin, table = time.perf_counter(), np.empty((3, steps // INTERVAL + 1))
        frames = nve.simulate(
            network, [box], steps=steps, temperature=300.0, timestep=TIMESTEP, interval=INTERVAL, seed=SEED
        )
        for k, frame in enumerate(progress_bar(frames, "NVE", progress=True, total=table.shape[1])):
            molecules = frame.positions.view(-1, 3, 3)
            bonds = (molecules[:, 1:] - molecules[:, :1]).norm(dim=-1)
            table[:, k] = float(frame.potential + frame.kinetic), float(frame.kinetic), float(bonds.max())
        rows.append(
            {
                "source": box.source,
                "atoms": len(box),
                "picoseconds": picoseconds,
                "drift_mev_per_atom_per_ps": energy_drift(table[0], TIMESTEP * INTERVAL, len(box)),
                "fluctuation_mev_per_atom": float(1000 * table[0].std() / len(box)),
                "mean_temperature_k": float(temperature(table[1], len(box))),
                "longest_bond": float(table[2].max()),
                "broken": bool(table[2].max() > OH),
                "milliseconds_per_step": 1000 * (time.perf_counter() - begin) / steps,
            }
        )
    return rows


def temperature(kinetic: np.ndarray, atoms: int) -> float:
    from ase.units import kB

    return 2 * kinetic.mean() / (kB * (3 * atoms - 3))


def price(model: Path, box: Structure) -> dict[str, float]:
    """Seconds for energy, forces and stress of one box, one thread."""
    atoms = box.to_atoms()
    atoms.calc = TransIPCalculator(model, unseen="ignore")
    atoms.get_stress()
    found: dict[str, float] = {"atoms": len(box)}
    for name, calculate in (("transip", lambda: again(atoms)), ("gfn2-xtb", lambda: gfn2_xtb(box))):
        begin, repeats = time.perf_counter(), 10 if name == "transip" else 1
        for _ in range(repeats):
            calculate()
        found[name] = (time.perf_counter() - begin) / repeats
    return found


def again(atoms: Any) -> None:
    atoms.rattle(1e-4)
    atoms.get_stress()


if __name__ == "__main__":
    main()
