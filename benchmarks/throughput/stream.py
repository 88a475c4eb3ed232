"""`transip predict` over a long file: is memory constant, and how much of the batched rate is left?

    python benchmarks/throughput/stream.py --molecules 100000 --forces gradient

Makes an extxyz file of molecules from data/organics.pack (over and over, without labels), predicts it with a model of
random weights, and compares atoms per second of processor time with those of the model alone on the same molecules in
the same batches, prepared, before and after. Memory is the most that the process held in each tenth of the time.
Leaves a row in benchmarks/throughput/results/stream.json; those of other models and forces stay.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from ase.io.extxyz import write_extxyz

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ours import model_of

from hardware import memory_mb, processor
from transip.batch import Batch
from transip.calculators.ase import TransIPCalculator
from transip.calculators.inference import CHUNK, INFERENCE
from transip.calculators.predict import predict_file
from transip.data.dataset import Dataset
from transip.data.sampler import batches_in_order
from transip.files import read_json, write_json
from transip.memory import keep_freed_memory
from transip.model.files import save_model
from transip.model.potential import Potential
from transip.structure import Structure

RESULT = Path(__file__).parent / "results" / "stream.json"
PERIOD = 0.1  # s between two looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=100_000)
    parser.add_argument("--entry", choices=["transip-S", "transip-XS"], default="transip-S")
    parser.add_argument("--forces", choices=["direct", "gradient"], default="direct")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as `transip predict` does
    data = Dataset.open(["data/organics.pack"])
    model = model_of(arguments.entry, arguments.forces).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        source = Path(folder) / "in.extxyz"
        with source.open("w", encoding="utf-8") as handle:
            for structure in molecules(data, arguments.molecules):
                write_extxyz(handle, [structure.to_atoms()])
        alone = list(molecules(data, CHUNK))
        before = batched_rate(model, alone)
        busy, memory = time.process_time(), Memory()
        with memory:
            calculator = TransIPCalculator(Path(folder) / "model", unseen="ignore")
            found = predict_file(calculator, source, Path(folder) / "out.extxyz", progress=False)
        rate = found["atoms"] / (time.process_time() - busy)
        batched = (before + batched_rate(model, alone)) / 2
    seen = memory.tenths()
    result = {
        "entry": arguments.entry,
        "kind": "ours",
        "track": "cpu-1core",
        "case": "stream",
        "forces": arguments.forces,
        "compiled": False,
        "molecules": found["structures"],
        "atoms": found["atoms"],
        "atoms_per_second": rate,
        "batched_atoms_per_second": batched,
        "share_of_batched_rate": rate / batched,
        "wall_seconds": found["seconds"],
        "memory_mb": seen,
        "memory_spread": (max(seen) - min(seen)) / (max(seen) + min(seen)),  # ±, as a share
        "hardware": f"one core of {processor()}",
        "command": shlex.join(["python", *sys.argv]),
        "versions": {name: version(name) for name in ("transip", "torch", "numpy", "ase")},
    }
    known = read_json(arguments.output) if arguments.output.exists() else []
    others = [row for row in known if (row["entry"], row["forces"]) != (arguments.entry, arguments.forces)]
    write_json(arguments.output, [*others, result])
    print(json.dumps(result, indent=1))


def molecules(data: Dataset, number: int) -> Iterator[Structure]:
    return (data.structure(i % len(data)) for i in range(number))


def batched_rate(model: Potential, structures: list[Structure]) -> float:
    """Atoms per second of processor time through the model alone, after a first batch that does not count."""
    counts = np.array([len(structure) for structure in structures])
    batches = [Batch.collate([structures[i] for i in chosen]) for chosen in batches_in_order(counts, INFERENCE)]
    with torch.no_grad():
        model(batches[0])
        busy = time.process_time()
        for batch in batches:
            model(batch)
    return float(counts.sum()) / (time.process_time() - busy)


class Memory(threading.Thread):
    """Looks at this process's memory from time to time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended, self._seen = threading.Event(), [memory_mb()]

    def run(self) -> None:
        while not self._ended.wait(PERIOD):
            self._seen.append(memory_mb())

    def tenths(self) -> list[float]:
        """MB, the most in each tenth of the time."""
        return [max(part) for part in np.array_split(self._seen, 10)]

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


if __name__ == "__main__":
    main()
