"""eSEN / eSCN-MD of fairchem-core: forces are an output.

The package's direct-force OMol configuration (K4L2, AdamW 8e-4) with half its layers and a quarter of its channels, a
size for a CPU, and the rate that is best for it in twelve minutes.
"""

from functools import partial

import torch
from fairchem.core.datasets.atomic_data import AtomicData
from fairchem.core.models.uma.escn_md import Linear_Force_Head, MLP_Energy_Head, eSCNMDBackbone

from benchmarks.peers.structures import CUTOFF, Batch

PACKAGE = "fairchem-core"
FORCES = "direct"
OPTIMIZER = partial(torch.optim.AdamW, lr=8e-3, weight_decay=1e-3)


def atomic_data(batch: Batch) -> AtomicData:
    """The batch as fairchem's: edges from the neighbour to the atom, no periodicity."""
    structures, edges = len(batch.counts), batch.edges.shape[1]
    return AtomicData(
        pos=batch.positions,
        atomic_numbers=batch.numbers,
        cell=torch.eye(3).expand(structures, 3, 3),
        pbc=torch.zeros(structures, 3, dtype=torch.bool),
        natoms=batch.counts,
        edge_index=batch.edges.flip(0),
        cell_offsets=torch.zeros(edges, 3),
        nedges=batch.edge_counts,
        charge=batch.charge,
        spin=batch.spin,
        fixed=torch.zeros_like(batch.numbers),
        tags=torch.zeros_like(batch.numbers),
        batch=batch.structure,
        sid=[""] * structures,
        dataset=["omol"] * structures,
    )


class ESEN(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = eSCNMDBackbone(
            sphere_channels=width,
            hidden_channels=width,
            edge_channels=width,
            lmax=2,
            mmax=2,
            num_layers=2,
            num_distance_basis=64,
            ff_type="spectral",
            chg_spin_emb_type="rand_emb",
            cs_emb_grad=True,
            cutoff=CUTOFF,
            direct_forces=True,
            otf_graph=False,
            use_dataset_embedding=False,
        )
        self.energy, self.forces = MLP_Energy_Head(self.backbone), Linear_Force_Head(self.backbone)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        data = atomic_data(batch)
        embedding = self.backbone(data)
        return self.energy(data, embedding)["energy"].float(), self.forces(data, embedding)["forces"]


def build(elements: list[int], neighbours: float, width: int = 32) -> torch.nn.Module:
    return ESEN(width)
