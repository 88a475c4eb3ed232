"""Periodic images of atoms: which of them lie within a cutoff of a cell's own atoms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64


class ImageIndex(NamedTuple):
    """The periodic images around the atoms of one cell.

    Attributes:
        wrap_shift: lattice vectors to subtract from each atom so that it lies in the cell, (atoms, 3).
        source_index: of which atom each image is one, (images,).
        cell_shifts: lattice vectors from that atom, in the cell, to the image, (images, 3).
    """

    wrap_shift: Int64[np.ndarray, "atoms 3"]
    source_index: Int64[np.ndarray, "images"]
    cell_shifts: Int64[np.ndarray, "images 3"]


def find_images(
    positions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"], cutoff: float
) -> ImageIndex:
    """Images closer than `cutoff` (Å) to an atom in the cell, whose own atoms are none of them.

    Args:
        positions: Å; atoms may have left the cell.
        cell: lattice vectors in Å, one per row; zeros where nothing repeats.
        cutoff: Å.
    """
    from scipy.spatial import KDTree

    periodic = cell.any(1)
    lattice = _complete_cell(cell)
    inverse = np.linalg.inv(lattice)
    fractions = positions @ inverse
    outside = _floor_fractional(fractions, cell)
    fractions = fractions - outside
    margin = cutoff * np.linalg.norm(inverse, axis=0)  # in lattice planes
    num_repeats = np.where(periodic, np.ceil(margin), 0).astype(np.int64)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in num_repeats), indexing="ij"), -1).reshape(-1, 1, 3)
    images = fractions + grid
    nearby = ((images >= fractions.min(0) - margin) & (images <= fractions.max(0) + margin)).all(-1) & grid.any(-1)
    shift, source = np.nonzero(nearby)
    distance, _ = KDTree(fractions @ lattice).query(images[shift, source] @ lattice, distance_upper_bound=cutoff)
    close = np.isfinite(distance)
    return ImageIndex(outside, source[close], grid[shift[close], 0])


def wrap_shift(
    positions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"]
) -> Int64[np.ndarray, "atoms 3"]:
    """Lattice vectors to subtract from each atom so that it lies in the cell; see `find_images`."""
    return _floor_fractional(positions @ np.linalg.inv(_complete_cell(cell)), cell)


def _floor_fractional(
    fractions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"]
) -> Int64[np.ndarray, "atoms 3"]:
    return np.where(cell.any(1), np.floor(fractions), 0).astype(np.int64)


def _complete_cell(cell: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """`cell` with unit vectors across all others in the place of the vectors that it lacks."""
    missing = ~cell.any(1)
    complete = cell.copy()
    complete[missing] = np.linalg.svd(cell)[2][3 - missing.sum() :]
    return complete
