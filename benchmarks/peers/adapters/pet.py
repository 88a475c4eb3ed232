"""PET of metatrain: a Transformer over neighbourhoods, not equivariant; forces are the energy's gradient.

The package's default size (128 features, two message-passing layers of two attention layers). Its default rate is 1e-4
for 1,000 epochs, too slow for a few minutes: 5e-4 here.
"""

from functools import partial

import torch
from metatrain.pet.modules.backend import PETBackend
from metatrain.utils.architectures import get_default_hypers

from benchmarks.peers.structures import CUTOFF, Batch

PACKAGE = "metatrain"
FORCES = "conservative"
OPTIMIZER = partial(torch.optim.Adam, lr=5e-4)


class PET(torch.nn.Module):
    def __init__(self, elements: list[int]) -> None:
        super().__init__()
        settings = get_default_hypers("pet")["model"] | {"cutoff": CUTOFF}
        self.width = float(settings["cutoff_width_adaptive"])
        self.backend = PETBackend(settings, elements)
        self.backend.add_output("energy", {"energy": [1]})

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        positions = batch.positions.clone().requires_grad_()
        cells = torch.zeros(len(batch.counts), 3, 3)
        shifts = torch.zeros(batch.edges.shape[1], 3, dtype=torch.int64)
        data = self.backend.preprocess(
            positions, *batch.edges, batch.numbers, cells, shifts, batch.structure, self.width
        )
        features = self.backend.calculate_features(data)
        predictions, *_ = self.backend.predict(*features, data, cells, batch.structure, ["energy"])
        atoms = predictions["energy"][0].squeeze(-1)
        energy = torch.zeros(len(batch.counts)).index_add(0, batch.structure, atoms)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=self.training)
        return energy, -gradient


def build(elements: list[int], neighbours: float) -> torch.nn.Module:
    return PET(elements)
