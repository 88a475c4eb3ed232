"""Rotations in three dimensions: uniform sampling, finite groups, and rotating a batch with its labels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from transip.batch import Batch

Rotations = Float[Tensor, "structures 3 3"]
GroupOrder = Literal[12, 24, 60]


def random_rotations(count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Rotations:
    """Draw rotation matrices uniformly over SO(3) (Haar), through unit quaternions, on the generator's device."""
    normal = torch.randn(count, 4, generator=generator, device=generator.device, dtype=torch.float64)
    return quaternions_to_matrices(normal / normal.norm(dim=-1, keepdim=True)).to(dtype)


def rotation_group(order: GroupOrder) -> Float64[Tensor, "order 3 3"]:
    """The rotations of the tetrahedron (12), octahedron (24) or icosahedron (60), the identity first.

    Their mean is the mean over SO(3) of every polynomial in the matrix elements of degree 2, 3 or 5 at most.
    """
    golden = (1 + math.sqrt(5)) / 2
    second = {12: (2, (0.0, 0.0, 1.0)), 24: (4, (0.0, 0.0, 1.0)), 60: (5, (0.0, 1.0, golden))}
    generators = [_axis_rotation(3, (1.0, 1.0, 1.0)), _axis_rotation(*second[order])]
    group = [torch.eye(3, dtype=torch.float64)]
    for element in group:  # grows while it is iterated over
        for generator in generators:
            product = element @ generator
            if min(float((product - other).abs().max()) for other in group) > 1e-6:
                group.append(product)
    return torch.stack(group)


def _axis_rotation(fold: int, axis: tuple[float, float, float]) -> Float64[Tensor, "3 3"]:
    """Rotation by a `fold`-th of a full turn about `axis`."""
    unit = torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)
    half = torch.tensor([math.pi / fold], dtype=torch.float64)
    return quaternions_to_matrices(torch.cat([half.cos(), half.sin() * unit])[None])[0]


def quaternions_to_matrices(quaternions: Float[Tensor, "structures 4"]) -> Rotations:
    """Matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = quaternions.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rotate_vectors(vectors: Float[Tensor, "atoms 3"], rotations: Rotations, batch: Batch) -> Float[Tensor, "atoms 3"]:
    """Rotate one vector per atom by the rotation of the atom's structure."""
    return torch.einsum("aij,aj->ai", rotations[batch.structure_index].to(vectors.dtype), vectors)


def rotate(batch: Batch, rotations: Rotations) -> Batch:
    """Rotate each structure about the origin: positions, lattice vectors and labels; scalars do not change."""
    forces = None if batch.forces is None else rotate_vectors(batch.forces, rotations, batch)
    rotations = rotations.to(batch.positions.dtype)
    return replace(
        batch,
        positions=rotate_vectors(batch.positions, rotations, batch),
        cell=None if batch.cell is None else batch.cell @ rotations.mT,
        forces=forces,
        stress=None if batch.stress is None else rotations @ batch.stress @ rotations.mT,
        dipole=None if batch.dipole is None else (rotations @ batch.dipole[..., None])[..., 0],
    )
