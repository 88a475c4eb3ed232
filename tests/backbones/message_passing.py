"""A backbone that is no part of transip: invariant message passing in the manner of SchNet, in one file.

All that transip asks of it is the `Backbone` protocol.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model.backbone import Encoded

CUTOFF = 4.0  # Å


class MessagePassing(nn.Module):
    """h_i ← h_i + MLP(Σ_j h_j ⊙ filter(r_ij)) over the atoms j of a molecule within the cutoff."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.width, self.depth = settings.width, settings.depth
        self.element = nn.Embedding(100, self.width)
        self.charge = nn.Embedding(21, self.width)
        self.filters = nn.ModuleList(nn.Linear(8, self.width, bias=False) for _ in range(self.depth))
        self.updates = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(self.depth))

    def forward(
        self,
        batch: Batch,
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "structures 3 3"] | None,
        layers: Sequence[int] = (),
    ) -> Encoded:
        """See `Backbone`; molecules only."""
        assert cell is None
        same = batch.structure_index[:, None] == batch.structure_index
        near = (positions[:, None] - positions).detach().square().sum(-1) < CUTOFF**2
        receiver, sender = (same & near).fill_diagonal_(False).nonzero().unbind(1)
        distance = (positions[sender] - positions[receiver]).norm(dim=-1, keepdim=True)
        waves = (distance * (math.pi / CUTOFF) * torch.arange(1, 9, device=distance.device)).sin() / distance
        envelope = 0.5 + 0.5 * (distance * (math.pi / CUTOFF)).cos()
        hidden = self.element(batch.numbers) + self.charge(batch.charge + 10)[batch.structure_index]
        hidden_states = []
        for filter_, update in zip(self.filters, self.updates, strict=True):
            messages = hidden[sender] * filter_(waves) * envelope
            received = torch.zeros_like(hidden).index_add(0, receiver, messages)
            hidden = hidden + nn.functional.silu(update(received))
            hidden_states.append(hidden)
        return Encoded(hidden, tuple(hidden_states[layer] for layer in layers))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """The matrices between layers."""
        return (parameter for parameter in self.updates.parameters() if parameter.dim() == 2)
