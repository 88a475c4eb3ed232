"""Coordinates as rotary phases: how a Transformer without a graph sees where atoms are.

Head h owns frequency vectors w_hf ∈ R³ (rad/Å). Atom i turns feature pair f of head h by the angle
w_hf · x_i. Turning queries and keys makes attention logits depend on displacements only (RoFormer,
arXiv 2104.09864, in three dimensions). Turning the values as well, and turning the attention output back,
lets atom i receive v_j turned by w · (x_j − x_i): directions reach the value path and translation
invariance stays exact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Shape suffixes: B structures, N padded atoms, H heads, K features of a head, for K / 2 frequencies.
HeadFeatures = Float[Tensor, "B N *kinds H K"]


class Phases(NamedTuple):
    """Cosines and sines as `turn` needs them: of every angle, twice, the first time −sin."""

    cos: Float[Tensor, "B N H K"]
    sin: Float[Tensor, "B N H K"]


class RotaryCoordinates(nn.Module):
    """Learned frequency vectors: random directions, lengths log-spaced between two bounds in every head."""

    def __init__(self, heads: int, frequencies: int, shortest: float, longest: float):
        super().__init__()
        directions = nn.functional.normalize(torch.randn(heads, frequencies, 3), dim=-1)
        lengths = torch.logspace(0, 1, frequencies, base=longest / shortest) * shortest
        self.frequencies = nn.Parameter(directions * lengths[:, None])


def all_phases(blocks: Sequence[RotaryCoordinates], positions: Float[Tensor, "B N 3"]) -> list[Phases]:
    """Phases of each block, found together.

    Angles are in float32 or better whatever autocast says: at 60 rad bfloat16 is off by 0.25 rad.
    """
    with torch.autocast(positions.device.type, enabled=False):
        frequencies = torch.stack([block.frequencies for block in blocks]).to(positions.dtype)
        angles = (positions @ frequencies.flatten(0, 2).T).unflatten(-1, frequencies.shape[:3])
        cos, sin = angles.cos(), angles.sin()
        both = torch.cat([cos, cos], -1).unbind(2), torch.cat([-sin, sin], -1).unbind(2)
    return [Phases(*block) for block in zip(*both, strict=True)]


def turn(features: HeadFeatures, phases: Phases) -> HeadFeatures:
    """Turn feature pairs (f, f + F) by the phases."""
    swapped = features.roll(features.shape[-1] // 2, -1)
    return torch.addcmul(features * phases.cos, swapped, phases.sin).to(features.dtype)


def turn_back(features: HeadFeatures, phases: Phases) -> HeadFeatures:
    """Inverse of `turn`."""
    swapped = features.roll(features.shape[-1] // 2, -1)
    return torch.addcmul(features * phases.cos, swapped, phases.sin, value=-1).to(features.dtype)
