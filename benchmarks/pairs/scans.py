"""Eight pairs of molecules and ions from contact to 12 Å: geometries, and GFN2-xTB's energies and forces.

    python -m benchmarks.pairs.scans

writes benchmarks/pairs/scans.json, which is committed. Needs tblite and RDKit (`pip install ".[labels]"`).

Members are relaxed alone with GFN2-xTB and stay as they are. Each turns its front (`Member.front`) to the other: the
centres of both fronts are on the z axis, on which the second member is moved. What is called the distance is that of
the two nearest atoms of different members. Labels count where GFN2-xTB converges and, beyond `SEPARATED`, where it
leaves each member its own charge (`transip.labels.pairs`). Of ions that it does not leave them, Coulomb's law for the
charges that the members have alone says what is right beyond `SEPARATED`: for NH4+ and PF6-, which GFN2-xTB does get
right, both agree to 0.0015 eV/Å. No domain of `transip data build` draws these pairs
(`transip.labels.sources.HELD_OUT_PAIRS`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import CalculationFailed, Calculator, InputError
from ase.optimize import BFGS
from ase.units import Bohr, Hartree
from jaxtyping import Float64
from scipy.optimize import brentq
from scipy.spatial.distance import cdist

from benchmarks.common.records import Record, argument_parser, provenance
from transip.files import write_text
from transip.labels.fragments import fragment
from transip.labels.pairs import CHARGE_TOLERANCE, SEPARATED

FILE = Path(__file__).parent / "scans.json"
FMAX = 0.001  # eV/Å, of relaxed members
STEPS = (1.5, 0.1), (5.0, 0.25), (12.0, 0.5)  # Å: up to 1.5 beyond the nearest point in steps of 0.1, …


@dataclass(frozen=True)
class Member:
    """One of a pair, and which of its sides the other is on.

    Attributes:
        smiles: what it is.
        front: atoms whose centre is on the axis, nearest to the other member.
        back: atoms behind, whose centre is on the axis, too; none of an atom, or if the axis is the plane's normal.
        start: positions in Å from which it is relaxed, if not those of a force field.
    """

    smiles: str
    front: tuple[int, ...]
    back: tuple[int, ...] = ()
    start: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Design:
    """How a pair approaches.

    Attributes:
        nearest: Å, where the scan begins.
        twist: degrees by which the second member is turned about the axis; at 0 both planes are parallel to it and one.
    """

    first: Member
    second: Member
    nearest: float
    twist: float = 0.0


_OCTAHEDRON = (1.6, 0, 0), (0, 0, 0), (0, 1.6, 0), (0, 0, 1.6), (-1.6, 0, 0), (0, -1.6, 0), (0, 0, -1.6)
_HEXAFLUOROPHOSPHATE = Member("F[P-](F)(F)(F)(F)F", front=(0, 2, 3), back=(1,), start=_OCTAHEDRON)
_FORMAMIDE = Member("NC=O", front=(2, 3), back=(0, 1))  # O and the H beside it
DESIGNS = {
    "Na+ acetate": Design(Member("CC(=O)[O-]", front=(2, 3), back=(1,)), Member("[Na+]", (0,)), 1.9),
    "Li+ ethylene carbonate": Design(Member("O=C1OCCO1", front=(0,), back=(1,)), Member("[Li+]", (0,)), 1.5),
    "Na+ Cl-": Design(Member("[Na+]", (0,)), Member("[Cl-]", (0,)), 2.0),
    "NH4+ PF6-": Design(Member("[NH4+]", front=(1, 2, 3), back=(0,)), _HEXAFLUOROPHOSPHATE, 1.7),
    "Mg2+ DMSO": Design(Member("CS(C)=O", front=(3,), back=(1,)), Member("[Mg+2]", (0,)), 1.6),
    "water dimer": Design(Member("O", front=(1,), back=(0,)), Member("O", front=(0,), back=(1, 2)), 1.6, twist=90),
    "benzene dimer": Design(Member("c1ccccc1", front=(0, 1, 2, 3, 4, 5)), Member("c1ccccc1", (6,), (0,)), 2.5),
    "formamide dimer": Design(_FORMAMIDE, _FORMAMIDE, 1.7),
}


@dataclass(frozen=True)
class Point:
    """One distance of a scan.

    Attributes:
        distance: of the nearest atoms, Å.
        shift: of the second member along z from its position in `Scan`, Å.
        energy: GFN2-xTB's, eV; None where it did not converge.
        force: on the second member along z, eV/Å; positive ones push the members apart.
        charge: GFN2-xTB's of the first member, e.
    """

    distance: float
    shift: float
    energy: float | None
    force: float | None
    charge: float | None


@dataclass(frozen=True)
class Scan:
    """One pair, at all distances.

    Attributes:
        numbers: atomic numbers of the first and of the second member.
        positions: of both, Å.
        charges: formal ones of both, e.
        energies: GFN2-xTB's of each alone, eV.
        partial_charges: GFN2-xTB's of each alone, e.
        points: from near to far.
    """

    name: str
    numbers: list[list[int]]
    positions: list[list[list[float]]]
    charges: list[int]
    energies: list[float]
    partial_charges: list[list[float]]
    points: list[Point]

    @property
    def ionic(self) -> bool:
        """Whether a member is charged."""
        return any(self.charges)

    def has_label(self, point: Point) -> bool:
        """Whether GFN2-xTB converged and, of separated members, left each its own charge."""
        if point.energy is None or point.charge is None:
            return False
        return point.distance <= SEPARATED or abs(point.charge - self.charges[0]) <= CHARGE_TOLERANCE

    def coulomb(self, shift: float) -> tuple[float, float]:
        """Interaction energy (eV) and force on the second member along z (eV/Å) of the charges of the members alone."""
        vectors = self.together(shift).get_all_distances(vector=True)[: len(self.numbers[0]), len(self.numbers[0]) :]
        lengths = np.linalg.norm(vectors, axis=-1)
        energies = Hartree * Bohr * np.multiply.outer(*self.partial_charges) / lengths
        return float(energies.sum()), float((energies * vectors[..., 2] / lengths**2).sum())

    def alone(self, member: int) -> ase.Atoms:
        """The first (0) or the second member (1)."""
        info = {"charge": self.charges[member], "spin": 1}
        return ase.Atoms(self.numbers[member], self.positions[member], info=info)

    def together(self, shift: float) -> ase.Atoms:
        """Both, the second moved by `shift` (Å) along z."""
        second = self.alone(1)
        second.positions[:, 2] += shift
        pair = self.alone(0) + second
        pair.info = {"charge": sum(self.charges), "spin": 1}
        return pair


@cache
def read_scans() -> list[Scan]:
    """All scans with their labels."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))["scans"]
    return [Scan(**{**scan, "points": [Point(**point) for point in scan["points"]]}) for scan in stored]


def axial_force(pair: ase.Atoms, num_first: int) -> float:
    """Force on the second member along z in eV/Å; `pair` has a calculator."""
    return float(pair.get_forces()[num_first:, 2].sum())


def make_scan(name: str, design: Design) -> Scan:
    """The geometries of a pair, labelled with GFN2-xTB."""
    first, second = (_relaxed(member) for member in (design.first, design.second))
    positions = [_facing_up(first, design.first), _facing_up(second, design.second)]
    turn = np.radians(design.twist)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    positions[1] = positions[1] @ rotation.T * [1, -1, -1]  # turned by 180° about x, so that it looks down
    scan = Scan(
        name,
        [first.numbers.tolist(), second.numbers.tolist()],
        [np.round(x, 6).tolist() for x in positions],
        [first.info["charge"], second.info["charge"]],
        *([], [], []),
    )
    for member in (0, 1):
        alone = _with_gfn2(scan.alone(member))
        scan.energies.append(alone.get_potential_energy())
        scan.partial_charges.append(np.round(alone.get_charges(), 5).tolist())
    scan.points.extend(_label(scan, distance) for distance in _distances(design.nearest))
    return scan


def _label(scan: Scan, distance: float) -> Point:
    first = len(scan.numbers[0])

    def too_far(shift: float) -> float:
        pair = scan.together(shift)
        return float(cdist(pair.positions[:first], pair.positions[first:]).min() - distance)

    shift = round(float(brentq(too_far, 0.0, 30.0)), 6)
    pair = _with_gfn2(scan.together(shift))
    try:
        energy, charge = pair.get_potential_energy(), float(pair.get_charges()[:first].sum())
    except (CalculationFailed, InputError):  # what tblite's calculator makes of a field that does not converge
        return Point(distance, shift, None, None, None)
    return Point(distance, shift, energy, axial_force(pair, first), round(charge, 4))


def _distances(nearest: float) -> list[float]:
    found = [nearest]
    limits = (nearest + STEPS[0][0], *(end for end, _ in STEPS[1:]))
    for limit, (_, step) in zip(limits, STEPS, strict=True):
        while found[-1] + step < limit + 1e-6:
            found.append(round(found[-1] + step, 3))
    return found


def _relaxed(member: Member) -> ase.Atoms:
    species = fragment(member.smiles)
    atoms = ase.Atoms(species.numbers, member.start or species.positions, info={"charge": species.charge, "spin": 1})
    if len(atoms) > 1:
        BFGS(_with_gfn2(atoms), logfile=None).run(fmax=FMAX, steps=500)
    return atoms


def _facing_up(atoms: ase.Atoms, member: Member) -> Float64[np.ndarray, "atoms 3"]:
    """Positions with the centre of the front at the origin, the back below it on the z axis, the plane normal to x."""
    positions = atoms.positions - atoms.positions[list(member.front)].mean(0)
    if len(atoms) == 1:
        return positions
    normal = np.linalg.svd(positions - positions.mean(0))[2][2]  # of the plane that fits best
    if member.back:
        z, x = -positions[list(member.back)].mean(0), normal
    else:
        z, x = normal, positions[member.front[0]]
    z = z / np.linalg.norm(z)
    x = x - (x @ z) * z
    x = x / np.linalg.norm(x)
    return positions @ np.array([x, np.cross(z, x), z]).T


def _with_gfn2(atoms: ase.Atoms) -> ase.Atoms:
    atoms.calc = gfn2(atoms)
    return atoms


def gfn2(atoms: ase.Atoms) -> Calculator:
    """GFN2-xTB of a closed-shell molecule with the charge of ``atoms.info``."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", charge=float(atoms.info["charge"]), multiplicity=1, verbosity=0)


def main() -> None:
    argument_parser(__doc__).parse_args()
    scans = [make_scan(name, design) for name, design in DESIGNS.items()]
    record: Record | dict[str, Any] = {
        **provenance("tblite", "rdkit", "ase"),
        "scans": [asdict(scan) for scan in scans],
    }
    write_text(FILE, json.dumps(record, ensure_ascii=False) + "\n")
    for scan in scans:
        labelled = [point.distance for point in scan.points if scan.has_label(point)]
        print(f"{scan.name}: {len(labelled)} of {len(scan.points)} distances labelled, up to {max(labelled)} Å")


if __name__ == "__main__":
    main()
