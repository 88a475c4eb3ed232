"""Geometry of pairs of atoms, query × key. Axes as in `transip.model`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from transip.model.images import PeriodicImages


@dataclass(frozen=True)
class PairGeometry:
    """Blocks of query atoms and what lies between them and their key atoms.

    Attributes:
        edge_vectors: x_key − x_query, Å, (B, Q, K, 3).
        edge_lengths: Å, (B, Q, K).
        attention_mask: added to attention logits: −∞ for keys that are padding, the logarithm of the envelope where
            there is a cutoff; (B, Q or 1, K); None if all queries attend to all keys alike.
        is_edge: True for two different atoms of which the key is no padding, (B or 1, Q, K).
        queries: which atoms of the padded batch the queries are.
    """

    edge_vectors: Float[Tensor, "B Q K 3"]
    edge_lengths: Float[Tensor, "B Q K"]
    attention_mask: Float[Tensor, "B #Q K"] | None
    is_edge: Bool[Tensor, "#B Q K"]
    queries: slice


@dataclass(frozen=True)
class AtomGeometry:
    """Positions of all atoms, from which `pairs` computes the `PairGeometry` of any of them.

    Attributes:
        positions: Å, (B, A, 3).
        key_positions: Å, of the atoms and then of their periodic images, (B, K, 3).
        key_mask: False for padding, (B, K); None if there is none.
        cutoff: Å, beyond which atoms do not attend to each other; None: everywhere.
        images: periodic images; None if all structures are molecules.
    """

    positions: Float[Tensor, "B A 3"]
    key_positions: Float[Tensor, "B K 3"]
    key_mask: Bool[Tensor, "B K"] | None = None
    cutoff: float | None = None
    images: PeriodicImages | None = None

    @property
    def num_pairs(self) -> int:
        """Query × key pairs of the whole padded batch."""
        return self.positions.shape[0] * self.positions.shape[1] * self.key_positions.shape[1]

    def gather_keys(self, values: Float[Tensor, "B A *rest"]) -> Float[Tensor, "B K *rest"]:
        """Values of the key atoms."""
        return values if self.images is None else self.images.gather(values)

    def pairs(self, queries: slice = slice(None)) -> PairGeometry:
        """Geometry of the atoms `queries` with all keys, in the positions' precision whatever autocast says."""
        query_positions = self.positions[:, queries]
        with torch.autocast(self.positions.device.type, enabled=False):
            # Components come first in memory, so that each is contiguous.
            components = self.key_positions.mT[:, :, None] - query_positions.mT[..., None]
            x, y, z = components.unbind(1)
            lengths = (x * x + y * y + z * z + 1e-6).sqrt()  # smooth, also where an atom meets itself
            mask = None if self.cutoff is None else log_envelope(lengths, self.cutoff)
        index = torch.arange(lengths.shape[2], device=lengths.device)
        is_edge = (index[: self.positions.shape[1]][queries, None] != index)[None]
        if self.key_mask is not None:
            is_edge = is_edge & self.key_mask[:, None]
            padding = torch.zeros_like(lengths[:, 0]).masked_fill(~self.key_mask, -math.inf)[:, None]
            mask = padding if mask is None else mask + padding
        return PairGeometry(components.movedim(1, -1), lengths, mask, is_edge, queries)


def log_envelope(lengths: Float[Tensor, "*shape"], cutoff: float) -> Float[Tensor, "*shape"]:
    """Logarithm of the envelope (1 − r²/cutoff²)³ that weakens attention; −41 at the cutoff and beyond."""
    return 3 * (1 - (lengths / cutoff).square()).clamp(min=1e-6).log()
