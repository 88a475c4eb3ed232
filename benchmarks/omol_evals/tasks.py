"""The seven evaluation tasks of OMol25: which calculations their input files ask for, and where each result goes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.io.jsonio import encode

from transip.errors import InputError

# All that the published files consist of; anything else could run code when it is loaded.
HARMLESS = {
    "ase.atoms": {"Atoms"},
    "ase.cell": {"Cell"},
    "builtins": {"complex", "set", "frozenset"},
    "collections": {"OrderedDict", "defaultdict"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.numeric": {"_frombuffer"},
}


class Calculation(NamedTuple):
    """One calculation of a task: where its result goes, whether it is a relaxation, the structure to start from."""

    path: tuple[str, ...]
    relax: bool
    atoms: ase.Atoms


def read_inputs(path: Path) -> dict[str, Any]:
    """Read a task's published input, a pickle, but nothing in it that is not a molecule, an array or a container.

    Raises:
        InputError: there is something else, or the file cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return _Harmless(handle).load()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"is no input of an OMol25 evaluation ({error})", where=str(path)) from error


class _Harmless(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in HARMLESS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")


def calculations(task: str, inputs: dict[str, Any]) -> Iterator[Calculation]:
    """The calculations of a task, each named as in the results that the official evaluator reads.

    Raises:
        InputError: the file is another task's.
    """
    try:
        for keys, relax, atoms in TASKS[task](inputs):
            if not isinstance(atoms, ase.Atoms):
                raise TypeError(f"{'/'.join(map(str, keys))} is {type(atoms).__name__}, not a molecule")
            yield Calculation(tuple(map(str, keys)), relax, atoms)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"is no input of the task {task} ({error!r})", remedy="name the task it belongs to") from error


Found = Iterator[tuple[tuple[Any, ...], bool, ase.Atoms]]


def _conformers(families: dict[str, Any]) -> Found:
    for family, conformers in families.items():
        for one in conformers:
            yield (family, one["sid"]), True, one["initial_atoms"]


def _protonation(families: dict[str, Any]) -> Found:
    for family, states in families.items():
        for name, state in states.items():
            yield (family, name), True, state["initial_atoms"]


def _ieea(systems: dict[str, Any]) -> Found:
    for system, charges in systems.items():
        for charge, spins in charges.items():
            for spin, entry in spins.items():
                yield (system, charge, spin), False, entry["atoms"]


def _spin_gap(systems: dict[str, Any]) -> Found:
    for system, spins in systems.items():
        for spin, entry in spins.items():
            yield (system, spin), False, entry["atoms"]


def _ligand_pocket(systems: dict[str, Any]) -> Found:
    for system, parts in systems.items():
        for part in ("ligand", "pocket", "ligand_pocket"):
            yield (system, part), False, parts[part]


def _ligand_strain(systems: dict[str, Any]) -> Found:
    for system, ligand in systems.items():
        yield (system, "bioactive"), False, ligand["bioactive_conf"]
        for number, atoms in enumerate(ligand["conformers"]):
            yield (system, "gas_phase", number), True, atoms


def _distance_scaling(verticals: dict[str, Any]) -> Found:
    for vertical, systems in verticals.items():
        for system, points in systems.items():
            for point, atoms in points.items():
                yield (vertical, system, point), False, atoms


TASKS: dict[str, Callable[[dict[str, Any]], Found]] = {
    "conformers": _conformers,
    "distance_scaling": _distance_scaling,
    "ieea": _ieea,
    "ligand_pocket": _ligand_pocket,
    "ligand_strain": _ligand_strain,
    "protonation": _protonation,
    "spin_gap": _spin_gap,
}


def nested(results: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Results by path as nested dictionaries."""
    tree: dict[str, Any] = {}
    for (*parents, last), result in results.items():
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[last] = result
    return tree


def described(atoms: ase.Atoms) -> dict[str, Any]:
    """A molecule as pymatgen's `MSONAtoms` has it, in which the evaluator reads it; without pymatgen."""
    bare = atoms.copy()
    bare.info = {}
    return {
        "@module": "pymatgen.io.ase",
        "@class": "MSONAtoms",
        "atoms_json": encode(bare),
        "atoms_info": json.loads(json.dumps(atoms.info, default=_plain)),
    }


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
