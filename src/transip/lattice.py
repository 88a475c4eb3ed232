"""Periodic images of atoms: which of them lie within reach of a cell's own atoms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64


class Surroundings(NamedTuple):
    """What surrounds the atoms of one cell.

    Attributes:
        home: lattice vectors to subtract from each atom so that it lies in the cell, (atoms, 3).
        origin: of which atom each image is one, (images,).
        steps: lattice vectors from that atom, in the cell, to the image, (images, 3).
    """

    home: Int64[np.ndarray, "atoms 3"]
    origin: Int64[np.ndarray, "images"]
    steps: Int64[np.ndarray, "images 3"]


def images(positions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"], reach: float) -> Surroundings:
    """Images closer than `reach` (Å) to an atom in the cell, whose own atoms are none of them.

    Args:
        positions: Å; atoms may have left the cell.
        cell: lattice vectors in Å, one per row; zeros where nothing repeats.
        reach: Å.
    """
    from scipy.spatial import KDTree

    periodic = cell.any(1)
    lattice = _complete(cell)
    inverse = np.linalg.inv(lattice)
    fractions = positions @ inverse
    outside = _whole(fractions, cell)
    fractions = fractions - outside
    margin = reach * np.linalg.norm(inverse, axis=0)  # in lattice planes
    most = np.where(periodic, np.ceil(margin), 0).astype(np.int64)
    grid = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), -1).reshape(-1, 1, 3)
    found = fractions + grid
    near = ((found >= fractions.min(0) - margin) & (found <= fractions.max(0) + margin)).all(-1) & grid.any(-1)
    shift, origin = np.nonzero(near)
    distance, _ = KDTree(fractions @ lattice).query(found[shift, origin] @ lattice, distance_upper_bound=reach)
    close = np.isfinite(distance)
    return Surroundings(outside, origin[close], grid[shift[close], 0])


def home(positions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"]) -> Int64[np.ndarray, "atoms 3"]:
    """Lattice vectors to subtract from each atom so that it lies in the cell; see `images`."""
    return _whole(positions @ np.linalg.inv(_complete(cell)), cell)


def _whole(fractions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"]) -> Int64[np.ndarray, "atoms 3"]:
    return np.where(cell.any(1), np.floor(fractions), 0).astype(np.int64)


def _complete(cell: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """`cell` with unit vectors across all others in the place of the vectors that it lacks."""
    missing = ~cell.any(1)
    complete = cell.copy()
    complete[missing] = np.linalg.svd(cell)[2][3 - missing.sum() :]
    return complete
