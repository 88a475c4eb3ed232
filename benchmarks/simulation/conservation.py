"""How well a model conserves energy: ten molecules that it has not seen, simulated at constant energy.

    python -m benchmarks.simulation.conservation MODEL [MODEL ...] [--data PACK ...] [--picoseconds 50] [--device cpu]

Give a model of direct and one of conservative forces to compare them. Without --data, molecules that the first MODEL's
recipe held out, each of another composition. Each is relaxed with the model, then set off with velocities of twice the
temperature, half of which becomes potential energy. A molecule breaks when a bond is longer than 1.5 times its relaxed
length. The records conservation/MODEL go into benchmarks/simulation/results.jsonl.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from ase.data import covalent_radii

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from benchmarks.simulation import nve
from transip.data.dataset import Dataset
from transip.engines.torchsim import TransIPModel
from transip.evaluation.saved import load_validation_set
from transip.inference.ase import TransIPCalculator
from transip.inference.md import energy_drift
from transip.inference.progress import progress_bar
from transip.inference.relax import relax
from transip.structure import Structure

MOLECULES, SEED, TIMESTEP, INTERVAL = 10, 0, 0.5, 10  # number; of choice and velocities; fs; steps between frames
LIKE = 5  # molecules of like size in a batch: a molecule is padded to the largest
BONDED, BROKEN = 1.3, 1.5  # of the sum of covalent radii; of the relaxed length


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", nargs="*", type=Path, default=[])
    parser.add_argument("--picoseconds", type=float, default=50.0)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--compile", action="store_true", help="compile the networks: two minutes, then twice as fast")
    arguments = parser.parse_args()
    sample = pick_diverse(load_validation_set(arguments.models[0], arguments.data), MOLECULES)
    for model in arguments.models:
        result = {
            "name": f"conservation/{model.name}",
            **provenance("ase", device=arguments.device),
            "seed": SEED,
            "timestep_fs": TIMESTEP,
            "temperature_k": arguments.temperature,
            **simulate(model, sample, arguments),
        }
        save_results(results_file(__file__), [result])
        print(json.dumps({key: value for key, value in result.items() if key != "molecules"}, indent=1))


def pick_diverse(data: Dataset, number: int) -> list[Structure]:
    """Structures of `number` compositions, drawn at random."""
    chosen: dict[str, Structure] = {}
    for i in np.random.default_rng(SEED).permutation(len(data)):
        structure = data[int(i)]
        chosen.setdefault(structure.formula, structure)
        if len(chosen) == number:
            break
    return list(chosen.values())


def simulate(model: Path, sample: list[Structure], arguments: argparse.Namespace) -> dict[str, Any]:
    precision = {"device": arguments.device, "dtype": arguments.dtype}
    calculator = TransIPCalculator(model, **precision, unseen="ignore")
    settings = {"fmax": 0.05, "steps": 300}
    direct = calculator.model.settings.forces == "direct"
    optimizer = "FIRE" if direct else "LBFGS"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relaxed = [relax(one, calculator, optimizer=optimizer, **settings)[0] for one in sample]
    relaxed.sort(key=len)
    network = TransIPModel(
        model, device=arguments.device, network=arguments.dtype, unseen="ignore", compile=arguments.compile
    )
    steps = round(1000 * arguments.picoseconds / TIMESTEP)
    begin = time.perf_counter()
    groups = [relaxed[first : first + LIKE] for first in range(0, len(relaxed), LIKE)]
    molecules = [row for group in groups for row in simulate_batch(network, group, steps, arguments)]
    sound = [row for row in molecules if row["broke_at_ps"] is None]
    drifts = np.abs([row["drift_mev_per_atom_per_ps"] for row in sound])
    return {
        "model": str(model),
        "compiled": arguments.compile,
        "forces": "direct" if direct else "conservative",
        "dtype": arguments.dtype,
        "picoseconds": steps * TIMESTEP / 1000,
        "broken": len(molecules) - len(sound),
        "mean_drift_mev_per_atom_per_ps": float(drifts.mean()) if sound else None,
        "largest_drift_mev_per_atom_per_ps": float(drifts.max()) if sound else None,
        "steps_per_second": steps / (time.perf_counter() - begin),
        "forward_passes": steps + 1,
        "molecules": molecules,
    }


def simulate_batch(
    network: TransIPModel, molecules: list[Structure], steps: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    frames = nve.simulate(
        network, molecules, steps=steps, temperature=2 * arguments.temperature, timestep=TIMESTEP,
        interval=INTERVAL, seed=SEED,
    )  # fmt: skip
    stretch = BondStretchMonitor(molecules, arguments.device)
    # At once and not frame by frame: thousands of small tensors that stay would scatter the heap, which then grows.
    table = np.empty((3, len(molecules), steps // INTERVAL + 1))
    for number, frame in enumerate(progress_bar(frames, "NVE", progress=True, total=table.shape[2])):
        found = (frame.potential + frame.kinetic, frame.kinetic, stretch(frame.positions))
        table[:, :, number] = torch.stack(found).cpu()
    return [analyse_trajectory(one, *columns) for one, *columns in zip(molecules, *table, strict=True)]


class BondStretchMonitor:
    """The largest ratio of a bond's length to its first, for each molecule of a batch; a lone atom has 1."""

    def __init__(self, structures: list[Structure], device: str):
        pairs, molecule, first = [], [], 0
        for number, one in enumerate(structures):
            radii = covalent_radii[one.numbers]
            distance = np.linalg.norm(one.positions[:, None] - one.positions, axis=-1)
            bonds = np.argwhere(np.triu(distance < BONDED * (radii[:, None] + radii), 1))
            pairs.append(bonds + first)
            molecule += [number] * len(bonds)
            first += len(one)
        self.pairs = torch.from_numpy(np.concatenate(pairs)).to(device)
        self.molecule = torch.tensor(molecule, dtype=torch.int64, device=device)
        self.count = len(structures)
        self.lengths = self._lengths(torch.from_numpy(np.concatenate([one.positions for one in structures])).to(device))

    def _lengths(self, positions: torch.Tensor) -> torch.Tensor:
        return (positions[self.pairs[:, 0]] - positions[self.pairs[:, 1]]).norm(dim=1)

    def __call__(self, positions: torch.Tensor) -> torch.Tensor:
        ratios = (self._lengths(positions) / self.lengths).nan_to_num(torch.inf)
        return ratios.new_ones(self.count).scatter_reduce(0, self.molecule, ratios, "amax")


def analyse_trajectory(
    molecule: Structure, totals: np.ndarray, kinetic: np.ndarray, stretch: np.ndarray
) -> dict[str, Any]:
    """What became of one molecule; drift and temperature until it broke."""
    broken = np.flatnonzero(stretch > BROKEN)
    end = int(broken[0]) if len(broken) else len(totals)
    freedom = max(3 * len(molecule) - 6, 1)
    spacing = TIMESTEP * INTERVAL
    drift = energy_drift(totals[:end], spacing, len(molecule))
    line = drift * len(molecule) / 1000 * np.arange(end) * spacing / 1000
    return {
        "source": molecule.source,
        "formula": molecule.formula,
        "atoms": len(molecule),
        "drift_mev_per_atom_per_ps": drift,
        "fluctuation_mev_per_atom": float(1000 * np.std(totals[:end] - totals[0] - line) / len(molecule)),
        "mean_temperature_k": float(2 * kinetic[:end].mean() / (units.kB * freedom)),
        "largest_stretch": float(stretch[:end].max()),
        "broke_at_ps": end * spacing / 1000 if len(broken) else None,
    }


if __name__ == "__main__":
    main()
