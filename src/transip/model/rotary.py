"""Coordinates as rotary phases: how a Transformer without a graph sees where atoms are.

Head h owns frequency vectors w_hf ∈ R³ (rad/Å). Atom i turns feature pair f of head h by the angle
w_hf · x_i. Turning queries and keys makes attention logits depend on displacements only (RoFormer,
arXiv 2104.09864, in three dimensions). Turning the values as well, and turning the attention output back,
lets atom i receive v_j turned by w · (x_j − x_i): directions reach the value path and translation
invariance stays exact.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Shape suffixes: B structures, N padded atoms, H heads, K features of a head, F = K / 2 frequencies.
HeadFeatures = Float[Tensor, "B N H K"]


class Phases(NamedTuple):
    """Cosine and sine of every angle, (B, N, H, F)."""

    cos: Float[Tensor, "B N H F"]
    sin: Float[Tensor, "B N H F"]


class RotaryCoordinates(nn.Module):
    """Learned frequency vectors: random directions, lengths log-spaced between two bounds in every head."""

    def __init__(self, heads: int, frequencies: int, shortest: float, longest: float):
        super().__init__()
        directions = nn.functional.normalize(torch.randn(heads, frequencies, 3), dim=-1)
        lengths = torch.logspace(0, 1, frequencies, base=longest / shortest) * shortest
        self.frequencies = nn.Parameter(directions * lengths[:, None])

    def forward(self, positions: Float[Tensor, "B N 3"]) -> Phases:
        """Angles in float32 or better whatever autocast says: at 60 rad bfloat16 is off by 0.25 rad."""
        with torch.autocast(positions.device.type, enabled=False):
            angles = torch.einsum("bnx,hfx->bnhf", positions, self.frequencies.to(positions.dtype))
            return Phases(angles.cos(), angles.sin())


def turn(features: HeadFeatures, phases: Phases) -> HeadFeatures:
    """Turn feature pairs (f, f + F) by the phases."""
    a, b = features.chunk(2, dim=-1)
    cos, sin = phases
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(features.dtype)


def turn_back(features: HeadFeatures, phases: Phases) -> HeadFeatures:
    """Inverse of `turn`."""
    return turn(features, Phases(phases.cos, -phases.sin))
