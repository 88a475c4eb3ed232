"""One molecule on the host: what readers produce, labelling fills in and the packed store keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import ase
import ase.data
import ase.formula
import numpy as np
from jaxtyping import Float64, Int64

from transip.errors import InputError

MAX_ATOMIC_NUMBER = 86  # GFN2-xTB and OMol25 end at Rn and Bi
MIN_DISTANCE = 0.4  # Å; below it two atoms are the same atom written twice
LARGEST = 1e9  # Å or eV/Å: products of several of them still are numbers in float32
ELEMENTS = ase.data.chemical_symbols


@dataclass(frozen=True, eq=False)
class Structure:
    """A molecule with its total charge and multiplicity and, where known, its labels.

    Attributes:
        numbers: atomic numbers, (atoms,).
        positions: Cartesian coordinates in Å, (atoms, 3).
        charge: total charge in e.
        spin: multiplicity 2S + 1.
        energy: total energy in eV, not referenced; None if unlabelled.
        forces: −∂E/∂x in eV/Å, (atoms, 3); None if unlabelled.
        domain: chemical domain, e.g. ``"neutral_organics"``; free text, may be empty.
        source: an identifier that names the structure in messages and submissions.
    """

    numbers: Int64[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    charge: int
    spin: int
    energy: float | None = None
    forces: Float64[np.ndarray, "atoms 3"] | None = None
    domain: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def formula(self) -> str:
        """Hill formula, e.g. ``"C2H6O"``: the composition by which data are split."""
        return ase.formula.Formula.from_list([ELEMENTS[z] for z in self.numbers]).format("hill")

    def check(self, where: str = "") -> Structure:
        """Return self if it is physically possible.

        Raises:
            InputError: no atoms, unknown element, a number that is not finite or too large to be stored,
                overlapping atoms, a multiplicity that the electron count cannot have.
        """
        where = where or self.source or self.formula
        _check_numbers(self.numbers, where)
        _check_finite(self, where)
        _check_range(self, where)
        _check_overlap(self.positions, self.numbers, where)
        check_parity(self.numbers.tolist(), self.charge, self.spin, where)
        return self

    def to_atoms(self) -> ase.Atoms:
        """Return a new `ase.Atoms` with ``info["charge"]`` and ``info["spin"]``; labels are not attached."""
        names = {"data_id": self.domain, "source": self.source}
        known = {key: name for key, name in names.items() if name}  # extxyz garbles empty text
        return ase.Atoms(self.numbers, self.positions, info={"charge": self.charge, "spin": self.spin, **known})

    @classmethod
    def from_atoms(
        cls, atoms: ase.Atoms, *, charge: int | None = None, spin: int | None = None, where: str = "structure"
    ) -> Structure:
        """Read elements, positions, charge and spin from `atoms`, which is left untouched.

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
            charge=whole_number(charge if charge is not None else info.get("charge"), "charge", where),
            spin=whole_number(spin_given, "spin", where),
            domain=str(info.get("data_id", info.get("domain", ""))),
            source=str(info.get("source", "")),
        ).check(where)


def whole_number(value: object, name: str, where: str) -> int:
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


def rigid_motions(
    positions: Float64[np.ndarray, "atoms 3"], masses: Float64[np.ndarray, "atoms"] | None = None
) -> Float64[np.ndarray, "coordinates motions"]:
    """Orthonormal translations and rotations, weighted with √mass if given: six, five if linear, three of an atom."""
    from scipy.linalg import orth

    root = np.ones((len(positions), 1)) if masses is None else np.sqrt(masses)[:, None]
    arms = positions - (positions.mean(0) if masses is None else masses @ positions / masses.sum())
    shifts = [np.ravel(root * axis) for axis in np.eye(3)]
    turns = [np.ravel(root * np.cross(axis, arms)) for axis in np.eye(3)]
    return orth(np.array(shifts + turns).T, rcond=1e-6)


def _check_numbers(numbers: np.ndarray, where: str) -> None:
    if len(numbers) == 0:
        raise InputError("has no atoms", where=where, remedy="remove the structure")
    unknown = sorted({int(z) for z in numbers if not 1 <= z <= MAX_ATOMIC_NUMBER})
    if unknown:
        raise InputError(
            f"unknown atomic number {', '.join(map(str, unknown))}",
            where=where,
            remedy=f"elements H (1) to Rn ({MAX_ATOMIC_NUMBER}) are supported",
        )


def _check_finite(structure: Structure, where: str) -> None:
    values = {"positions": structure.positions, "energy": structure.energy, "forces": structure.forces}
    for name, value in values.items():
        if value is not None and not np.isfinite(value).all():
            raise InputError(f"{name} hold NaN or infinite numbers", where=where, remedy="remove or relabel it")


def _check_range(structure: Structure, where: str) -> None:
    """Charge and multiplicity are stored in 16 bits, positions and forces in float32."""
    for name, value in {"charge": structure.charge, "spin": structure.spin}.items():
        if abs(value) >= 2**15:
            raise InputError(f"{name} is {value:.3g}", where=where, remedy="no molecule has that; correct or remove it")
    for name, values in {"positions": structure.positions, "forces": structure.forces}.items():
        if values is not None and np.abs(values).max() > LARGEST:
            raise InputError(
                f"{name} are as large as {np.abs(values).max():.3g}", where=where, remedy="correct or remove it"
            )


def _check_overlap(positions: np.ndarray, numbers: np.ndarray, where: str) -> None:
    from scipy.spatial import KDTree

    pairs = KDTree(positions).query_pairs(MIN_DISTANCE, output_type="ndarray")
    if len(pairs):
        i, j = (int(k) for k in pairs[0])
        distance = float(np.linalg.norm(positions[i] - positions[j]))
        raise InputError(
            f"atoms {i} ({ELEMENTS[numbers[i]]}) and {j} ({ELEMENTS[numbers[j]]}) overlap: {distance:.2f} Å apart",
            where=where,
            remedy=f"no two atoms may be closer than {MIN_DISTANCE} Å; are the positions in Å?",
        )
