"""PaiNN of SchNetPack: forces are the energy's gradient.

Size and radial basis of the package's own configurations (128 features, 3 interactions, 20 Gaussians, cosine cutoff).
"""

from functools import partial
from typing import TypeVar

import torch
from torch.utils.data import dataloader

from benchmarks.peers.structures import CUTOFF, Batch

dataloader.T_co = TypeVar("T_co", covariant=True)  # schnetpack 2.1.1 imports it; torch has dropped it

# ruff: noqa: E402
import schnetpack
from schnetpack import properties
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
from schnetpack.model import NeuralNetworkPotential
from schnetpack.nn import CosineCutoff, GaussianRBF

PACKAGE = "schnetpack"
FORCES = "conservative"
OPTIMIZER = partial(torch.optim.AdamW, lr=4e-3, weight_decay=0.01)


class PaiNN(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        representation = schnetpack.representation.PaiNN(
            n_atom_basis=width,
            n_interactions=3,
            radial_basis=GaussianRBF(n_rbf=20, cutoff=CUTOFF),
            cutoff_fn=CosineCutoff(CUTOFF),
        )
        heads = [Atomwise(n_in=width, output_key="energy"), Forces()]
        self.model = NeuralNetworkPotential(representation, [PairwiseDistances()], heads)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        results = self.model(
            {
                properties.Z: batch.numbers,
                properties.R: batch.positions.clone(),
                properties.idx_m: batch.structure,
                properties.n_atoms: batch.counts,
                properties.idx_i: batch.edges[0],
                properties.idx_j: batch.edges[1],
                properties.offsets: torch.zeros(batch.edges.shape[1], 3),
            }
        )
        return results["energy"], results["forces"]


def build(elements: list[int], neighbours: float, width: int = 128) -> torch.nn.Module:
    return PaiNN(width)
