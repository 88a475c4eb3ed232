"""Speed of energies and forces, and of training, on one core: ours, the peers and GFN2-xTB, on the same structures.

    python benchmarks/throughput/run.py ours reference painn esen mace nequip
    python benchmarks/throughput/run.py growth

Weights are random (speed does not depend on them). Each row is the median over repeats after warming up; peak memory
is that of a fresh process for the case. Results go to benchmarks/throughput/results/, one list of objects per entry.
Run nothing else beside it.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # one core, whatever the machine has

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from transip.batch import Batch
from transip.config import ModelSettings, ObjectiveSettings, OptimizerSettings
from transip.data.dataset import Dataset
from transip.files import write_json
from transip.labels.methods import GFN2
from transip.model.potential import Potential
from transip.rotations import random_rotations
from transip.structure import MAX_ATOMIC_NUMBER, Structure
from transip.training.losses import Objective, Share
from transip.training.optim import Optimizers

HERE = Path(__file__).parent
RESULTS, PEERS = HERE / "results", HERE.parent / "peers"
STRUCTURES = Path("data/throughput.npz")
CASES = ("batch64x20", "single20", "single200", "single1000", "train")
GROWTH = (10, 30, 100, 300, 1000, 3000, 10000, 20000)
SPACING = 7.0  # Å between the centres of 20-atom molecules in the clusters of 200 and 1,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", help="ours, reference (GFN2-xTB), growth, or a peer")
    parser.add_argument("--case", nargs=4, metavar=("CASE", "FORCES", "COMPILED", "ATOMS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.case:
        case, forces, compiled, atoms = arguments.case
        print(json.dumps(measure(case, forces, compiled == "True", int(atoms))))
        return
    if not STRUCTURES.exists():
        np.savez(STRUCTURES, **export())
    for entry in arguments.entries:
        if entry == "ours":
            combinations = [(c, f, k) for c in CASES for f in ("direct", "gradient") for k in (False, True)]
            rows = [in_fresh_process(case, forces, compiled) for case, forces, compiled in combinations]
        elif entry == "growth":
            rows = [in_fresh_process("growth", "direct", False, atoms) for atoms in GROWTH]
        elif entry == "reference":
            rows = [reference(case) for case in CASES if case.startswith("single") and case != "single1000"]
        else:
            rows = peer(entry)
        target = RESULTS / f"{entry}.json"
        write_json(target, rows)
        for row in rows:
            print(f"{entry:10} {row['case']:11} {row['forces']:9} {row['milliseconds']:10.2f} ms", flush=True)


# ------------------------------------------------------------------------------------------ structures


def export() -> dict[str, np.ndarray]:
    """64 organic molecules of 20 atoms, one of them alone, and clusters of 200 and 1,000 atoms of such molecules."""
    data = Dataset.open(["data/organics.pack"])
    alike = [data.structure(int(i)) for i in np.flatnonzero(data.counts == 20)[:64]]
    cases = {
        "batch64x20": alike,
        "single20": alike[:1],
        "single200": [cluster(alike, 200)],
        "single1000": [cluster(alike, 1000)],
        "train": alike[:16],
    }
    arrays: dict[str, np.ndarray] = {}
    for case, structures in cases.items():
        arrays[f"{case}_numbers"] = np.concatenate([s.numbers for s in structures])
        arrays[f"{case}_positions"] = np.concatenate([s.positions for s in structures])
        arrays[f"{case}_counts"] = np.array([len(s) for s in structures])
    return arrays


def cluster(molecules: list[Structure], atoms: int) -> Structure:
    """Molecules of 20 atoms on a cubic lattice."""
    copies = -(-atoms // 20)
    side = int(np.ceil(copies ** (1 / 3)))
    places = SPACING * np.stack(np.unravel_index(np.arange(copies), (side, side, side)), -1)
    chosen = [molecules[k % len(molecules)] for k in range(copies)]
    positions = [m.positions - m.positions.mean(0) + place for m, place in zip(chosen, places, strict=True)]
    numbers = np.concatenate([m.numbers for m in chosen])[:atoms]
    parity = int(numbers.sum()) % 2
    return Structure(numbers, np.concatenate(positions)[:atoms], 0, 1 + parity)


def structures_of(case: str) -> list[Structure]:
    arrays = np.load(STRUCTURES)
    counts = arrays[f"{case}_counts"]
    numbers, positions = (np.split(arrays[f"{case}_{name}"], counts.cumsum()[:-1]) for name in ("numbers", "positions"))
    return [Structure(z, x, 0, 1 + int(z.sum()) % 2) for z, x in zip(numbers, positions, strict=True)]


# ------------------------------------------------------------------------------------------ ours


def in_fresh_process(case: str, forces: str, compiled: bool, atoms: int = 0) -> dict[str, object]:
    """Measure one row where nothing else has used memory."""
    command = [sys.executable, __file__, "ours", "--case", case, forces, str(compiled), str(atoms)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    return {**row, "command": shlex.join(["python", *sys.argv])}


def measure(case: str, forces: str, compiled: bool, atoms: int) -> dict[str, object]:
    """One row for the default model of size S."""
    torch.manual_seed(0)
    model = Potential(ModelSettings(forces=forces), torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64), 1.0)
    structures = [cluster(structures_of("batch64x20"), atoms)] if case == "growth" else structures_of(case)
    batch = Batch.collate(structures)
    before = memory_mb()
    run = training_step(model, batch, compiled) if case == "train" else inference(model, batch, compiled)
    with FlopCounterMode(display=False) as counter:
        run()
    seconds = timed(run, repeats=3 if len(batch.numbers) > 500 else 30)
    done = len(batch.numbers)
    return {
        "entry": "transip-S",
        "kind": "ours",
        "track": "cpu-1core",
        "case": case,
        "atoms": done,
        "forces": forces,
        "compiled": compiled,
        "atoms_per_second": done / seconds,
        "milliseconds": 1e3 * seconds,
        "peak_memory_mb": memory_mb() - before,
        "matmul_peak_share": None if compiled else counter.get_total_flops() / seconds / matmul_peak(),
        "versions": {name: version(name) for name in ("transip", "torch", "numpy")},
    }


def inference(model: Potential, batch: Batch, compiled: bool) -> Callable[[], object]:
    model.eval().requires_grad_(False)
    if compiled:
        model.compile_blocks()

    @torch.no_grad()
    def run() -> object:
        return model(batch)

    return run


def training_step(model: Potential, batch: Batch, compiled: bool) -> Callable[[], object]:
    """Forward, backward and optimiser, on one random orientation."""
    if compiled:
        model.compile_blocks()
    objective = Objective(model, ObjectiveSettings())
    optimizers = Optimizers(objective, OptimizerSettings())
    labelled = Batch(**{**vars(batch), "energy": torch.zeros(len(batch)).double(), "forces": batch.positions})
    turns = random_rotations(len(batch), torch.Generator().manual_seed(0))[None]

    def run() -> None:
        objective(labelled, turns, 0, Share(len(batch), batch.num_atoms, 0.0), 0.5).total.backward()
        optimizers.step(0.5)
        optimizers.zero_grad()

    return run


# ------------------------------------------------------------------------------------------ others


def reference(case: str) -> dict[str, object]:
    """GFN2-xTB itself, a fresh self-consistent field each time."""
    (structure,) = structures_of(case)

    def run() -> object:
        return GFN2(structure.numbers, structure.charge, structure.spin)(structure.positions)

    seconds = timed(run, repeats=1 if len(structure) > 100 else 10)
    return {
        "entry": "gfn2-xtb",
        "kind": "reference",
        "track": "cpu-1core",
        "case": case,
        "atoms": len(structure),
        "forces": "gradient",
        "compiled": False,
        "atoms_per_second": len(structure) / seconds,
        "milliseconds": 1e3 * seconds,
        "peak_memory_mb": memory_mb(),
        "matmul_peak_share": None,
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"tblite": version("tblite")},
    }


def peer(entry: str) -> list[dict[str, object]]:
    """A peer, measured inside its own environment."""
    python, target = PEERS / ".venvs" / entry / "bin" / "python", RESULTS / f"{entry}.json"
    if not python.exists():
        subprocess.run(["bash", PEERS / "environments.sh", entry], check=True)
    subprocess.run([python, PEERS / "speed.py", entry, f"--structures={STRUCTURES}", f"--output={target}"], check=True)
    return json.loads(target.read_text())


# ------------------------------------------------------------------------------------------ measuring


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds."""
    for _ in range(1 + repeats // 3):
        run()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def matmul_peak(size: int = 1024) -> float:
    """Operations a second of a large float32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / timed(lambda: a @ b, repeats=10)


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
