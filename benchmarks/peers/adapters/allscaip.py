"""AllScAIP of fairchem-core: attention among all atoms, not equivariant; forces are an output.

The package's small configuration (sm_NeAnNoSi, AdamW 8e-4) with half its layers and 64 of its 512 channels.
"""

from functools import partial

import torch
from fairchem.core.models.allscaip.AllScAIP import AllScAIPBackbone, AllScAIPDirectForceHead, AllScAIPEnergyHead

from benchmarks.peers.adapters.esen import atomic_data
from benchmarks.peers.structures import CUTOFF, Batch

PACKAGE = "fairchem-core"
FORCES = "direct"
OPTIMIZER = partial(torch.optim.AdamW, lr=8e-4, weight_decay=1e-3)


class AllScAIP(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = AllScAIPBackbone(
            num_layers=3,
            hidden_size=64,
            atten_name="memory_efficient",
            atten_num_heads=4,
            freequency_list=[5, 3, 1, 2, 5],  # a head's 16 features over l = 0 to 4, as the default shares out 64
            edge_distance_expansion_size=64,
            max_num_elements=110,
            max_radius=CUTOFF,
            knn_k=30,
            direct_forces=True,
            regress_forces=True,
            use_compile=False,
            use_padding=False,
            max_atoms=0,  # both are of padding only
            max_batch_size=0,
        )
        self.energy, self.forces = AllScAIPEnergyHead(self.backbone), AllScAIPDirectForceHead(self.backbone)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        data = atomic_data(batch)  # the model finds neighbours itself
        embedding = self.backbone(data)
        return self.energy(data, embedding)["energy"], self.forces(data, embedding)["forces"]


def build(elements: list[int], neighbours: float) -> torch.nn.Module:
    return AllScAIP()
