"""`transip predict` over a long file: is memory constant, and how much of the batched rate is left?

    python -m benchmarks.throughput.stream --molecules 100000 --forces conservative

Makes an extxyz file of molecules from data/organics.pack (over and over, without labels), predicts it with a model of
random weights, and compares atoms per second of CPU time with those of the model alone on prepared batches of the same
molecules, before and after. Memory is the most that the process held in each tenth of the time.
The record ENTRY/stream/FORCES goes into benchmarks/throughput/results.jsonl.
"""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase.io.extxyz import write_extxyz

from benchmarks.common.hardware import memory_mb
from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from benchmarks.throughput.ours import model_of
from transip.batch import Batch
from transip.data.dataset import Dataset
from transip.data.sampler import sorted_batches
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import CHUNK, INFERENCE_LIMITS, MAX_PAIRS, predict_file
from transip.memory import tune_malloc
from transip.model.files import save_model
from transip.model.potential import Potential
from transip.structure import Structure

PERIOD = 0.1  # s between two looks at the memory


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--molecules", type=int, default=100_000)
    parser.add_argument("--entry", choices=["transip-S", "transip-XS"], default="transip-S")
    parser.add_argument("--forces", choices=["direct", "conservative"], default="direct")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()  # as `transip predict` does
    data = Dataset.open(["data/organics.pack"])
    model = model_of(arguments.entry, arguments.forces).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        source = Path(folder) / "in.extxyz"
        with source.open("w", encoding="utf-8") as handle:
            for structure in molecules(data, arguments.molecules):
                write_extxyz(handle, [structure.to_atoms()])
        batches = prepared_batches(list(molecules(data, CHUNK)))
        before, memory, busy = rate_of(model, batches), Memory(), time.process_time()
        with memory:
            calculator = TransIPCalculator(Path(folder) / "model", unseen="ignore")
            found = predict_file(calculator, source, Path(folder) / "out.extxyz", progress=False)
        rate = found["atoms"] / (time.process_time() - busy)
    seen, batched = memory.tenths(), (before + rate_of(model, batches)) / 2
    result = {
        "name": f"{arguments.entry}/stream/{arguments.forces}",
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
        "memory_mb": seen,
        "memory_spread": (max(seen) - min(seen)) / (max(seen) + min(seen)),  # ±, as a share
        **provenance("ase"),
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(result, indent=1))


def molecules(data: Dataset, number: int) -> Iterator[Structure]:
    return (data[i % len(data)] for i in range(number))


def prepared_batches(structures: list[Structure]) -> list[Batch]:
    """The batches in which `transip predict` would take the structures."""
    counts = np.array([len(structure) for structure in structures])
    return [
        Batch.collate([structures[i] for i in chosen]) for chosen in sorted_batches(counts, INFERENCE_LIMITS, MAX_PAIRS)
    ]


@torch.no_grad()
def rate_of(model: Potential, batches: list[Batch], repeats: int = 3) -> float:
    """Atoms per second of CPU time of the model alone; the first batch has been through it before."""
    model(batches[0])
    busy = time.process_time()
    for batch in repeats * batches:
        model(batch)
    return repeats * sum(batch.num_atoms for batch in batches) / (time.process_time() - busy)


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
