"""Geometry of blocks of atoms: where the keys are and how far from each query. Axes as in `transip.model`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from transip.batch import Batch
from transip.blocks import Blocks


@dataclass(frozen=True)
class BlockGeometry:
    """Where the atoms of blocks are, and how far from each other.

    Attributes:
        positions: of the rows of the blocks, Å, (rows, 3).
        edge_vectors: from query to key, Å, (B, Q, K, 3); of blocks that list their pairs, of these, (pairs, 3).
        edge_lengths: Å, (B, Q, K) or (pairs,).
    """

    positions: Float[Tensor, "rows 3"]
    edge_vectors: Float[Tensor, "B Q K 3"] | Float[Tensor, "pairs 3"]
    edge_lengths: Float[Tensor, "B Q K"] | Float[Tensor, "pairs"]


def block_geometry(
    positions: Float[Tensor, "atoms 3"], cell: Float[Tensor, "structures 3 3"] | None, batch: Batch, blocks: Blocks
) -> BlockGeometry:
    """Geometry of `blocks` at `positions` and lattice vectors `cell` (Å), through which derivatives flow.

    It is computed in the positions' precision, whatever autocast says.

    Args:
        positions: relative to the centroid of each structure, once atoms have been wrapped into their cells.
        cell: None: molecules.
        batch: to which atoms and cells belong.
        blocks: of its atoms.
    """
    with torch.autocast(positions.device.type, enabled=False):
        rows = blocks.to_rows(blocks.to_blocks(positions))
        num_slots = blocks.query_index.numel()
        if cell is not None and blocks.image_slot is not None and blocks.image_shifts is not None:
            structure = batch.structure_index[blocks.query_index.flatten()[blocks.image_slot]]
            images = rows[num_slots:] + (blocks.image_shifts[:, None] @ cell[structure])[:, 0]
            rows = torch.cat([rows[:num_slots], images])
        if blocks.pair_index is not None and blocks.pair_rows is not None:
            queries = rows.index_select(0, blocks.pair_index // blocks.key_mask.shape[1])
            vectors = rows.index_select(0, blocks.pair_rows) - queries
        else:
            keys = rows.unflatten(0, blocks.query_index.shape)
            # Components come first in memory, so that each is contiguous.
            vectors = (keys.mT[:, :, None] - keys.mT[..., None]).movedim(1, -1)
        return BlockGeometry(rows, vectors, smooth_length(vectors))


def smooth_length(vectors: Float[Tensor, "*pairs 3"]) -> Float[Tensor, "*pairs"]:
    """Length of vectors in Å, smooth also where an atom meets itself."""
    x, y, z = vectors.unbind(-1)
    return (x * x + y * y + z * z + 1e-6).sqrt()


def log_envelope(lengths: Float[Tensor, "*shape"], cutoff: float) -> Float[Tensor, "*shape"]:
    """Logarithm of the envelope (1 − r²/cutoff²)³ that weakens attention; −41 at the cutoff and beyond."""
    return 3 * (1 - (lengths / cutoff).square()).clamp(min=1e-6).log()
