"""Time a peer's energies and forces, and a training step, on one core with random weights. In the peer's environment:

    .venvs/painn/bin/python speed.py painn --structures STRUCTURES.npz -o result.json

Timed is the model on a batch whose neighbours are known: finding them is not counted, in the peers' favour.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import inspect
import json
import resource
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from report import provenance
from structures import Batch, Molecules

CASES = ("batch64x20", "single20", "single200", "single1000")
TRAINED = 16  # of the structures of batch64x20
REPEATS = 30
SECONDS = 60.0  # for a case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["painn", "esen", "allscaip", "mace", "nequip", "pet"])
    parser.add_argument("--structures", type=Path, required=True, help="the cases as .npz (benchmarks/throughput)")
    parser.add_argument("--compile", action="store_true", help="the package's own compilation, where there is one")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    adapter = import_module(f"adapters.{arguments.peer}")
    compiled = arguments.compile and "compile_mode" in inspect.signature(adapter.build).parameters
    options = {"compile_mode": "compile"} if compiled else {}
    arrays = np.load(arguments.structures)
    molecules = {case: Molecules(arrays, case) for case in CASES}
    elements = sorted({z for case in molecules.values() for z in case.elements})
    model = adapter.build(elements, molecules["batch64x20"].neighbours, **options)

    batches = {case: found.batch(range(len(found))) for case, found in molecules.items()}
    model.eval().requires_grad_(False)  # no gradients of weights: nobody who predicts computes them
    timings = {case: measure(lambda batch=batch: model(batch)) for case, batch in batches.items()}

    batches["train"] = molecules["batch64x20"].batch(range(TRAINED))
    model.train().requires_grad_(True)
    optimizer = adapter.OPTIMIZER(model.parameters())
    timings["train"] = measure(lambda: train_step(model, optimizer, batches["train"]))

    common = {"entry": arguments.peer, "kind": "peer", "track": "cpu-1core"}
    origin = {"forces": adapter.FORCES, "compiled": compiled, **provenance(adapter.PACKAGE)}
    rows = [
        {
            **common,
            "case": case,
            "milliseconds": 1e3 * seconds,
            "atoms_per_second": len(batches[case].numbers) / seconds,
            "peak_memory_mb": memory,
            **origin,
        }
        for case, (seconds, memory) in timings.items()
    ]
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a call after two that do not count, and the peak memory of the process meanwhile in MB."""
    reset_peak_memory()
    began = time.perf_counter()
    for _ in range(2):
        call()
    times: list[float] = []
    while len(times) < REPEATS and (not times or time.perf_counter() - began + times[-1] < SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), peak_memory()


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    energy, forces = model(batch)
    loss = energy.abs().mean() + torch.linalg.vector_norm(forces, dim=-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def reset_peak_memory() -> None:
    """Linux forgets a process's peak when asked; elsewhere the peak is that of all cases so far."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """MB of the whole process, libraries included."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(next(x for x in status.read_text().splitlines() if x.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
