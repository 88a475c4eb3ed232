"""What surrounds an atom, shown to it directly: a convolution over the atoms within a few ångström.

Attention compares atoms through a few numbers per head; sharp functions of distance and direction, which bonds and
repulsion are made of, take it long to learn. Here each atom sees its neighbours as a vision Transformer's token sees
its patch. Rotation is not built in: the learned matrix mixes directions as it likes, only translation is exact.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.model.pairs import Neighbourhood, Pairs

CHANNELS = 8


class Convolution(nn.Module):
    """Each atom's view of a few hidden channels of its neighbours, read by one dense matrix that starts at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.channels = nn.Linear(width, CHANNELS, bias=False)
        self.read = nn.Linear(CHANNELS * Neighbourhood.FEATURES, width, bias=False)
        nn.init.zeros_(self.read.weight)

    def forward(self, seen: Float[Tensor, "B N D"], pairs: Pairs) -> Float[Tensor, "B n D"]:
        """Σ_j features_ij ⊗ channels_j over the atoms that are `seen`, then read."""
        channels = self.channels(seen)  # B N C
        features = pairs.neighbours.features.to(channels.dtype)
        if pairs.neighbours.atoms is None:  # one product per structure
            view = (channels.mT @ features.flatten(2)).unflatten(-1, features.shape[2:]).transpose(1, 2)
        else:
            view = torch.einsum("bmic,bmik->bick", pairs.neighbours.of(channels), features)
        return self.read(view.flatten(2))
