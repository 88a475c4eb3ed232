"""Train a peer for a number of minutes on one core and evaluate it. Runs in the peer's environment:

    benchmarks/peers/.venvs/painn/bin/python -m benchmarks.peers.train painn --data DATA.npz --minutes 12 -o result.json

One loop, loss and schedule for every peer; what a peer's users would choose (size, optimiser, learning rate) is in
adapters/NAME.py. Validation and writing results are off the clock, finding neighbours and making batches are on it.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.records import argument_parser, provenance
from benchmarks.peers.structures import Batch, Molecules, random_rotations

EMA_DECAY = 0.99
CLIP = 10.0  # norm of the gradient
WARM_UP = 0.02  # of the budget
LAST_RATE = 0.01  # of the peak
POINTS = 8  # of the curve
CURVE_STRUCTURES = 200


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("peer", choices=["painn", "esen", "allscaip", "mace", "nequip", "pet"])
    parser.add_argument("--data", type=Path, required=True, help="the packed task as .npz (benchmarks/speedrun)")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--steps", type=int, help="train for so many steps instead")
    parser.add_argument("--width", type=int, help="channels (default: the adapter's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="structures in a step")
    parser.add_argument("--energy-weight", type=float, default=2.0, help="of |ΔE|/N beside ‖ΔF‖ in the loss, in Å")
    parser.add_argument("--learning-rate", type=float, help="peak (default: the adapter's)")
    parser.add_argument("--name", default="", help="appended to the entry's name, to tell options apart")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    adapter = import_module(f"benchmarks.peers.adapters.{arguments.peer}")
    arrays = np.load(arguments.data)
    train, validation, test = (Molecules(arrays, name) for name in ("train", "validation", "test"))
    width = {} if arguments.width is None else {"width": arguments.width}
    model = adapter.build(train.elements, train.neighbours, **width)
    rate = {} if arguments.learning_rate is None else {"lr": arguments.learning_rate}
    optimizer = adapter.OPTIMIZER(model.parameters(), **rate)
    run = Run(model, optimizer, float(arrays["scale"]), arguments)
    run.train(train, validation, arguments.batch)
    result = {
        "entry": arguments.peer + arguments.name,
        "kind": "peer",
        "track": "cpu-1core",
        "seed": arguments.seed,
        **({"budget_minutes": arguments.minutes} if arguments.steps is None else {"budget_steps": arguments.steps}),
        **width,
        "train_structures": len(train),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **run.evaluate(validation),
        "test": run.evaluate(test),
        "forward_passes": run.structures_processed,
        "steps": run.steps,
        "batch": arguments.batch,
        "atoms_processed": run.atoms_processed,
        "seconds": run.seconds,
        "learning_rate": run.peaks[0],
        "energy_weight": run.energy_weight,
        "forces": adapter.FORCES,
        "curve": run.curve,
        **provenance(adapter.PACKAGE),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


class Run:
    """One training run; its clock stops while it is evaluated."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scale: float,
        arguments: argparse.Namespace,
    ):
        self.model, self.optimizer, self.scale = model, optimizer, scale
        self.average = deepcopy(model).eval().requires_grad_(False)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.budget, self.last_step = 60.0 * arguments.minutes, arguments.steps
        self.energy_weight = arguments.energy_weight
        self.generator = torch.Generator().manual_seed(arguments.seed)
        self.steps = self.structures_processed = self.atoms_processed = 0
        self.seconds = 0.0
        self.curve: list[tuple[float, float]] = []

    def train(self, train: Molecules, validation: Molecules, size: int) -> None:
        watched = min(CURVE_STRUCTURES, len(validation))
        samples = [validation.batch(range(i, min(i + size, watched))) for i in range(0, watched, size)]
        self.model.train()
        self._warm_up(train.batch(range(size)))
        for indices in self._orders(len(train), size):
            began = time.process_time()  # of this one-thread process: what else the machine does is not counted
            batch = train.batch(indices)
            batch = batch.rotated(random_rotations(size, self.generator))
            self._step(batch)
            self.seconds += time.process_time() - began
            if self._done() >= (len(self.curve) + 1) / POINTS:
                errors = [(self.predict(sample)[1] - sample.forces).abs() for sample in samples]
                self.curve.append((self.seconds, 1e3 * float(torch.cat(errors).mean())))
            if self._done() >= 1:
                return

    def _done(self) -> float:
        """Share of the budget used."""
        return self.seconds / self.budget if self.last_step is None else self.steps / self.last_step

    def _warm_up(self, batch: Batch) -> None:
        """A step that changes nothing: late imports and compilation are off the clock."""
        energy, forces = self.model(batch)
        (energy.sum() + forces.square().sum()).backward()

    def _orders(self, structures: int, size: int) -> Iterator[list[int]]:
        while True:
            order = torch.randperm(structures, generator=self.generator).tolist()
            yield from (order[i : i + size] for i in range(0, structures - size + 1, size))

    def _step(self, batch: Batch) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self._rate(self._done())
        energy, forces = self.model(batch)
        energy_error = (self.scale * energy - batch.energy).abs() / batch.atom_counts
        force_error = torch.linalg.vector_norm(self.scale * forces - batch.forces, dim=-1)
        loss = (self.energy_weight * energy_error.mean() + force_error.mean()) / self.scale
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.steps += 1
        self.structures_processed += len(batch.atom_counts)
        self.atoms_processed += len(batch.numbers)
        self._follow(min(EMA_DECAY, (1 + self.steps) / (10 + self.steps)))

    @staticmethod
    def _rate(share: float) -> float:
        """Of the peak learning rate: linear warm-up, then a cosine down to LAST_RATE, over the share of the budget."""
        cosine = (1 + math.cos(math.pi * min(share, 1.0))) / 2
        return min(1.0, (share + 1e-3) / WARM_UP) * (LAST_RATE + (1 - LAST_RATE) * cosine)

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Move the averaged weights; other state (running statistics) is copied."""
        averages, weights = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for mine, theirs in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Energies less references (structures,) in eV, and forces (atoms, 3) in eV/Å, by the averaged weights."""
        energy, forces = self.average(batch)
        return self.scale * energy.detach(), self.scale * forces.detach()

    def evaluate(self, molecules: Molecules, size: int = 64) -> dict[str, float]:
        sums = torch.zeros(4, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for start in range(0, len(molecules), size):
            batch = molecules.batch(range(start, min(start + size, len(molecules))))
            energy, forces = self.predict(batch)
            rotations = random_rotations(len(batch.atom_counts), generator)
            _, turned = self.predict(batch.rotated(rotations))
            back = batch.turn(turned, rotations.mT)
            sums += torch.stack(
                [
                    (forces - batch.forces).abs().sum() / 3,
                    functional.cosine_similarity(forces, batch.forces, dim=-1).sum(),
                    (back - forces).abs().sum() / 3 / math.sqrt(2),  # of one orientation, as ours, not of a difference
                    ((energy - batch.energy).abs() / batch.atom_counts).sum(),
                ]
            )
        force, cosine, rotation, energy_error = sums.tolist()
        atoms, structures = len(molecules.numbers), len(molecules)
        return {
            "force_mae_mev_per_angstrom": 1e3 * force / atoms,
            "energy_mae_mev_per_atom": 1e3 * energy_error / structures,
            "force_cosine": cosine / atoms,
            "force_rotation_error_mev_per_angstrom": 1e3 * rotation / atoms,
            "structures_evaluated": structures,
        }


if __name__ == "__main__":
    main()
