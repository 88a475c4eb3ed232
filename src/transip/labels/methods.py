"""Reference methods: energy, forces and charges of a structure from quantum chemistry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree
from jaxtyping import Float64, Int64

from transip.errors import InputError
from transip.extras import import_optional
from transip.labels.molecules import LabelingError
from transip.structure import ELEMENTS, Structure, center_of_mass

SCF_FAILED = "SCF did not converge"


class GFN2:
    """GFN2-xTB of one molecule or cell at changing positions; each calculation starts from the last density.

    With unpaired electrons the spin-polarisation term is on, so that multiplicity changes the energy and not
    only the occupation; without them the term is exactly zero and left out. Of a cell, tblite samples the Γ point
    alone, which takes an insulator in a wide cell: forces in water boxes 7 to 8 Å wide are wrong by 0.001 to
    0.02 eV/Å (root mean square, against doubled cells), those in one of 5.7 Å by 0.07 eV/Å.

    Args:
        numbers: atomic numbers, (atoms,).
        charge: total charge in e.
        spin: multiplicity 2S + 1.
        cell: lattice vectors in Å, (3, 3); None for a molecule.

    Raises:
        InputError: tblite is not installed, or the cell does not repeat in all three directions.
    """

    def __init__(
        self,
        numbers: Int64[np.ndarray, "atoms"],
        charge: int,
        spin: int,
        cell: Float64[np.ndarray, "3 3"] | None = None,
    ):
        self._calculator_class = import_optional("tblite.interface").Calculator
        self._numbers, self._charge, self._spin = numbers, charge, spin
        self._positions = np.empty((0, 3))
        if cell is not None and not cell.any(1).all():  # which tblite takes for something else
            raise InputError(
                "gfn2-xtb needs a cell that repeats in all three directions, or in none",
                remedy="add lattice vectors of 20 Å or more of vacuum, and set pbc along them",
            )
        self._repeats = {} if cell is None else {"lattice": cell / Bohr, "periodic": np.ones(3, dtype=bool)}
        self._calculator: Any = None
        self._previous_result: Any = None

    def __call__(self, positions: Float64[np.ndarray, "atoms 3"]) -> tuple[float, Float64[np.ndarray, "atoms 3"]]:
        """Energy in eV and forces in eV/Å at `positions` (Å).

        Raises:
            LabelingError: the self-consistent field did not converge.
        """
        try:
            if self._calculator is None:
                self._calculator = self._start(positions / Bohr)
            else:
                self._calculator.update(positions / Bohr)
            self._positions = positions
            self._previous_result = self._calculator.singlepoint(self._previous_result)
        except RuntimeError:
            raise LabelingError(SCF_FAILED) from None
        energy, gradient = float(self._previous_result.get("energy")), self._previous_result.get("gradient")
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            raise LabelingError(SCF_FAILED)
        return energy * Hartree, -gradient * Hartree / Bohr

    def more_labels(self) -> dict[str, np.ndarray]:
        """The other labels of a `Structure` where it was called last: of a cell the stress, of a molecule the dipole.

        Charges and spin populations are Mulliken's in the basis of the method.
        """
        result, moments = self._previous_result, {}
        if self._repeats:
            volume = abs(np.linalg.det(self._repeats["lattice"]))
            moments["stress"] = result.get("virial") / volume * Hartree / Bohr**3
        else:
            about_origin = result.get("dipole") * Bohr
            moments["dipole"] = about_origin - self._charge * center_of_mass(self._numbers, self._positions)
        return {"charges": result.get("charges"), "spin_populations": self._spin_populations(), **moments}

    def _spin_populations(self) -> Float64[np.ndarray, "atoms"]:
        """Unpaired electrons of each atom; zero of closed shells, which are calculated with all electrons paired."""
        if self._spin == 1:
            return np.zeros(len(self._numbers))
        up, down = self._previous_result.get("density-matrix")
        populations = ((up - down) * self._previous_result.get("overlap-matrix")).sum(1)
        atoms = self._calculator.get("shell-map")[self._calculator.get("orbital-map")]
        return np.bincount(atoms, populations, len(self._numbers))

    def _start(self, positions: np.ndarray) -> Any:
        unpaired = self._spin - 1
        calculator = self._calculator_class(
            "GFN2-xTB", self._numbers, positions, charge=float(self._charge), uhf=unpaired, **self._repeats
        )
        calculator.set("verbosity", 0)
        if unpaired:
            calculator.add("spin-polarization", 1.0)
            calculator.set("save-integrals", 1)  # for the spin populations
        return calculator


def gfn2_xtb(structure: Structure) -> Structure:
    """Label `structure` with GFN2-xTB: energy, forces, charges, spin populations, and stress or dipole.

    Raises:
        LabelingError: the self-consistent field did not converge.
        InputError: tblite is not installed, or the structure repeats in one or two directions only.
    """
    potential = GFN2(structure.numbers, structure.charge, structure.spin, structure.cell)
    energy, forces = potential(structure.positions)
    return replace(structure, energy=energy, forces=forces, **potential.more_labels())


def wb97m_v(structure: Structure, basis: str = "def2-tzvpd", density_fitting: bool = True) -> Structure:
    """Label `structure` with ωB97M-V, OMol25's functional, through PySCF.

    Forces are the derivative of the energy: the VV10 correlation and the motion of the integration grid with
    the atoms are part of the gradient. Charges and spin populations are Löwdin's, as OMol25 has them.

    Args:
        structure: what to label.
        basis: def2-TZVPD is OMol25's.
        density_fitting: see `mean_field`.

    Raises:
        LabelingError: the self-consistent field did not converge.
        InputError: PySCF is not installed, or the structure is periodic.
    """
    if structure.cell is not None:
        raise InputError(
            "wb97m-v labels molecules only, and this is periodic",
            where=structure.domain or structure.formula,
            remedy="set `method: gfn2-xtb`",
        )
    field = mean_field(structure, basis, density_fitting)
    energy = float(field.kernel())
    if not field.converged:
        raise LabelingError(SCF_FAILED)
    gradient = field.nuc_grad_method()
    gradient.grid_response = True
    forces, dipole = -gradient.kernel() * Hartree / Bohr, field.dip_moment(unit="AU", verbose=0) * Bohr
    return replace(
        structure,
        energy=energy * Hartree,
        forces=forces,
        **_lowdin(field),
        dipole=dipole - structure.charge * structure.center_of_mass,
    )


def _lowdin(field: Any) -> dict[str, Float64[np.ndarray, "atoms"]]:
    """Löwdin charges and spin populations, from the diagonals of √S P √S (J. Chem. Phys. 18, 365, 1950)."""
    eigenvalues, modes = np.linalg.eigh(field.get_ovlp())
    root = (modes * np.sqrt(eigenvalues.clip(min=0))) @ modes.T
    atoms = np.array([label[0] for label in field.mol.ao_labels(fmt=None)])
    density = field.make_rdm1()
    spins = density if density.ndim == 3 else np.stack([density, density]) / 2
    up, down = (np.bincount(atoms, ((root @ p) * root).sum(1), field.mol.natm) for p in spins)
    return {"charges": field.mol.atom_charges() - up - down, "spin_populations": up - down}


def mean_field(structure: Structure, basis: str = "def2-tzvpd", density_fitting: bool = True) -> Any:
    """The PySCF calculation behind `wb97m_v`, not yet run; unrestricted if electrons are unpaired.

    VV10 comes with the functional, is part of the self-consistent field, and varies so smoothly that the coarse
    grid is converged to a µeV. `density_fitting` fits Coulomb and exchange integrals in def2-universal-jkfit: on a
    water dimer that changes the energy by 1.6 meV and forces by at most 1 meV/Å.
    """
    gto, dft = import_optional("pyscf.gto", "dft"), import_optional("pyscf.dft", "dft")
    molecule = gto.M(
        atom=[(ELEMENTS[z], x) for z, x in zip(structure.numbers, structure.positions, strict=True)],
        basis=basis,
        ecp=basis if (structure.numbers > 36).any() else None,
        charge=structure.charge,
        spin=structure.spin - 1,
        verbose=0,
    )
    field = (dft.RKS if structure.spin == 1 else dft.UKS)(molecule, xc="wb97m-v")
    if density_fitting:
        field = field.density_fit(auxbasis="def2-universal-jkfit")
    field.conv_tol = 1e-9
    field.grids.level, field.nlcgrids.level = 4, 1
    return field


@dataclass(frozen=True)
class Method:
    """A reference method of the setting `method`.

    Attributes:
        label: gives a structure energy and forces, raises `LabelingError`.
        level_of_theory: what a pack says about the labels.
        package: what `label` needs: a module to import.
        extra: that brings it.
    """

    label: Callable[[Structure], Structure]
    level_of_theory: str
    package: str
    extra: str = "labels"


METHODS = {
    "gfn2-xtb": Method(gfn2_xtb, "GFN2-xTB (spin-polarised)", "tblite.interface"),
    "wb97m-v": Method(wb97m_v, "ωB97M-V/def2-TZVPD", "pyscf.dft", "dft"),
}


def require(name: str) -> None:
    """Import all that labelling with the method `name` needs; GFN2-xTB makes geometries for all methods.

    Raises:
        InputError: something is not installed; the message names the extra that brings it.
    """
    for module in ("rdkit.Chem", "tblite.interface", "joblib", "threadpoolctl"):
        import_optional(module)
    import_optional(METHODS[name].package, METHODS[name].extra)
