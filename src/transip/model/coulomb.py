"""Coulomb energy of partial charges between all atoms of a molecule, whatever the cutoff of attention."""

from __future__ import annotations

import math

import torch
from ase.units import Bohr, Hartree
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from transip.batch import Batch
from transip.errors import InputError
from transip.model.geometry import smooth_length

COULOMB_CONSTANT = Hartree * Bohr  # eV Å / e²
MAX_PAIRS = 2**22  # of more, chunks are computed one after another, and again in the backward pass


def coulomb_energies(
    charges: Float[Tensor, "atoms"], positions: Float[Tensor, "atoms 3"], batch: Batch, smearing: float
) -> Float[Tensor, "atoms"]:
    """½ k q_i Σ_j q_j erf(r_ij / √2σ) / r_ij of each atom i, in eV: the charges q_j are Gaussians of width σ.

    What bonded atoms have in addition, or less, the network knows; beyond 3 σ nothing but Coulomb's law is left.

    Args:
        charges: e.
        positions: Å.
        batch: says which atoms belong together.
        smearing: σ in Å.

    Raises:
        InputError: a structure is periodic.
    """
    if batch.cell is not None:
        raise InputError(
            "a model with a Coulomb energy cannot see periodic structures", remedy="use one without model.smearing"
        )
    x, q = batch.to_dense(positions), batch.to_dense(charges)
    num_structures, num_atoms = q.shape
    if torch.compiler.is_compiling() or num_structures * num_atoms**2 <= MAX_PAIRS:
        potential = _potential(x, x, q, 0, smearing)
    else:
        size = max(1, MAX_PAIRS // (num_structures * num_atoms))
        chunks = (
            checkpoint(_potential, x[:, start : start + size], x, q, start, smearing, use_reentrant=False)
            for start in range(0, num_atoms, size)
        )
        potential = torch.cat([chunk for chunk in chunks if isinstance(chunk, Tensor)], 1)
    return 0.5 * COULOMB_CONSTANT * charges * batch.from_dense(potential)


def _potential(
    queries: Float[Tensor, "B Q 3"], x: Float[Tensor, "B A 3"], q: Float[Tensor, "B A"], first: int, smearing: float
) -> Float[Tensor, "B Q"]:
    """Σ_j q_j erf(r_ij / √2σ) / r_ij at the atoms `queries`, of which the first one is atom number `first`."""
    r = smooth_length(x[:, None] - queries[:, :, None])
    index = torch.arange(x.shape[1], device=x.device)
    itself = index[first : first + queries.shape[1], None] == index
    kernel = (torch.erf(r / (math.sqrt(2) * smearing)) / r).masked_fill(itself, 0.0)
    return (kernel @ q[..., None])[..., 0]
