"""Distance bias of attention: per head, a learned function of distance, added to the logits.

Axes as in `transip.model`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.model.radial import GaussianBasis

RBF_RANGE = (0.0, 8.0, 32)  # Å, Å, Gaussians; at larger distances the bias is the slope alone


class DistanceBias(nn.Module):
    """What one layer learns: a weight for each Gaussian, and a slope that makes some heads local at the start."""

    def __init__(self, heads: int):
        super().__init__()
        self.rbf_proj = nn.Linear(RBF_RANGE[-1], heads, bias=False)
        nn.init.zeros_(self.rbf_proj.weight)
        self.slope = nn.Parameter(torch.logspace(math.log10(0.1), math.log10(5.0), heads))  # 1/Å


def distance_biases(
    layers: Sequence[DistanceBias], basis: GaussianBasis, lengths: Float[Tensor, "*pairs"]
) -> Float[Tensor, "L H *pairs"]:
    """Biases of all layers at distances in Å, from one product of matrices."""
    weights = torch.cat([layer.rbf_proj.weight for layer in layers])
    slopes = torch.cat([layer.slope for layer in layers])
    flat, dtype = lengths.flatten(), lengths.dtype
    biases = torch.addmm(-slopes.to(dtype)[:, None] * flat, weights.to(dtype), basis(flat).T)
    return biases.view(len(layers), -1, *lengths.shape)
