"""One molecule or crystal on the host: what readers produce, labelling fills in and the packed store keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ase
import ase.data
import ase.formula
import numpy as np
from jaxtyping import Float64, Int64

from transip.errors import InputError
from transip.lattice import find_images, wrap_shift

MAX_ATOMIC_NUMBER = 86  # GFN2-xTB and OMol25 end at Rn and Bi
MAX_CHARGE = 10  # e; OMol25 spans −10 … +10
MAX_SPIN = 11  # multiplicity; OMol25 spans 1 … 11
MIN_DISTANCE = 0.4  # Å; below it two atoms are the same atom written twice
MIN_SPAN = 0.5  # Å; flatter cells hold no atoms
LINEAR_TOLERANCE = 0.03  # Å; relaxed linear molecules deviate by a hundredth of it, the flattest bent one by 0.08
RECENTER_BEYOND = 100.0  # Å from the origin, from where on float32 tells atoms apart less well than forces need
MAX_ABS_VALUE = 1e9  # Å or eV/Å: products of several of them still are numbers in float32
ELEMENTS, ATOMIC_MASSES = ase.data.chemical_symbols, ase.data.atomic_masses
LABELS = ("energy", "forces", "stress", "charges", "spin_populations", "dipole")


@dataclass(frozen=True)
class OptionalField:
    """A field that only some structures of a batch or a pack have.

    Attributes:
        fill: what arrays hold for structures without it.
        shape: of one entry.
        per_atom: whether there is one entry per atom, or one per structure.
    """

    fill: float
    shape: tuple[int, ...]
    per_atom: bool = False

    def fill_entries(self, count: int) -> Float64[np.ndarray, "entries *shape"]:
        """So many entries of structures without it."""
        return np.full((count, *self.shape), self.fill)


OPTIONAL_FIELDS = {
    "cell": OptionalField(0.0, (3, 3)),
    "stress": OptionalField(math.nan, (3, 3)),
    "charges": OptionalField(math.nan, (), per_atom=True),
    "spin_populations": OptionalField(math.nan, (), per_atom=True),
    "dipole": OptionalField(math.nan, (3,)),
}


@dataclass(frozen=True, eq=False)
class Structure:
    """A molecule, or the cell of a crystal or liquid, with total charge, multiplicity and, where known, labels.

    Attributes:
        numbers: atomic numbers, (atoms,).
        positions: Cartesian coordinates in Å, (atoms, 3).
        charge: total charge in e.
        spin: multiplicity 2S + 1.
        energy: total energy in eV, not referenced; None if unlabelled.
        forces: −∂E/∂x in eV/Å, (atoms, 3); None if unlabelled.
        cell: lattice vectors in Å, one per row, (3, 3), along which everything repeats; zeros where nothing does; None
            for a molecule.
        stress: ∂E/∂ε / V in eV/Å³, symmetric, (3, 3); None if unlabelled.
        charges: partial charges in e, which sum to `charge`, (atoms,); None if unlabelled.
        spin_populations: unpaired electrons of each atom, spin up less spin down, (atoms,); None if unlabelled.
        dipole: electric dipole moment in e·Å, from − to +, (3,); None if unlabelled. That of an ion depends on the
            origin: here it is about the centre of mass.
        domain: chemical domain, e.g. ``"neutral_organics"``; free text, may be empty.
        source: an identifier that names the structure in messages and submissions.
    """

    numbers: Int64[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    charge: int
    spin: int
    energy: float | None = None
    forces: Float64[np.ndarray, "atoms 3"] | None = None
    cell: Float64[np.ndarray, "3 3"] | None = None
    stress: Float64[np.ndarray, "3 3"] | None = None
    charges: Float64[np.ndarray, "atoms"] | None = None
    spin_populations: Float64[np.ndarray, "atoms"] | None = None
    dipole: Float64[np.ndarray, "3"] | None = None
    domain: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def formula(self) -> str:
        """Hill formula, e.g. ``"C2H6O"``: the composition by which data are split."""
        return ase.formula.Formula.from_list([ELEMENTS[z] for z in self.numbers]).format("hill")

    @property
    def center_of_mass(self) -> Float64[np.ndarray, "3"]:
        """As of the function of this name."""
        return center_of_mass(self.numbers, self.positions)

    def optional_entries(self, name: str) -> Float64[np.ndarray, "entries *shape"]:
        """What arrays hold of the optional field `name`: one entry, or one per atom."""
        field, value = OPTIONAL_FIELDS[name], getattr(self, name)
        count = len(self) if field.per_atom else 1
        return field.fill_entries(count) if value is None else value.reshape(count, *field.shape)

    def recentered_positions(self) -> Float64[np.ndarray, "atoms 3"]:
        """Positions in Å that float32 can hold.

        A structure more than `RECENTER_BEYOND` from the origin is moved as a whole, after its atoms have been wrapped
        into the cell, if it has one.
        """
        if np.abs(self.positions).max(initial=0.0) <= RECENTER_BEYOND:
            return self.positions
        inside = (
            self.positions if self.cell is None else self.positions - wrap_shift(self.positions, self.cell) @ self.cell
        )
        return inside - inside.mean(0)

    def check(self, where: str = "") -> Structure:
        """Return self if it is physically possible.

        Raises:
            InputError: no atoms, unknown element, a number that is not finite or too large to be stored,
                overlapping atoms, lattice vectors that span nothing, a charge or multiplicity that no model
                can represent, a multiplicity that the electron count cannot have.
        """
        where = where or self.source or self.formula
        _check_numbers(self.numbers, where)
        _check_finite(self, where)
        _check_range(self, where)
        _check_cell(self.cell, where)
        _check_overlap(self, where)
        check_parity(self.numbers.tolist(), self.charge, self.spin, where)
        check_in_vocabulary(self.charge, self.spin, where)
        return self

    def to_atoms(self) -> ase.Atoms:
        """Return a new `ase.Atoms` with ``info["charge"]`` and ``info["spin"]``; labels are not attached."""
        names = {"data_id": self.domain, "source": self.source}
        named = {key: name for key, name in names.items() if name}  # extxyz garbles empty text
        info = {"charge": self.charge, "spin": self.spin, **named}
        pbc = False if self.cell is None else self.cell.any(1)
        return ase.Atoms(self.numbers, self.positions, cell=self.cell, pbc=pbc, info=info)

    @classmethod
    def from_atoms(
        cls, atoms: ase.Atoms, *, charge: int | None = None, spin: int | None = None, where: str = "structure"
    ) -> Structure:
        """Read elements, positions, periodic lattice vectors, charge and spin from `atoms`, which is left untouched.

        `charge` and `spin` given here take precedence over ``atoms.info["charge"]`` and ``atoms.info["spin"]``
        (also accepted: ``"spin_multiplicity"``).

        Raises:
            InputError: charge or spin missing or not whole numbers, or the structure is impossible.
        """
        info = atoms.info
        spin_given = spin if spin is not None else info.get("spin", info.get("spin_multiplicity"))
        return cls(
            numbers=np.asarray(atoms.numbers, dtype=np.int64).copy(),
            positions=np.asarray(atoms.positions, dtype=np.float64).copy(),
            charge=parse_int(charge if charge is not None else info.get("charge"), "charge", where),
            spin=parse_int(spin_given, "spin", where),
            cell=periodic_cell(atoms.cell.array, atoms.pbc, where),
            domain=str(info.get("data_id", info.get("domain", ""))),
            source=str(info.get("source", "")),
        ).check(where)


def center_of_mass(
    numbers: Int64[np.ndarray, "atoms"], positions: Float64[np.ndarray, "atoms 3"]
) -> Float64[np.ndarray, "3"]:
    """In Å, with the standard atomic masses of ASE."""
    return np.average(positions, axis=0, weights=ATOMIC_MASSES[numbers])


def from_optional_entries(
    name: str, entries: Float64[np.ndarray, "entries *shape"]
) -> Float64[np.ndarray, "..."] | None:
    """Inverse of `Structure.optional_entries`: the field `name` of a structure, None if it has none."""
    field = OPTIONAL_FIELDS[name]
    if np.array_equal(entries, field.fill_entries(len(entries)), equal_nan=True):
        return None
    return entries if field.per_atom else entries[0]


def periodic_cell(cell: np.ndarray, pbc: Any, where: str) -> Float64[np.ndarray, "3 3"] | None:
    """Lattice vectors of the periodic directions, zeros in the place of the others; None if there are none.

    Args:
        cell: three lattice vectors.
        pbc: which of them are periodic, one or three truth values.
        where: how messages name the structure.

    Raises:
        InputError: a direction is periodic but has no lattice vector.
    """
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), 3)
    if not pbc.any():
        return None
    periodic = np.where(pbc[:, None], np.asarray(cell, dtype=np.float64).reshape(3, 3), 0.0)
    if not periodic[pbc].any(1).all():
        raise InputError(
            "is periodic along a lattice vector of no length", where=where, remedy="give its cell, or set pbc to False"
        )
    return periodic


def parse_int(value: object, name: str, where: str) -> int:
    """Return `value` as int; `name` is ``"charge"`` or ``"spin"`` in the message.

    Raises:
        InputError: the value is missing or not a whole number.
    """
    meaning = {"charge": "total charge in e", "spin": "multiplicity 2S+1"}[name]
    if value is None:
        raise InputError(
            f"{name} is missing", where=where, remedy=f"set atoms.info[{name!r}] ({meaning}) or pass {name}=..."
        )
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not number.is_integer():
        problem = f"{name} is {str(value)[:100]!r}, not a whole number"
        raise InputError(problem, where=where, remedy=f"{name} is the {meaning}")
    return int(number)


def check_in_vocabulary(charge: int, spin: int, where: str) -> None:
    """Check that models have a vector for this charge and this multiplicity.

    Raises:
        InputError: the charge is beyond ±`MAX_CHARGE` e, or the multiplicity above `MAX_SPIN`.
    """
    if abs(charge) > MAX_CHARGE or spin > MAX_SPIN:
        raise InputError(
            f"charge {charge:+.3g} with multiplicity {spin:.3g} cannot be represented",
            where=where,
            remedy=f"models take charges from {-MAX_CHARGE} to {MAX_CHARGE} and multiplicities up to {MAX_SPIN}",
        )


def check_parity(numbers: Iterable[int], charge: int, spin: int, where: str) -> None:
    """Check that a molecule with these electrons can have multiplicity `spin`.

    Raises:
        InputError: the multiplicity is below 1, larger than the electrons allow, or of the wrong parity.
    """
    electrons = int(sum(int(z) for z in numbers)) - charge
    if spin < 1 or electrons < 0 or spin - 1 > electrons or (electrons + spin) % 2 == 0:
        kind = "odd (1, 3, …)" if electrons % 2 == 0 else "even (2, 4, …)"
        raise InputError(
            f"charge {charge:+d} leaves {electrons} electrons, which cannot have multiplicity {spin}",
            where=where,
            remedy=f"spin is the multiplicity 2S+1 and must be {kind} here; check charge and spin",
        )


def rigid_body_modes(
    positions: Float64[np.ndarray, "atoms 3"],
    masses: Float64[np.ndarray, "atoms"] | None = None,
    *,
    periodic: bool = False,
) -> Float64[np.ndarray, "coordinates motions"]:
    """Orthonormal translations and rotations, weighted with √mass if given: six, five if linear, three of an atom.

    Of what is `periodic`, along however many directions, the three translations alone. A molecule whose atoms are
    within `LINEAR_TOLERANCE` of an axis, root mean square, is linear: a motion about that axis is a bend.
    """
    weights = np.ones(len(positions)) if masses is None else masses
    root, total = np.sqrt(weights)[:, None], weights.sum()
    translation_modes = [np.ravel(root * axis) / np.sqrt(total) for axis in np.eye(3)]
    if periodic:
        return np.array(translation_modes).T
    lever_arms = positions - weights @ positions / total
    squares = np.einsum("a,ai,aj->ij", weights, lever_arms, lever_arms)
    moments, axes = np.linalg.eigh(np.trace(squares) * np.eye(3) - squares)  # about principal axes all are orthogonal
    rotation_modes = [
        np.ravel(root * np.cross(axis, lever_arms)) / np.sqrt(moment)
        for moment, axis in zip(moments, axes.T, strict=True)
        if moment > total * LINEAR_TOLERANCE**2
    ]
    return np.array(translation_modes + rotation_modes).T


def _check_numbers(numbers: np.ndarray, where: str) -> None:
    if len(numbers) == 0:
        raise InputError("has no atoms", where=where, remedy="remove the structure")
    unknown = sorted({z for z in numbers.tolist() if not 1 <= z <= MAX_ATOMIC_NUMBER})
    if unknown:
        raise InputError(
            f"unknown atomic number {', '.join(map(str, unknown))}",
            where=where,
            remedy=f"elements H (1) to Rn ({MAX_ATOMIC_NUMBER}) are supported",
        )


def _check_finite(structure: Structure, where: str) -> None:
    for name in ("positions", *LABELS):
        value = getattr(structure, name)
        if value is not None and not np.isfinite(value).all():
            raise InputError(f"{name} hold NaN or infinite numbers", where=where, remedy="remove or relabel it")


def _check_range(structure: Structure, where: str) -> None:
    """What is stored in float32."""
    for name in ("positions", "forces", "charges", "spin_populations", "dipole"):
        values = getattr(structure, name)
        if values is not None and np.abs(values).max() > MAX_ABS_VALUE:
            raise InputError(
                f"{name} are as large as {np.abs(values).max():.3g}", where=where, remedy="correct or remove it"
            )


def _check_cell(cell: np.ndarray | None, where: str) -> None:
    if cell is None:
        return
    vectors = cell[cell.any(1)]
    if not np.isfinite(cell).all() or np.abs(cell).max() > MAX_ABS_VALUE:
        raise InputError("lattice vectors are not finite numbers", where=where, remedy="correct or remove it")
    if len(vectors) and np.linalg.svd(vectors, compute_uv=False).min() < MIN_SPAN:
        raise InputError(
            "lattice vectors span (next to) nothing",
            where=where,
            remedy="lattice vectors must not be parallel or in one plane, and must be in Å",
        )


def _check_overlap(structure: Structure, where: str) -> None:
    from scipy.spatial import KDTree

    positions, copies = structure.positions, np.arange(len(structure))
    if structure.cell is not None:
        images = find_images(positions, structure.cell, MIN_DISTANCE)
        positions = positions - images.wrap_shift @ structure.cell
        ghosts = positions[images.source_index] + images.cell_shifts @ structure.cell
        positions = np.concatenate([positions, ghosts])
        copies = np.concatenate([copies, images.source_index])
    pairs = KDTree(positions).query_pairs(MIN_DISTANCE, output_type="ndarray")
    if len(pairs):
        i, j = (int(copies[k]) for k in pairs[0])
        distance = float(np.linalg.norm(positions[pairs[0][0]] - positions[pairs[0][1]]))
        raise InputError(
            f"atoms {i} ({ELEMENTS[structure.numbers[i]]}) and {j} ({ELEMENTS[structure.numbers[j]]}) overlap: "
            f"{distance:.2f} Å apart",
            where=where,
            remedy=f"no two atoms may be closer than {MIN_DISTANCE} Å; are the positions in Å?",
        )
