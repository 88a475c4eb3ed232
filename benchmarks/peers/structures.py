"""Molecules, their neighbours and their orientations, as every peer takes them. Needs NumPy and PyTorch only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

CUTOFF = 5.0  # Å


@dataclass(frozen=True)
class Batch:
    """Molecules laid end to end. Edges are grouped by structure; every pair of neighbours is there in both directions.

    Attributes:
        numbers: (atoms,) atomic numbers.
        positions: (atoms, 3) Å.
        structure: (atoms,) the structure each atom belongs to.
        counts: (structures,) atoms.
        charge, spin: (structures,) in e, and 2S + 1.
        edges: (2, edges) an atom and its neighbour, at most CUTOFF apart.
        edge_counts: (structures,) edges.
        energy: (structures,) what is left in eV after the element references; None without labels.
        forces: (atoms, 3) eV/Å; None without labels.
    """

    numbers: Tensor
    positions: Tensor
    structure: Tensor
    counts: Tensor
    charge: Tensor
    spin: Tensor
    edges: Tensor
    edge_counts: Tensor
    energy: Tensor | None = None
    forces: Tensor | None = None

    def vectors(self) -> Tensor:
        """(edges, 3) from each edge's atom to its neighbour."""
        atom, neighbour = self.edges
        return self.positions[neighbour] - self.positions[atom]

    def rotated(self, rotations: Tensor) -> "Batch":
        """Each structure turned about the origin by its matrix of `rotations` (structures, 3, 3), forces alike."""
        forces = None if self.forces is None else self.turn(self.forces, rotations)
        return replace(self, positions=self.turn(self.positions, rotations), forces=forces)

    def turn(self, vectors: Tensor, rotations: Tensor) -> Tensor:
        """(atoms, 3) vectors, turned."""
        return torch.einsum("aij,aj->ai", rotations[self.structure], vectors)


class Molecules:
    """Molecules in memory, from arrays `{name}_numbers`, `{name}_positions`, `{name}_counts` and, with labels,
    `{name}_energy`, `{name}_forces`, `{name}_charge`, `{name}_spin`, `references` (eV, index = atomic number).

    Neighbours are searched when a molecule is first asked for, and kept: rotations do not change them.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str):
        def tensor(key: str, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.as_tensor(arrays[f"{name}_{key}"], dtype=dtype)

        self.numbers, self.positions = tensor("numbers"), tensor("positions", torch.float32)
        self.counts = tensor("counts")
        self._starts = (self.counts.cumsum(0) - self.counts).tolist()
        self._edges: dict[int, Tensor] = {}
        self.labelled = f"{name}_energy" in arrays
        if self.labelled:
            self.charge, self.spin = tensor("charge"), tensor("spin")
            self.forces = tensor("forces", torch.float32)
            structure = torch.arange(len(self)).repeat_interleave(self.counts)
            references = torch.as_tensor(arrays["references"])[self.numbers]
            total = torch.zeros(len(self), dtype=torch.float64).index_add(0, structure, references)
            self.energy = (tensor("energy", torch.float64) - total).float()
        else:
            self.charge, self.spin = torch.zeros_like(self.counts), torch.ones_like(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def elements(self) -> list[int]:
        return torch.unique(self.numbers).tolist()

    @cached_property
    def neighbours(self) -> float:
        """Mean number of neighbours of an atom, from the first thousand molecules: the scale of a sum over them."""
        batch = self.batch(range(min(len(self), 1000)))
        return batch.edges.shape[1] / len(batch.numbers)

    def batch(self, indices: Sequence[int]) -> Batch:
        atoms = [slice(self._starts[i], self._starts[i] + int(self.counts[i])) for i in indices]
        chosen = torch.as_tensor(indices)
        counts = self.counts[chosen]
        edges = [self._pairs(i) for i in indices]
        edge_counts = torch.tensor([pairs.shape[1] for pairs in edges])
        return Batch(
            numbers=torch.cat([self.numbers[a] for a in atoms]),
            positions=torch.cat([self.positions[a] for a in atoms]),
            structure=torch.arange(len(chosen)).repeat_interleave(counts),
            counts=counts,
            charge=self.charge[chosen],
            spin=self.spin[chosen],
            edges=torch.cat(edges, 1) + (counts.cumsum(0) - counts).repeat_interleave(edge_counts),
            edge_counts=edge_counts,
            energy=self.energy[chosen] if self.labelled else None,
            forces=torch.cat([self.forces[a] for a in atoms]) if self.labelled else None,
        )

    def _pairs(self, i: int) -> Tensor:
        if i not in self._edges:
            start = self._starts[i]
            positions = self.positions[start : start + int(self.counts[i])]
            distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
            self._edges[i] = (distances.fill_diagonal_(torch.inf) <= CUTOFF).nonzero().T.contiguous()
        return self._edges[i]


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, 3) rotation matrices, uniform over SO(3): a Gaussian matrix's Q with R's signs, and determinant 1."""
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    return (q * torch.linalg.det(q)[:, None, None]).float()
