"""What training on OMol25 would take on 1, 8 and 64 GPUs: arithmetic, not measurements.

    python -m benchmarks.throughput.plan [--utilisation 0.3]

Counted: parameters, operations of the matrix products and saved activations, from one training step (direct forces, one
view, float32) on tensors without values; bytes of the packed store, from its columns; bytes of a checkpoint, from the
optimisers' state. Assumed, and to be replaced by measurements: everything in capitals. The record `plan` goes into
benchmarks/throughput/results.jsonl.
"""

import json
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.records import Record, argument_parser, provenance, results_file, save_results
from transip.batch import Batch
from transip.config import ModelSettings
from transip.data.columns import COLUMNS
from transip.model.potential import Potential
from transip.structure import MAX_ATOMIC_NUMBER, Structure
from transip.training.optim import muon_parameters

PEAK = 989e12  # operations/s in dense bfloat16 products of an H100 or H200 (SXM), as its maker states
BANDWIDTH = 3.35e12  # bytes/s between an H100 (SXM) and its memory, as its maker states
UTILISATION = 0.3  # of either
ACTIVATION_TRAFFIC = 4  # times that saved activations move: written and read, in either direction
EFFICIENCY = {1: 1.0, 8: 0.95, 64: 0.9}  # GPUs → share of as many single ones
IDENTIFIER = 64  # bytes
STRUCTURES = 8  # of a counted batch


@dataclass(frozen=True)
class Data:
    """A training set: its size, and epochs that show each model about 3 to 4 × 10⁸ structures (assumed)."""

    name: str
    structures: int
    mean_atoms: int
    epochs: int


DATA = (Data("OMol25 4M", 3_986_754, 55, 80), Data("OMol25 100M", 101_666_280, 50, 4))


@dataclass(frozen=True)
class Cost:
    """What one size of the default model costs: numbers, operations and bytes."""

    parameters: int
    state: int  # numbers that the optimisers keep
    flops_per_atom: float  # a training step
    bytes_per_atom: float  # kept for the backward pass

    def seconds_per_atom(self, utilisation: float) -> float:
        """On one GPU, as if products and memory traffic never overlapped."""
        return (self.flops_per_atom / PEAK + ACTIVATION_TRAFFIC * self.bytes_per_atom / BANDWIDTH) / utilisation

    @property
    def model_bytes(self) -> int:
        """model.safetensors, float32."""
        return 4 * self.parameters

    @property
    def checkpoint_bytes(self) -> int:
        """Weights, averaged weights and the optimisers' state, float32."""
        return 4 * (2 * self.parameters + self.state)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help="of peak and bandwidth; assumed")
    result = estimate(parser.parse_args().utilisation)
    save_results(results_file(__file__), [{"name": "plan", **provenance(), **result}])
    print(json.dumps(result, indent=1))


def estimate(utilisation: float) -> Record:
    """The data, what each size of model costs, and hours of training."""
    costs = {size: cost(size, DATA[0].mean_atoms) for size in ("S", "M", "L")}
    runs = []
    for data, size, gpus in product(DATA, costs, EFFICIENCY):
        rate = gpus * EFFICIENCY[gpus] / costs[size].seconds_per_atom(utilisation)  # atoms per second
        hours = data.epochs * data.structures * data.mean_atoms / rate / 3600
        run = {"data": data.name, "epochs": data.epochs, "size": size, "gpus": gpus, "atoms_per_second": rate}
        runs.append({**run, "hours": hours})
    return {
        "utilisation": utilisation,
        "data": [{**asdict(data), "pack_bytes": pack_bytes(data)} for data in DATA],
        "models": [
            {
                "size": size,
                **asdict(of_size),
                "model_bytes": of_size.model_bytes,
                "checkpoint_bytes": of_size.checkpoint_bytes,
            }
            for size, of_size in costs.items()
        ],
        "runs": runs,
    }


def pack_bytes(data: Data) -> int:
    """Size of the labelled store, from the types of its columns."""
    sizes = {name: np.dtype(kind).itemsize * int(np.prod(entry)) for name, (kind, entry) in COLUMNS.items()}
    per_atom = sum(sizes[name] for name in ("positions", "forces", "numbers"))
    per_structure = sum(sizes.values()) - per_atom - sizes["source"] + IDENTIFIER
    return data.structures * (data.mean_atoms * per_atom + per_structure)


def cost(size: str, atoms: int) -> Cost:
    """Go through one forward and backward pass over molecules of `atoms` atoms, without computing it."""
    alike = Structure(np.ones(atoms, dtype=np.int64), np.zeros((atoms, 3)), 0, 1 + atoms % 2)
    saved_activations: dict[int, int] = {}  # bytes of each storage

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved_activations[storage._cdata] = storage.nbytes()
        return tensor

    with torch._subclasses.FakeTensorMode() as mode:
        model = Potential(
            ModelSettings.model_validate({"size": size, "forces": "direct"}),
            torch.zeros(MAX_ATOMIC_NUMBER + 1).double(),
            1.0,
        )
        batch = Batch.collate(STRUCTURES * [alike])
        batch = Batch(**{key: mode.from_tensor(x) if torch.is_tensor(x) else x for key, x in vars(batch).items()})
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(save, lambda tensor: tensor):
            prediction = model(batch)
            (prediction.energy.sum() + prediction.forces.sum()).backward()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    matrices = sum(p.numel() for p in muon_parameters(model))
    return Cost(
        parameters=model.num_parameters,
        state=matrices + 2 * (model.num_parameters - matrices),  # Muon keeps one number per weight, AdamW two
        flops_per_atom=counter.get_total_flops() / batch.num_atoms,
        bytes_per_atom=sum(size for key, size in saved_activations.items() if key not in weights) / batch.num_atoms,
    )


if __name__ == "__main__":
    main()
