"""Local descriptor: what surrounds an atom within a few ångström, given to it directly. Axes as in `transip.model`.

Attention compares atoms through a few numbers per head; sharp functions of distance and direction, which bonds and
repulsion are made of, take it long to learn. Here each atom gets the atomic basis of its neighbours (as in ACE, arXiv
1801.10130), read by a dense matrix. Rotation is not built in: the matrix mixes directions as it likes, and only
translation is exact.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.config import ModelSettings
from transip.model.pair_features import PairFeatures

CHANNELS = 8


class LocalDescriptor(nn.Module):
    """The atomic basis over a few channels of the neighbours, degrees 0 and 1, through a matrix that starts at zero.

    With `angular_channels` its `PowerSpectrum` is added.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__()
        radial_channels = CHANNELS * settings.num_rbf
        self.channel_proj = nn.Linear(settings.width, CHANNELS, bias=False)
        self.out_proj = nn.Linear(4 * radial_channels, settings.width, bias=False)
        nn.init.zeros_(self.out_proj.weight)
        self.power_spectrum = PowerSpectrum(radial_channels, settings) if settings.angular_channels else None

    def forward(self, x: Float[Tensor, "B Q D"], pairs: PairFeatures) -> Float[Tensor, "B Q D"]:
        """Σ_j c_j ⊗ (1, r̂_ij) ⊗ rbf(r_ij) over the neighbours j, projected to the width."""
        basis = atomic_basis(pairs, self.channel_proj(x))
        output = self.out_proj(basis[..., :4, :].flatten(2))
        return output if self.power_spectrum is None else output + self.power_spectrum(basis[..., 1:, :])


class PowerSpectrum(nn.Module):
    """Angular invariants: Σ_jk f(r_ij) g(r_ik) P_l(cos θ_jik) for learned functions f and g (SOAP, arXiv 1209.3140).

    Each is the scalar product of two sums over the neighbours' spherical harmonics, so that no pair of neighbours is
    ever formed: for l = 1, Σ_j f(r_ij) r̂_ij · Σ_k g(r_ik) r̂_ik. What bends a bond is quadratic in cos θ: l = 2. Like
    distances these numbers are the same in every orientation.
    """

    def __init__(self, radial_channels: int, settings: ModelSettings):
        super().__init__()
        self.sizes = [2 * degree + 1 for degree in range(1, settings.l_max + 1)]
        self.left_proj = nn.Linear(radial_channels, settings.angular_channels, bias=False)
        self.right_proj = nn.Linear(radial_channels, settings.angular_channels, bias=False)
        self.out_proj = nn.Linear(len(self.sizes) * settings.angular_channels, settings.width, bias=False)
        nn.init.zeros_(self.out_proj.weight)

    def forward(self, basis: Float[Tensor, "B Q C S R"]) -> Float[Tensor, "B Q D"]:
        """Invariants of the atomic basis of degree 1 and higher, projected to the width."""
        sums = basis.transpose(2, 3).flatten(3)  # B Q S (C R)
        products: Float[Tensor, "B Q S P"] = self.left_proj(sums) * self.right_proj(sums)
        return self.out_proj(torch.cat([degree.sum(2) for degree in products.split(self.sizes, 2)], -1))


def atomic_basis(pairs: PairFeatures, channels: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q C S R"]:
    """Σ_j c_j ⊗ Y(r̂_ij) ⊗ rbf(r_ij), as one product of matrices per query atom."""
    neighbors = pairs.neighbors
    assert neighbors is not None
    harmonics = neighbors.spherical_harmonics.to(channels.dtype)
    weights = (
        pairs.blocks.gather_neighbors(pairs.blocks.to_rows(channels)).mT[:, :, :, None] * harmonics[:, :, None]
    )  # B Q C S M
    basis = weights.flatten(2, 3) @ neighbors.rbf.to(channels.dtype)
    return basis.unflatten(2, (-1, harmonics.shape[2]))
