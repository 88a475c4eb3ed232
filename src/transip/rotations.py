"""Rotations in three dimensions: uniform sampling, and turning a batch with its labels."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from transip.batch import Batch

Rotations = Float[Tensor, "structures 3 3"]


def random_rotations(count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Rotations:
    """Draw rotation matrices uniformly over SO(3) (Haar), through unit quaternions, on the generator's device."""
    normal = torch.randn(count, 4, generator=generator, device=generator.device, dtype=torch.float64)
    return quaternions_to_matrices(normal / normal.norm(dim=-1, keepdim=True)).to(dtype)


def quaternions_to_matrices(quaternions: Float[Tensor, "structures 4"]) -> Rotations:
    """Matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = quaternions.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def matrices_to_quaternions(rotations: Rotations) -> Float[Tensor, "structures 4"]:
    """Unit quaternions (w, x, y, z) with w ≥ 0 of rotation matrices.

    All four textbook formulas are evaluated and the best conditioned one is taken, so half turns are safe.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotations.unbind(-2))
    candidates = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], -1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], -1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], -1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], -1),
        ],
        -2,
    )
    best = candidates.norm(dim=-1).argmax(-1)
    chosen = candidates[torch.arange(len(best), device=best.device), best]
    chosen = chosen / chosen.norm(dim=-1, keepdim=True)
    return torch.where(chosen[:, :1] < 0, -chosen, chosen)


def rotate_vectors(vectors: Float[Tensor, "atoms 3"], rotations: Rotations, batch: Batch) -> Float[Tensor, "atoms 3"]:
    """Turn one vector per atom by the rotation of the atom's structure."""
    return torch.einsum("aij,aj->ai", rotations[batch.structure].to(vectors.dtype), vectors)


def rotate(batch: Batch, rotations: Rotations) -> Batch:
    """Turn each structure about the origin, positions and forces alike; energies do not change."""
    forces = None if batch.forces is None else rotate_vectors(batch.forces, rotations, batch)
    return replace(batch, positions=rotate_vectors(batch.positions, rotations, batch), forces=forces)
