"""Other backbones of the study: message passing on plain displacement vectors, and the plain Transformer.

Both meet the `Backbone` protocol, so `train(recipe, folder, backbone=MessagePassing)` trains them with the loop and the
losses of the built-in network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model.backbone import Encoded
from transip.model.potential import rms_normalize
from transip.model.transformer import Transformer
from transip.structure import MAX_ATOMIC_NUMBER

CUTOFF = 5.0  # Å
NUM_RBF = 32  # Gaussians in the distance, for each of 1, x/r, y/r, z/r

Edges = Int64[Tensor, "edges"]


class MessagePassing(nn.Module):
    """Embeddings of the atoms of neutral molecules, from messages between atoms nearer than 5 Å.

    No rotation symmetry is built in: the Cartesian components of displacements enter.

    Args:
        settings: of which the width is read.
        depth: number of interactions.
    """

    def __init__(self, settings: ModelSettings, depth: int = 3):
        super().__init__()
        self.width, self.depth = settings.width, depth
        self.embed = nn.Embedding(MAX_ATOMIC_NUMBER + 1, self.width)
        self.interactions = nn.ModuleList(Interaction(self.width) for _ in range(depth))
        self.register_buffer("centers", torch.linspace(0, CUTOFF, NUM_RBF), persistent=False)

    def forward(self, batch: Batch, positions: Float[Tensor, "atoms 3"], cell: None, layers: Sequence[int]) -> Encoded:
        """Encode the atoms of `batch`, which has no cells."""
        receiver, sender = edges(batch, positions)
        vectors = positions[sender] - positions[receiver]
        lengths = vectors.norm(dim=-1, keepdim=True)
        rbf = (-0.5 * ((lengths - self.centers) * (NUM_RBF - 1) / CUTOFF).square()).exp()
        directions = torch.cat([torch.ones_like(lengths), vectors / lengths], -1)
        edge_features = (directions[..., None] * rbf[:, None]).flatten(1)
        envelope = 0.5 + 0.5 * (lengths * (math.pi / CUTOFF)).cos()
        hidden, states = self.embed(batch.numbers), []
        for interaction in self.interactions:
            hidden = interaction(hidden, edge_features, envelope, receiver, sender)
            states.append(hidden)
        return Encoded(rms_normalize(hidden), tuple(states[layer] for layer in layers))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """None: all parameters are AdamW's."""
        return iter(())


class Interaction(nn.Module):
    """h_i ← h_i + update(h_i, Σ_j message(h_i, h_j, r_ij)), the sum over the atoms within the cutoff.

    The displacement r_ij acts on what the neighbour sends as a filter (as in SchNet, but not rotation-invariant).
    """

    def __init__(self, width: int):
        super().__init__()
        self.receiver_proj, self.sender_proj = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.edge_proj = nn.Linear(4 * NUM_RBF, width, bias=False)
        self.message = nn.Linear(width, width)
        self.update = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(
        self,
        hidden: Float[Tensor, "atoms width"],
        edge_features: Float[Tensor, "edges features"],
        envelope: Float[Tensor, "edges 1"],
        receiver: Edges,
        sender: Edges,
    ) -> Float[Tensor, "atoms width"]:
        normed = rms_normalize(hidden)
        mixed = self.receiver_proj(normed)[receiver] + self.sender_proj(normed)[sender] * self.edge_proj(edge_features)
        messages = envelope * functional.silu(self.message(functional.silu(mixed)))
        received = torch.zeros_like(hidden).index_add(0, receiver, messages)
        return hidden + self.update(torch.cat([normed, received], -1))


def edges(batch: Batch, positions: Float[Tensor, "atoms 3"]) -> tuple[Edges, Edges]:
    """(receiver, sender) of all pairs of atoms of one molecule that are nearer than the cutoff."""
    same = batch.structure_index[:, None] == batch.structure_index
    near = same & (torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist") < CUTOFF)
    receiver, sender = near.fill_diagonal_(False).nonzero().unbind(1)
    return receiver, sender


class PlainSettings(ModelSettings):
    """The preset `paper`, with the locality and the rotated values without which it finds no forces in 1,000 steps."""

    @property
    def rotary_values(self) -> bool:
        return True

    @property
    def distance_bias(self) -> bool:
        return True


def plain_backbone(settings: ModelSettings) -> Transformer:
    """The paper's backbone with both additions."""
    return Transformer(PlainSettings(**settings.model_dump()))
