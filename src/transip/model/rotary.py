"""Rotary embeddings of coordinates (RoPE in three dimensions): how attention without a graph knows where atoms are.

Head h owns frequency vectors w_hf ∈ R³ (rad/Å). Feature pair f of head h of atom i is rotated by the angle w_hf · x_i.
Rotated queries and keys make attention logits depend on displacements only (RoFormer, arXiv 2104.09864). Where values
are rotated as well, and the attention output is rotated back, atom i receives v_j rotated by w · (x_j − x_i):
directions reach the value path and translation invariance stays exact. Axes as in `transip.model`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

HeadFeatures = Float[Tensor, "rows H F"]


class CosSin(NamedTuple):
    """Cosines and sines as `apply_rotary_emb` needs them: of every angle, twice, the first time −sin."""

    cos: Float[Tensor, "rows H F"]
    sin: Float[Tensor, "rows H F"]

    def head(self, num_rows: int) -> "CosSin":
        """Those of the first `num_rows` rows."""
        return CosSin(self.cos[:num_rows], self.sin[:num_rows])


class RotaryEmbedding3D(nn.Module):
    """Learned frequency vectors: random directions, lengths log-spaced between two bounds (rad/Å) in every head."""

    def __init__(self, heads: int, num_frequencies: int, min_frequency: float, max_frequency: float):
        super().__init__()
        directions = nn.functional.normalize(torch.randn(heads, num_frequencies, 3), dim=-1)
        lengths = torch.logspace(0, 1, num_frequencies, base=max_frequency / min_frequency) * min_frequency
        self.frequencies = nn.Parameter(directions * lengths[:, None])


def compute_cos_sin(layers: Sequence[RotaryEmbedding3D], positions: Float[Tensor, "rows 3"]) -> list[CosSin]:
    """Cosines and sines of each layer, computed together.

    Angles are in float32 or better whatever autocast says: at 60 rad bfloat16 is off by 0.25 rad.
    """
    with torch.autocast(positions.device.type, enabled=False):
        frequencies = torch.stack([layer.frequencies for layer in layers]).to(positions.dtype)
        angles = (positions @ frequencies.flatten(0, 2).T).unflatten(-1, frequencies.shape[:3])
        cos, sin = angles.cos(), angles.sin()
        both = torch.cat([cos, cos], -1).unbind(1), torch.cat([-sin, sin], -1).unbind(1)
    return [CosSin(*layer) for layer in zip(*both, strict=True)]


def apply_rotary_emb(x: HeadFeatures, rotary: CosSin, *, inverse: bool = False) -> HeadFeatures:
    """Rotate feature pairs (f, f + F / 2) by the angles, or back."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * rotary.cos, swapped, rotary.sin, value=-1 if inverse else 1).to(x.dtype)
