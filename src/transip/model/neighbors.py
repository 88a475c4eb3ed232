"""Neighbour lists: the atoms within a local cutoff, their distances and directions. Axes as in `transip.model`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from transip.model.geometry import PairGeometry
from transip.model.radial import GaussianBasis

LOCAL_CUTOFF = 4.0  # Å
MIN_LENGTH = 0.6  # Å, centre of the first radial basis function
NEIGHBOR_LIST_MIN_ATOMS = 64  # of larger structures the few neighbours are gathered from among the many atoms


@dataclass(frozen=True)
class NeighborList:
    """The atoms within `LOCAL_CUTOFF` of each query atom, padded.

    Attributes:
        envelope: cutoff function, from 1 smoothly to 0 at the cutoff; 0 for what is no pair, (B, Q, M).
        rbf: radial basis of the distance times `envelope`, (B, Q, M, R).
        spherical_harmonics: of the direction from query to neighbour, (B, Q, S, M); see `real_spherical_harmonics`.
        index: which keys the neighbours are, (B, Q, M); None if they are all keys in order.
    """

    envelope: Float[Tensor, "B Q M"]
    rbf: Float[Tensor, "B Q M R"]
    spherical_harmonics: Float[Tensor, "B Q S M"]
    index: Int64[Tensor, "B Q M"] | None

    @property
    def directions(self) -> Float[Tensor, "B Q 3 M"]:
        """Unit vectors from query to neighbour."""
        return self.spherical_harmonics[:, :, 1:4]

    def gather(self, values: Float[Tensor, "B K C"]) -> Float[Tensor, "B #Q M C"]:
        """Values of the neighbours of each query, or once if they are the same for all."""
        if self.index is None:
            return values[:, None]
        flat = self.index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, flat).unflatten(1, self.index.shape[1:])


def neighbor_list(geometry: PairGeometry, basis: GaussianBasis, l_max: int) -> NeighborList:
    """Neighbours of the query atoms, nearest first where they are gathered.

    Args:
        geometry: the pairs.
        basis: of distances up to `LOCAL_CUTOFF`.
        l_max: largest degree of the spherical harmonics, 1 to 3.
    """
    vectors, lengths, is_edge, index = geometry.edge_vectors, geometry.edge_lengths, geometry.is_edge, None
    with torch.autocast(lengths.device.type, enabled=False):
        if lengths.shape[2] > NEIGHBOR_LIST_MIN_ATOMS:
            masked = lengths.detach().masked_fill(~is_edge, math.inf)
            max_neighbors = int((masked < LOCAL_CUTOFF).sum(2).max())
            index = masked.topk(max(max_neighbors, 1), largest=False).indices
            vectors = torch.take_along_dim(vectors, index[..., None], 2)
            lengths, is_edge = lengths.gather(2, index), is_edge.expand(masked.shape).gather(2, index)
        envelope = (0.5 + 0.5 * (lengths.clamp(max=LOCAL_CUTOFF) * (math.pi / LOCAL_CUTOFF)).cos()) * is_edge
        harmonics = real_spherical_harmonics(vectors / lengths[..., None], l_max)
        return NeighborList(envelope, basis(lengths) * envelope[..., None], harmonics, index)


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
