"""Time a peer's energies and forces, and a training step, on one core with random weights. In the peer's environment:

    benchmarks/peers/.venvs/painn/bin/python -m benchmarks.peers.speed painn --structures STRUCTURES.npz -o result.json

Timed is the model on a batch whose neighbours are known: finding them is not counted, in the peers' favour. Times are
those of benchmarks/common/hardware.py; each case's peak memory is the whole process's, libraries included.

With --liquid, that one system of thousands of atoms is timed instead, with the model as its package deploys it for
simulations: on a prepared list of neighbours and, `calculator_…`, through its ASE calculator, list included.
"""

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ase import Atoms

from benchmarks.common.hardware import measure, measure_moving
from benchmarks.common.records import argument_parser, provenance
from benchmarks.peers.structures import Batch, Molecules

CASES = ("single20", "single200", "single1000", "batch64x20")  # memory that one has used stays with the next
TRAINED = 16  # of the structures of batch64x20
SIZES = {"esen": {"width": 64}}  # twelve minutes' training is best with fewer, which is not what is run afterwards
JUMP = 2.0  # Å that the atoms of a liquid move, so that no list of neighbours can be used again
PEERS = ["painn", "esen", "allscaip", "mace", "nequip", "pet"]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--structures", type=Path, required=True, help="the cases as .npz (benchmarks/throughput)")
    parser.add_argument("--compile", action="store_true", help="the package's own compilation; an error without one")
    parser.add_argument("--liquid", help="this system instead, with the deployed model")
    parser.add_argument("--repeats", type=int, default=30, help="at most so many, of each case")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the repeats of each case")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    adapter = import_module(f"benchmarks.peers.adapters.{arguments.peer}")
    effort = {"repeats": arguments.repeats, "seconds": arguments.seconds}
    arrays = np.load(arguments.structures)
    if arguments.liquid:
        row = measure_liquid(adapter, arrays, arguments.liquid, effort)
        row |= {"entry": arguments.peer, "case": arguments.liquid, **provenance(adapter.PACKAGE)}
        arguments.output.write_text(json.dumps([row], indent=2) + "\n")
        return
    if arguments.compile and "compile_mode" not in inspect.signature(adapter.build).parameters:
        parser.error(f"{arguments.peer} has no compilation of its own")
    options = SIZES.get(arguments.peer, {}) | ({"compile_mode": "compile"} if arguments.compile else {})
    molecules = {case: Molecules(arrays, case) for case in CASES}
    elements = sorted({z for case in molecules.values() for z in case.elements})
    model = adapter.build(elements, molecules["batch64x20"].neighbours, **options)

    batches = {case: found.batch(range(len(found))) for case, found in molecules.items()}
    model.eval().requires_grad_(False)  # no gradients of weights: nobody who predicts computes them
    found = {case: measure(lambda batch=batch: model(batch), **effort) for case, batch in batches.items()}

    batches["train"] = molecules["batch64x20"].batch(range(TRAINED))
    model.train().requires_grad_(True)
    optimizer = adapter.OPTIMIZER(model.parameters())
    found["train"] = measure(lambda: train_step(model, optimizer, batches["train"]), **effort)

    common = {"entry": arguments.peer, "kind": "peer", "track": "cpu-1core"}
    origin = {"forces": adapter.FORCES, "compiled": arguments.compile, **provenance(adapter.PACKAGE)}
    rows = [
        {
            **common,
            "case": case,
            "atoms": len(batches[case].numbers),
            "atoms_per_second": 1e3 * len(batches[case].numbers) / measured["milliseconds"],
            **measured,
            "matmul_peak_share": None,
            **origin,
        }
        for case, measured in found.items()
    ]
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def measure_liquid(adapter: ModuleType, arrays: Mapping[str, Any], case: str, effort: dict[str, Any]) -> dict[str, Any]:
    """One row: the deployed model on a prepared list of neighbours, and its calculator."""
    numbers, cell = arrays[f"{case}_numbers"], arrays.get(f"{case}_cell")
    atoms = Atoms(numbers, arrays[f"{case}_positions"], cell=cell, pbc=cell is not None)
    atoms.calc = adapter.deployed(sorted({int(z) for z in numbers}))
    data = atoms.calc.atoms_to_data(atoms)
    found = measure(lambda: atoms.calc.call_model(data), **effort)
    measured = measure_moving(atoms, JUMP, **effort)
    return {
        "kind": "peer",
        "track": "cpu-1core",
        "atoms": len(atoms),
        "forces": adapter.FORCES,
        "compiled": True,
        "atoms_per_second": 1e3 * len(atoms) / found["milliseconds"],
        **found,
        **{f"calculator_{key}": value for key, value in measured.items()},
    }


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    energy, forces = model(batch)
    loss = energy.abs().mean() + torch.linalg.vector_norm(forces, dim=-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
