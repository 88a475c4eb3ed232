"""`Batch` goes into a model, `Prediction` comes out: the two values that cross every border on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from transip.blocks import Blocks
from transip.config import ReferenceTerm
from transip.structure import ATOMIC_MASSES, OPTIONAL_FIELDS, RECENTER_BEYOND, Structure

TERMS: tuple[ReferenceTerm, ...] = get_args(ReferenceTerm)
PER_ATOM = {"numbers", "positions", "structure_index", "forces"}  # fields of a batch; the others are per structure
PER_ATOM |= {name for name, field in OPTIONAL_FIELDS.items() if field.per_atom}


@dataclass(frozen=True, eq=False)
class Batch:
    """Several molecules or crystals: their atoms one after another, with the structure each belongs to.

    Attributes:
        numbers: atomic numbers, (atoms,).
        positions: Å, (atoms, 3).
        structure_index: structure of each atom, ascending, (atoms,).
        atom_counts: atoms per structure, (structures,).
        charge: total charges in e, (structures,).
        spin: multiplicities 2S + 1, (structures,).
        max_num_atoms: atoms of the largest structure, kept on the host so that padding needs no device synchronisation.
        cell: lattice vectors in Å, one per row, zeros where nothing repeats, (structures, 3, 3); None of molecules.
        energy: total energies in eV, float64, (structures,); None if unlabelled.
        forces: eV/Å, (atoms, 3); None if unlabelled.
        stress: ∂E/∂ε / V in eV/Å³, (structures, 3, 3), NaN where unlabelled; None if all are.
        charges: partial charges in e, (atoms,), NaN where unlabelled; None if all are.
        spin_populations: unpaired electrons of each atom, (atoms,), NaN where unlabelled; None if all are.
        dipole: about the centre of mass in e·Å, (structures, 3), NaN where unlabelled; None if all are.
        index: position of each structure in its dataset, (structures,), by which messages name it; None if it has none.
        blocks: what each atom sees, found in advance for a model; None: it is found when it is needed.
    """

    numbers: Int64[Tensor, "atoms"]
    positions: Float[Tensor, "atoms 3"]
    structure_index: Int64[Tensor, "atoms"]
    atom_counts: Int64[Tensor, "structures"]
    charge: Int64[Tensor, "structures"]
    spin: Int64[Tensor, "structures"]
    max_num_atoms: int
    cell: Float[Tensor, "structures 3 3"] | None = None
    energy: Float64[Tensor, "structures"] | None = None
    forces: Float[Tensor, "atoms 3"] | None = None
    stress: Float[Tensor, "structures 3 3"] | None = None
    charges: Float[Tensor, "atoms"] | None = None
    spin_populations: Float[Tensor, "atoms"] | None = None
    dipole: Float[Tensor, "structures 3"] | None = None
    index: Int64[Tensor, "structures"] | None = None
    blocks: Blocks | None = None

    def __len__(self) -> int:
        return len(self.atom_counts)

    @property
    def num_atoms(self) -> int:
        """Atoms in all structures together."""
        return len(self.numbers)

    @property
    def padded_index(self) -> Int64[Tensor, "atoms"]:
        """Where each atom sits in a padded (structures × max_num_atoms) layout, flattened."""
        first = self.atom_counts.cumsum(0) - self.atom_counts
        within = torch.arange(self.num_atoms, device=self.numbers.device) - first[self.structure_index]
        return self.structure_index * self.max_num_atoms + within

    @property
    def mask(self) -> Bool[Tensor, "structures max_num_atoms"]:
        """True where a padded layout holds an atom."""
        return torch.arange(self.max_num_atoms, device=self.atom_counts.device) < self.atom_counts[:, None]

    @property
    def is_dense(self) -> bool:
        """Whether the padded layout has no padding, because all structures are equally large."""
        # A compiled graph has to serve both cases.
        return not torch.compiler.is_compiling() and self.num_atoms == len(self) * self.max_num_atoms

    def to_dense(self, values: Float[Tensor, "atoms *rest"]) -> Float[Tensor, "structures max_num_atoms *rest"]:
        """Per-atom values in the padded layout, zeros where there is no atom."""
        if not self.is_dense:
            empty = values.new_zeros(len(self) * self.max_num_atoms, *values.shape[1:])
            values = empty.index_copy(0, self.padded_index, values)
        return values.unflatten(0, (len(self), self.max_num_atoms))

    def from_dense(self, padded: Float[Tensor, "structures max_num_atoms *rest"]) -> Float[Tensor, "atoms *rest"]:
        """Inverse of `to_dense`."""
        values = padded.flatten(0, 1)
        return values if self.is_dense else values[self.padded_index]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """Move to `device`; cast everything but energies to `dtype`."""

        def moved(name: str, value: object) -> object:
            if isinstance(value, Blocks):
                return value.to(device, dtype)
            if not isinstance(value, Tensor):
                return value
            return value.to(device, dtype if value.is_floating_point() and name != "energy" else None)

        return replace(self, **{f.name: moved(f.name, getattr(self, f.name)) for f in fields(self)})

    def clone(self) -> Batch:
        """The same, in memory of its own."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.clone() for name, value in values.items() if isinstance(value, Tensor)})

    @classmethod
    def collate(cls, structures: Sequence[Structure], dtype: torch.dtype = torch.float32) -> Batch:
        """Put structures into one batch; labels are kept if every structure has them.

        Where one is far from the origin, positions are those of `Structure.recentered_positions`.
        """
        counts = np.array([len(s) for s in structures], dtype=np.int64)
        energies = [s.energy for s in structures]
        forces = [s.forces for s in structures]
        labelled = all(e is not None for e in energies)
        positions = np.concatenate([s.positions for s in structures])
        if np.abs(positions).max() > RECENTER_BEYOND:
            positions = np.concatenate([s.recentered_positions() for s in structures])
        optional: dict[str, Any] = {name: _optional(structures, name, dtype) for name in OPTIONAL_FIELDS}
        return cls(
            numbers=torch.from_numpy(np.concatenate([s.numbers for s in structures])),
            positions=torch.from_numpy(positions).to(dtype),
            structure_index=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
            atom_counts=torch.from_numpy(counts),
            charge=torch.tensor([s.charge for s in structures]),
            spin=torch.tensor([s.spin for s in structures]),
            max_num_atoms=int(counts.max()),
            **optional,
            energy=torch.tensor(energies, dtype=torch.float64) if labelled else None,
            forces=torch.from_numpy(np.concatenate([f for f in forces if f is not None])).to(dtype)
            if all(f is not None for f in forces)
            else None,
        )

    def head(self, number: int) -> Batch:
        """The first `number` structures, as a batch."""
        if number >= len(self):
            return self
        return replace(self, **self._select(slice(int(self.atom_counts[:number].sum())), slice(number)))

    def index_select(self, order: Int64[Tensor, "structures"]) -> Batch:
        """The structures in the order of these numbers."""
        counts = self.atom_counts[order]
        shift = (self.atom_counts.cumsum(0) - self.atom_counts)[order] - (counts.cumsum(0) - counts)
        atoms = shift.repeat_interleave(counts) + torch.arange(self.num_atoms, device=order.device)
        structure = torch.arange(len(self), device=order.device).repeat_interleave(counts)
        return replace(self, **self._select(atoms, order) | {"structure_index": structure})

    def _select(self, atoms: slice | Tensor, structures: slice | Tensor) -> dict[str, Tensor | None]:
        """The fields of some atoms and structures."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("max_num_atoms", "blocks")}
        selected = {
            name: value[atoms if name in PER_ATOM else structures]
            for name, value in values.items()
            if value is not None
        }
        return selected | {"blocks": None}

    def concatenate(self, other: Batch) -> Batch:
        """This batch and then `other`'s structures, as one; both must carry the same fields, but for optional ones."""

        def joined(name: str) -> Tensor | None:
            a, b = getattr(self, name), getattr(other, name)
            if name in OPTIONAL_FIELDS and (a is None) != (b is None):
                a, b = (self._filled(name) if a is None else a), (other._filled(name) if b is None else b)
            if a is None or b is None:
                return None
            return torch.cat([a, b + len(self) if name == "structure_index" else b])

        names = [f.name for f in fields(self) if f.name not in ("max_num_atoms", "blocks")]
        values = {name: joined(name) for name in names} | {"blocks": None}
        return replace(self, **values, max_num_atoms=max(self.max_num_atoms, other.max_num_atoms))

    def _filled(self, name: str) -> Float[Tensor, "entries *shape"]:
        """The optional field `name` as if no structure had it."""
        field = OPTIONAL_FIELDS[name]
        return self.positions.new_full((self.num_atoms if field.per_atom else len(self), *field.shape), field.fill)


def _optional(structures: Sequence[Structure], name: str, dtype: torch.dtype) -> Float[Tensor, "entries *shape"] | None:
    """The optional field `name` of structures of which some may not have it; None if none has."""
    if all(getattr(structure, name) is None for structure in structures):
        return None
    return torch.from_numpy(np.concatenate([structure.optional_entries(name) for structure in structures])).to(dtype)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a potential predicts for a `Batch`.

    Attributes:
        energy: total energies in eV, references included, float64, (structures,).
        atom_energies: per-atom energies in eV, float64, (atoms,).
        forces: eV/Å, (atoms, 3).
        embeddings: of the atoms after each of the layers that were asked for, (atoms, width).
        stress: ∂E/∂ε / V in eV/Å³, symmetric, (structures, 3, 3), NaN where not all three directions are periodic; None
            from direct forces and if all structures are molecules.
        charges: partial charges in e, (atoms,); like the two below, None from models that have none.
        spin_populations: unpaired electrons of each atom, α minus β, (atoms,).
        dipole: e·Å, (structures, 3), of an ion about its centre of mass; NaN where periodic, see `dipole_moment`.
        unassigned: what of the total charge (e) and of the unpaired electrons the atoms' surroundings do not say, and
            all atoms share, (structures, 2); the smaller it is, the better do energies of distant fragments add up.
    """

    energy: Float64[Tensor, "structures"]
    atom_energies: Float64[Tensor, "atoms"]
    forces: Float[Tensor, "atoms 3"]
    embeddings: tuple[Float[Tensor, "atoms width"], ...] = ()
    stress: Float[Tensor, "structures 3 3"] | None = None
    charges: Float[Tensor, "atoms"] | None = None
    spin_populations: Float[Tensor, "atoms"] | None = None
    dipole: Float[Tensor, "structures 3"] | None = None
    unassigned: Float[Tensor, "structures 2"] | None = None


def charge_spin_terms(batch: Batch) -> Float64[Tensor, "structures terms"]:
    """What reference energies are linear in beside the numbers of atoms: Q, 2S and Q², as `TERMS` names them."""
    charge, spin = batch.charge.double(), batch.spin.double()
    return torch.stack([charge, spin - 1, charge.square()], dim=1)


def segment_sum(values: Float[Tensor, "atoms *rest"], batch: Batch) -> Float[Tensor, "structures *rest"]:
    """Sum per-atom values over the atoms of each structure, in order (no atomics, hence deterministic)."""
    return batch.to_dense(values).sum(1)


def segment_mean(values: Float[Tensor, "atoms *rest"], batch: Batch) -> Float[Tensor, "structures *rest"]:
    """Mean of per-atom values over the atoms of each structure."""
    counts = batch.atom_counts.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
    return segment_sum(values, batch) / counts


def centered(positions: Float[Tensor, "atoms 3"], batch: Batch) -> Float[Tensor, "atoms 3"]:
    """Positions relative to the centroid of each structure."""
    return positions - segment_mean(positions, batch)[batch.structure_index]


def dipole_moment(charges: Float[Tensor, "atoms"], batch: Batch) -> Float[Tensor, "structures 3"]:
    """Σ q_i (x_i − centre of mass) in e·Å, as ASE counts dipoles, from partial charges in e.

    NaN, without a trace in derivatives, where a structure is periodic: what the charges of a cell sum to depends on
    which images of its atoms are taken, and changes by a charge times a lattice vector with each.
    """
    masses = torch.from_numpy(ATOMIC_MASSES).to(batch.positions)[batch.numbers, None]
    center = segment_sum(masses * batch.positions, batch) / segment_sum(masses, batch)
    dipole = segment_sum(charges[:, None] * (batch.positions - center[batch.structure_index]), batch)
    if batch.cell is None:
        return dipole
    return dipole.where(~batch.cell.flatten(1).any(1, keepdim=True), torch.nan)
