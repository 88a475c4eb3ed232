"""MACE of mace-torch: forces are the energy's gradient.

The package's defaults (AMSGrad 0.01, radial basis, ScaleShift) at a size for a CPU.
"""

from functools import partial

import numpy as np
import torch
from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE

from benchmarks.peers.structures import CUTOFF, Batch

from e3nn import o3  # isort: skip, after mace, which lets torch load e3nn's tables

PACKAGE = "mace-torch"
FORCES = "conservative"
OPTIMIZER = partial(torch.optim.Adam, lr=0.01, amsgrad=True, weight_decay=5e-7)


class MACE(torch.nn.Module):
    def __init__(self, elements: list[int], neighbours: float, width: int) -> None:
        super().__init__()
        self.register_buffer("elements", torch.tensor(elements))
        self.model = ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=RealAgnosticResidualInteractionBlock,
            interaction_cls_first=RealAgnosticResidualInteractionBlock,
            num_interactions=2,
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(f"{width}x0e + {width}x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(elements)),
            avg_num_neighbors=neighbours,
            atomic_numbers=elements,
            correlation=2,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        edges = batch.edges.shape[1]
        species = torch.searchsorted(self.elements, batch.numbers)
        data = {
            "positions": batch.positions.clone(),
            "node_attrs": torch.nn.functional.one_hot(species, len(self.elements)).to(batch.positions),
            "edge_index": batch.edges.flip(0),  # sender, receiver
            "shifts": torch.zeros(edges, 3),
            "unit_shifts": torch.zeros(edges, 3),
            "cell": torch.zeros(3 * len(batch.counts), 3),
            "batch": batch.structure,
            "ptr": torch.nn.functional.pad(batch.counts.cumsum(0), (1, 0)),
        }
        results = self.model(data, training=self.training)
        return results["energy"], results["forces"]


def build(elements: list[int], neighbours: float, width: int = 64) -> torch.nn.Module:
    return MACE(elements, neighbours, width)
