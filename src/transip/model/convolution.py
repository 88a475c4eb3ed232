"""What surrounds an atom, shown to it directly: a convolution over the atoms within a few ångström.

Attention compares atoms through a few numbers per head; sharp functions of distance and direction, which bonds and
repulsion are made of, take it long to learn. Here each atom sees its neighbours as a vision Transformer's token sees
its patch. Rotation is not built in: the learned matrix mixes directions as it likes, only translation is exact.

Shape suffixes as in `transip.model.pairs`; C channels, P angles.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.config import ModelSettings
from transip.model.pairs import Neighbours, Pairs

CHANNELS = 8


class Convolution(nn.Module):
    """Each atom's view of a few hidden channels of its neighbours, read by one dense matrix that starts at zero.

    With `angles`, what these say about it is read beside it; see `Angles`.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__()
        seen = CHANNELS * settings.num_rbf
        self.channels = nn.Linear(settings.width, CHANNELS, bias=False)
        self.read = nn.Linear(4 * seen, settings.width, bias=False)
        nn.init.zeros_(self.read.weight)
        self.angles = Angles(seen, settings) if settings.angular_channels else None

    def forward(self, pairs: Pairs, seen: Float[Tensor, "B N D"]) -> Float[Tensor, "B n D"]:
        """Σ_j channels_j ⊗ (1, direction_ij) ⊗ radial_ij over the atoms that are `seen`, then read."""
        view = look_around(self.channels(seen), pairs.neighbours)
        read = self.read(view[..., :4, :].flatten(2))
        return read if self.angles is None else read + self.angles(view[..., 1:, :])


class Angles(nn.Module):
    """How neighbours stand to each other: Σ_jk f(r_ij) g(r_ik) P_l(cos θ_jik) for learned functions f and g.

    Each is the scalar product of two sums over the neighbours' harmonics, so that no pair of neighbours is ever
    looked at: for l = 1 Σ_j f(r_ij) r̂_ij · Σ_k g(r_ik) r̂_ik. What bends a bond is quadratic in cos θ: l = 2. Like
    distances these numbers are the same in every orientation.
    """

    def __init__(self, seen: int, settings: ModelSettings):
        super().__init__()
        self.sizes = [2 * degree + 1 for degree in range(1, settings.l_max + 1)]
        self.left = nn.Linear(seen, settings.angular_channels, bias=False)
        self.right = nn.Linear(seen, settings.angular_channels, bias=False)
        self.read = nn.Linear(len(self.sizes) * settings.angular_channels, settings.width, bias=False)
        nn.init.zeros_(self.read.weight)

    def forward(self, harmonics: Float[Tensor, "B n C S K"]) -> Float[Tensor, "B n D"]:
        """What is read of the angles; S are the harmonics of degree 1 and higher."""
        sums = harmonics.transpose(2, 3).flatten(3)  # B n S CK
        products: Float[Tensor, "B n S P"] = self.left(sums) * self.right(sums)
        return self.read(torch.cat([one.sum(2) for one in products.split(self.sizes, 2)], -1))


def look_around(channels: Float[Tensor, "B N C"], near: Neighbours) -> Float[Tensor, "B n C S K"]:
    """Σ_j channels_j ⊗ harmonics_ij ⊗ radial_ij, as one product of matrices per atom that looks."""
    weights = near.of(channels).mT[:, :, :, None] * near.harmonics.to(channels.dtype)[:, :, None]  # B n C S M
    view = weights.flatten(2, 3) @ near.radial.to(channels.dtype)
    return view.unflatten(2, (-1, near.harmonics.shape[2]))
