"""Neighbour lists: the atoms within a local cutoff, their distances and directions. Axes as in `transip.model`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from transip.blocks import Blocks
from transip.model.geometry import BlockGeometry, smooth_length
from transip.model.radial import GaussianBasis

LOCAL_CUTOFF = 4.0  # Å
MIN_LENGTH = 0.6  # Å, centre of the first radial basis function


@dataclass(frozen=True)
class NeighborList:
    """The atoms within `LOCAL_CUTOFF` of each query atom, padded; see `Blocks.gather_neighbors`.

    Attributes:
        lengths: distances from query to neighbour, Å, (B, Q, M).
        envelope: cutoff function, from 1 smoothly to 0 at the cutoff; 0 for what is no pair, (B, Q, M).
        rbf: radial basis of the distance times `envelope`, (B, Q, M, R).
        spherical_harmonics: of the direction from query to neighbour, (B, Q, S, M); see `real_spherical_harmonics`.
    """

    lengths: Float[Tensor, "B Q M"]
    envelope: Float[Tensor, "B Q M"]
    rbf: Float[Tensor, "B Q M R"]
    spherical_harmonics: Float[Tensor, "B Q S M"]

    @property
    def directions(self) -> Float[Tensor, "B Q 3 M"]:
        """Unit vectors from query to neighbour."""
        return self.spherical_harmonics[:, :, 1:4]


def neighbor_list(geometry: BlockGeometry, blocks: Blocks, basis: GaussianBasis, l_max: int) -> NeighborList:
    """Neighbours of the query atoms: those that `blocks` lists, or all keys.

    Args:
        geometry: of the blocks.
        blocks: which of the keys are neighbours.
        basis: of distances up to `LOCAL_CUTOFF`.
        l_max: largest degree of the spherical harmonics, 1 to 3.
    """
    vectors, lengths, is_edge = geometry.edge_vectors, geometry.edge_lengths, blocks.neighbor_mask
    with torch.autocast(lengths.device.type, enabled=False):
        if is_edge is None:
            index = torch.arange(blocks.query_index.shape[1], device=lengths.device)
            is_edge = (index[:, None] != index) & blocks.key_mask[:, None]
        else:
            queries = geometry.positions[: blocks.query_index.numel()].unflatten(0, blocks.query_index.shape)
            vectors = blocks.gather_neighbors(geometry.positions) - queries[:, :, None]
            lengths = smooth_length(vectors)
        envelope = (0.5 + 0.5 * (lengths.clamp(max=LOCAL_CUTOFF) * (math.pi / LOCAL_CUTOFF)).cos()) * is_edge
        harmonics = real_spherical_harmonics(vectors / lengths[..., None], l_max)
        return NeighborList(lengths, envelope, basis(lengths) * envelope[..., None], harmonics)


def real_spherical_harmonics(directions: Float[Tensor, "B Q M 3"], l_max: int) -> Float[Tensor, "B Q S M"]:
    """Real spherical harmonics of degree 0 to `l_max`: 1, the direction, products of its components.

    Scaled so that those of degree l of two directions have the l-th Legendre polynomial of the cosine of the angle
    between them as their scalar product.
    """
    x, y, z = directions.unbind(-1)
    harmonics = [torch.ones_like(x), x, y, z]
    if l_max == 1:
        return torch.stack(harmonics, 2)
    a, xx, yy, zz = math.sqrt(3), x * x, y * y, z * z
    harmonics += [a * x * y, a * y * z, a * z * x, a / 2 * (xx - yy), zz - (xx + yy) / 2]
    if l_max == 3:
        a, b, c = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15)
        harmonics += [a * x * (xx - 3 * yy), a * y * (3 * xx - yy), c * x * y * z, c / 2 * z * (xx - yy)]
        harmonics += [b * x * (4 * zz - xx - yy), b * y * (4 * zz - xx - yy), z * (zz - 1.5 * (xx + yy))]
    return torch.stack(harmonics, 2)
