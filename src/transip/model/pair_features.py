"""What layers read of pairs of atoms: attention biases and neighbours. Axes as in `transip.model`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from transip.model.attention_bias import DistanceBiasStack
from transip.model.geometry import AtomGeometry, PairGeometry
from transip.model.neighbors import NeighborList, neighbor_list
from transip.model.radial import GaussianBasis


@dataclass(frozen=True)
class PairEncoder:
    """Computes features of pairs, in one forward pass.

    Attributes:
        biases: distance biases of the layers; None: attention has none.
        radial_basis: of neighbours; None: no layer reads neighbours.
        l_max: largest degree of the neighbours' spherical harmonics.
    """

    biases: DistanceBiasStack | None
    radial_basis: GaussianBasis | None
    l_max: int


class PairFeatures:
    """Features of the pairs in `geometry`, computed now and kept for all layers or, unless `keep`, when asked for."""

    def __init__(self, geometry: PairGeometry, encoder: PairEncoder, *, keep: bool):
        self.geometry, self.queries, self._encoder = geometry, geometry.queries, encoder
        self._biases, self._neighbors = None, None
        if keep and encoder.biases is not None:
            with torch.autocast(geometry.edge_lengths.device.type, enabled=False):
                self._biases = self._masked(encoder.biases.all_layers(geometry.edge_lengths))
        if keep and encoder.radial_basis is not None:
            self._neighbors = self.neighbors

    def attention_bias(self, layer: int) -> Float[Tensor, "B #H #Q K"] | None:
        """What is added to the attention logits of a layer: distance bias and mask; None if nothing."""
        if self._biases is not None:
            return self._biases[layer]
        if self._encoder.biases is not None:
            return self._masked(self._encoder.biases.one_layer(self.geometry.edge_lengths, layer))
        mask = self.geometry.attention_mask
        return None if mask is None else mask[:, None]

    @property
    def neighbors(self) -> NeighborList:
        """The atoms within the local cutoff, for models that read them."""
        if self._neighbors is not None:
            return self._neighbors
        assert self._encoder.radial_basis is not None
        return neighbor_list(self.geometry, self._encoder.radial_basis, self._encoder.l_max)

    def _masked(self, bias: Float[Tensor, "*L B H Q K"]) -> Float[Tensor, "*L B H Q K"]:
        mask = self.geometry.attention_mask
        return bias if mask is None else bias + mask[:, None]


@dataclass(frozen=True)
class AtomPairs:
    """All pairs of a padded batch, which layers read through `transip.model.chunking.map_query_chunks`.

    Attributes:
        geometry: positions of the atoms and their keys.
        encoder: computes features.
        dense: features of all pairs; None if there are too many, and chunks are computed where they are needed.
    """

    geometry: AtomGeometry
    encoder: PairEncoder
    dense: PairFeatures | None

    def features(self, queries: slice, geometry: AtomGeometry) -> PairFeatures:
        """Features of a chunk of query atoms at the positions in `geometry`."""
        return PairFeatures(geometry.pairs(queries), self.encoder, keep=False)
