"""What surrounds an atom, shown to it directly: a convolution over the atoms within a few ångström.

Attention compares atoms through a few numbers per head; sharp functions of distance and direction, which bonds and
repulsion are made of, take it long to learn. Here each atom sees its neighbours as a vision Transformer's token sees
its patch. Rotation is not built in: the learned matrix mixes directions as it likes, only translation is exact.

Shape suffixes as in `transip.model.pairs`; C channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.model.pairs import Neighbourhood, Neighbours, Pairs

CHANNELS = 8


class Convolution(nn.Module):
    """Each atom's view of a few hidden channels of its neighbours, read by one dense matrix that starts at zero.

    Args:
        width: of the embeddings.
        angles: numbers about angles that are read beside it; see `Angles`.
    """

    def __init__(self, width: int, angles: int):
        super().__init__()
        self.channels = nn.Linear(width, CHANNELS, bias=False)
        self.read = nn.Linear(CHANNELS * 4 * Neighbourhood.RADIAL, width, bias=False)
        nn.init.zeros_(self.read.weight)
        self.angles = Angles(width, angles) if angles else None

    def forward(self, seen: Float[Tensor, "B N D"], pairs: Pairs) -> Float[Tensor, "B n D"]:
        """Σ_j channels_j ⊗ (1, direction_ij) ⊗ radial_ij over the atoms that are `seen`, then read."""
        view = look_around(self.channels(seen), pairs.neighbours)
        read = self.read(view.flatten(2))
        return read if self.angles is None else read + self.angles(view[..., 1:, :])


class Angles(nn.Module):
    """How neighbours stand to each other: Σ_jk f(r_ij) g(r_ik) cos θ_jik for learned functions f and g.

    Each is the scalar product of two sums over the neighbours' directions, so that no pair of neighbours is ever
    looked at: Σ_j f(r_ij) r̂_ij · Σ_k g(r_ik) r̂_ik. Like distances these numbers are the same in every orientation.
    """

    def __init__(self, width: int, angles: int):
        super().__init__()
        self.left = nn.Linear(CHANNELS * Neighbourhood.RADIAL, angles, bias=False)
        self.right = nn.Linear(CHANNELS * Neighbourhood.RADIAL, angles, bias=False)
        self.read = nn.Linear(angles, width, bias=False)
        nn.init.zeros_(self.read.weight)

    def forward(self, directions: Float[Tensor, "B n C 3 K"]) -> Float[Tensor, "B n D"]:
        """What is read of the angles."""
        sums = directions.transpose(2, 3).flatten(3)  # B n 3 CK
        return self.read((self.left(sums) * self.right(sums)).sum(2))


def look_around(channels: Float[Tensor, "B N C"], near: Neighbours) -> Float[Tensor, "B n C 4 K"]:
    """Σ_j channels_j ⊗ (1, direction_ij) ⊗ radial_ij, as one product of matrices per atom that looks."""
    sides = torch.cat([torch.ones_like(near.fade)[:, None], near.direction], 1).transpose(1, 2).to(channels.dtype)
    weights = near.of(channels).mT[:, :, :, None] * sides[:, :, None]  # B n C 4 M
    view = weights.flatten(2, 3) @ near.radial.to(channels.dtype)
    return view.unflatten(2, (-1, 4))
