"""A backbone of somebody else: everything that it takes is in this file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from transip.batch import Batch, centered, segment_mean
from transip.config import ModelSettings
from transip.model.backbone import Encoded
from transip.structure import MAX_ATOMIC_NUMBER


class MeanField(nn.Module):
    """Each atom sees its own position and the mean over its molecule, layer by layer."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.width, self.depth = settings.width, settings.depth
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, self.width)
        self.positions = nn.Linear(3, self.width)
        self.layers = nn.ModuleList(nn.Linear(2 * self.width, self.width) for _ in range(self.depth))

    def forward(self, batch: Batch, positions: Tensor, cell: Tensor | None, layers: Sequence[int]) -> Encoded:
        """Molecules only."""
        x = self.elements(batch.numbers) + self.positions(centered(positions, batch)).sin()
        hidden_states = []
        for layer in self.layers:
            mean = segment_mean(x, batch)[batch.structure_index]
            x = x + nn.functional.silu(layer(torch.cat([x, mean], -1)))
            hidden_states.append(x)
        return Encoded(x, tuple(hidden_states[layer] for layer in layers))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """The matrices of the layers."""
        for layer in self.layers:
            yield layer.weight
