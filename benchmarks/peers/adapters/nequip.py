"""NequIP of nequip: forces are the energy's gradient.

l 1 with parity and 32 features are the package's defaults, three layers its recommendation ("3-5 to work best").
"""

from functools import partial

import torch
from nequip.data import AtomicDataDict
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

from benchmarks.peers.structures import CUTOFF, Batch

PACKAGE = "nequip"
FORCES = "conservative"
OPTIMIZER = partial(torch.optim.Adam, lr=0.01)


class NequIP(torch.nn.Module):
    def __init__(self, elements: list[int], neighbours: float, width: int, compile_mode: str) -> None:
        super().__init__()
        self.register_buffer("elements", torch.tensor(elements))
        self.model = NequIPGNNModel(
            seed=torch.initial_seed() % 2**32,
            model_dtype="float32",
            type_names=[f"Z{z}" for z in elements],
            r_max=CUTOFF,
            num_layers=3,
            l_max=1,
            num_features=width,
            avg_num_neighbors=neighbours,
            per_type_energy_scales=1.0,
            per_type_energy_shifts=0.0,
            compile_mode=compile_mode,
        )

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        results = self.model(
            {
                AtomicDataDict.POSITIONS_KEY: batch.positions.clone(),
                AtomicDataDict.ATOM_TYPE_KEY: torch.searchsorted(self.elements, batch.numbers),
                AtomicDataDict.EDGE_INDEX_KEY: batch.edges,
                AtomicDataDict.BATCH_KEY: batch.structure,
                AtomicDataDict.NUM_NODES_KEY: batch.counts,
            }
        )
        return results[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), results[AtomicDataDict.FORCE_KEY]


def build(elements: list[int], neighbours: float, width: int = 32, compile_mode: str = "eager") -> torch.nn.Module:
    set_global_state()
    return NequIP(elements, neighbours, width, compile_mode)
