"""What layers read of pairs of atoms: attention biases and neighbours. Axes as in `transip.model`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.blocks import Blocks
from transip.model.attention_bias import DistanceBias, distance_biases
from transip.model.geometry import BlockGeometry, log_envelope
from transip.model.neighbors import NeighborList, neighbor_list
from transip.model.radial import GaussianBasis


@dataclass(frozen=True)
class PairFeatures:
    """Features of the pairs in blocks, computed once for all layers.

    Attributes:
        blocks: which atoms are paired.
        attention_bias: what is added to the attention logits of each layer: distance bias, envelope and mask, each
            (B, H or 1, Q or 1, K); None if nothing is.
        neighbors: of the query atoms; None if no layer reads them.
    """

    blocks: Blocks
    attention_bias: Sequence[Float[Tensor, "B #H #Q K"]] | None
    neighbors: NeighborList | None


class PairEncoder(nn.Module):
    """Computes the features of pairs.

    Args:
        distance_basis: of distance biases; None: attention has none.
        radial_basis: of neighbours; None: no layer reads neighbours.
        l_max: largest degree of the neighbours' spherical harmonics.
        cutoff: Å, where an envelope has taken all attention between two atoms; None: there is no envelope.
    """

    def __init__(
        self,
        distance_basis: GaussianBasis | None,
        radial_basis: GaussianBasis | None,
        l_max: int,
        cutoff: float | None,
    ):
        super().__init__()
        self.distance_basis, self.radial_basis, self.l_max, self.cutoff = distance_basis, radial_basis, l_max, cutoff

    def forward(self, geometry: BlockGeometry, blocks: Blocks, biases: Sequence[DistanceBias | None]) -> PairFeatures:
        """Features of pairs for layers with the given distance biases."""
        neighbors = None
        if self.radial_basis is not None:
            neighbors = neighbor_list(geometry, blocks, self.radial_basis, self.l_max)
        with torch.autocast(geometry.edge_lengths.device.type, enabled=False):
            return PairFeatures(blocks, self._attention_bias(geometry.edge_lengths, blocks, biases), neighbors)

    def _attention_bias(
        self, lengths: Tensor, blocks: Blocks, layers: Sequence[DistanceBias | None]
    ) -> Sequence[Tensor] | None:
        envelope = None if self.cutoff is None else log_envelope(lengths, self.cutoff)
        if self.distance_basis is None:
            biases = None if envelope is None else envelope.expand(len(layers), 1, *envelope.shape)
        else:
            biases = distance_biases([b for b in layers if b is not None], self.distance_basis, lengths)
            biases = biases if envelope is None else biases + envelope
        if blocks.pair_index is not None:
            assert biases is not None
            return blocks.scatter_pairs(biases, -math.inf).transpose(1, 2).unbind(0)
        mask = blocks.padding_mask(lengths)
        if biases is None:
            return None if mask is None else [mask[:, None, None]] * len(layers)
        biases = biases.transpose(1, 2)
        return (biases if mask is None else biases + mask[:, None, None]).unbind(0)
