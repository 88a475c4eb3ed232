"""Heads: energies and, for direct models, forces from the atoms' embeddings. Axes as in `transip.model`."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch, segment_mean
from transip.model.backbone import Encoded


def mlp_head(width: int, outputs: int) -> nn.Sequential:
    """A two-layer MLP whose output starts at zero."""
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)


class EnergyHead(nn.Module):
    """Energy of each atom from its embedding."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = mlp_head(width, 1)

    def forward(self, encoded: Encoded) -> Float[Tensor, "atoms"]:
        """Per-atom energies in units of the model's scale."""
        return self.mlp(encoded.embeddings).squeeze(-1)


class ForceHead(nn.Module):
    """Direct forces: a vector from each embedding and, with `num_rbf`, forces along the edges of near atoms."""

    def __init__(self, width: int, num_rbf: int | None):
        super().__init__()
        self.mlp = mlp_head(width, 3)
        self.edges = EdgeForceHead(width, num_rbf) if num_rbf is not None else None

    def forward(self, encoded: Encoded, batch: Batch) -> Float[Tensor, "atoms 3"]:
        """Forces in units of the model's scale per Å, with no net force on a structure."""
        forces = self.mlp(encoded.embeddings).to(batch.positions.dtype)
        if self.edges is not None:
            forces = forces + self.edges(encoded, batch)
        return forces - segment_mean(forces, batch)[batch.structure_index]


class EdgeForceHead(nn.Module):
    """Forces along the lines between near atoms, each as strong as distance and both embeddings say.

    Bonds are stiff, and their force is a steep function of one distance along one line: read off the pair, neither
    has to be squeezed through an atom's embedding. The magnitudes are as (little) invariant as the embeddings.
    """

    HIDDEN = 64

    def __init__(self, width: int, num_rbf: int):
        super().__init__()
        self.sender_proj = nn.Linear(width, self.HIDDEN, bias=False)
        self.receiver_proj = nn.Linear(width, self.HIDDEN)
        self.rbf_proj = nn.Linear(num_rbf, self.HIDDEN, bias=False)
        self.magnitude = nn.Linear(self.HIDDEN, 1, bias=False)
        nn.init.zeros_(self.magnitude.weight)

    def forward(self, encoded: Encoded, batch: Batch) -> Float[Tensor, "atoms 3"]:
        """Sums over the neighbours of each atom, in units of the model's scale per Å."""
        pairs = encoded.pairs
        assert pairs is not None and pairs.neighbors is not None
        blocks, neighbors = pairs.blocks, pairs.neighbors
        embeddings = blocks.to_blocks(encoded.embeddings)
        senders = blocks.gather_neighbors(blocks.to_rows(self.sender_proj(embeddings)))
        hidden = senders + self.receiver_proj(embeddings)[:, :, None] + self.rbf_proj(neighbors.rbf)
        magnitude = self.magnitude(functional.silu(hidden)).squeeze(-1) * neighbors.envelope
        return blocks.from_blocks((magnitude[:, :, None] * neighbors.directions).sum(3))
