"""A chunk: what one worker labels in one go, and what a killed campaign finds again on disk."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from ase.neighborlist import neighbor_list

from transip.config import DomainSettings, LabelSettings
from transip.errors import InputError
from transip.extras import import_optional
from transip.files import atomic_path
from transip.labels import methods, sources
from transip.labels.molecules import LabelingError
from transip.structure import MIN_DISTANCE, OPTIONAL_FIELDS, Structure, from_optional_entries

# fields of a `Structure` as they are stored
PER_ATOM = {"numbers": np.empty(0, dtype=np.int64), "positions": np.empty((0, 3)), "forces": np.empty((0, 3))}
PER_STRUCTURE, TEXTS = ("charge", "spin", "energy"), ("domain", "source")


@dataclass(frozen=True, eq=False)
class Chunk:
    """Labelled structures, and how many geometries or molecules failed, by reason."""

    structures: list[Structure]
    failures: dict[str, int]

    def save(self, path: Path) -> None:
        """Write to `path`, a NumPy archive without pickled objects."""
        structures = self.structures
        texts = {"failures": self.failures} | {name: [getattr(s, name) for s in structures] for name in TEXTS}
        arrays: dict[str, Any] = {name: np.array([getattr(s, name) for s in structures]) for name in PER_STRUCTURE}
        for name, nothing in PER_ATOM.items():
            arrays[name] = np.concatenate([nothing, *(getattr(s, name) for s in structures)])
        for name, field in OPTIONAL_FIELDS.items():
            arrays[name] = np.concatenate([field.fill_entries(0), *(s.optional_entries(name) for s in structures)])
        arrays |= {
            "counts": np.array([len(s) for s in structures], dtype=np.int64),
            "texts": np.array(json.dumps(texts)),
        }
        with atomic_path(path) as partial, partial.open("wb") as handle:
            np.savez(handle, **arrays)

    @classmethod
    def load(cls, path: Path) -> Chunk:
        """Read what `save` wrote.

        Raises:
            InputError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)  # checked against the archive's checksums
            texts = json.loads(str(arrays["texts"]))
            return cls(_unpack(arrays, texts), texts["failures"])
        except Exception as error:  # a damaged archive raises nearly anything
            raise InputError(f"is damaged ({error})", where=str(path), remedy="remove it: it is made again") from error


def _unpack(arrays: dict[str, np.ndarray], texts: dict[str, Any]) -> list[Structure]:
    ends = np.cumsum(arrays["counts"])
    columns: dict[str, list[Any]] = {name: np.split(arrays[name], ends)[:-1] for name in PER_ATOM}
    columns |= {name: arrays[name].tolist() for name in PER_STRUCTURE} | {name: texts[name] for name in TEXTS}
    for name, field in OPTIONAL_FIELDS.items():
        entries = np.split(arrays[name], ends)[:-1] if field.per_atom else arrays[name][:, None]
        columns[name] = [from_optional_entries(name, e) for e in entries]
    return [Structure(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def label_chunk(settings: LabelSettings, entry: int, chunk: int) -> Chunk:
    """Label chunk number `chunk` of ``settings.domains[entry]``; depends on nothing but the arguments.

    Raises:
        InputError: a dependency is missing, or the domain has no molecule small enough.
    """
    methods.require(settings.method)
    threads = import_optional("threadpoolctl")
    with threads.threadpool_limits(1):  # more are slower, and their sums differ from run to run
        return _label_chunk(settings, entry, chunk)


def _label_chunk(settings: LabelSettings, entry: int, chunk: int) -> Chunk:
    domain = settings.domains[entry]
    molecules = ceil(settings.chunk / domain.conformers)
    structures: list[Structure] = []
    failures: Counter[str] = Counter()
    for index in range(chunk * molecules, (chunk + 1) * molecules):
        seed = (settings.seed, entry)
        try:
            molecule = sources.sample_molecule(domain, seed, index)
            geometry_rng = np.random.default_rng([*seed, 1, index])
            for number, geometry in enumerate(molecule.geometries(domain, geometry_rng)):
                try:
                    labelled = molecule.check_labels(_label(geometry, domain, settings.method))
                    source = f"{molecule.source} {entry}.{index}.{number}"  # unique in the campaign
                    structures.append(replace(labelled, source=source))
                except LabelingError as failed:
                    failures[failed.reason] += 1
        except LabelingError as failed:  # of the whole molecule
            failures[failed.reason] += 1
    return Chunk(structures, dict(failures))


def _label(structure: Structure, settings: DomainSettings, method: str) -> Structure:
    """Return `structure` with the labels of `method`.

    Raises:
        LabelingError: atoms overlap, the SCF does not converge, or an atom's force exceeds `settings.max_force`.
    """
    if len(neighbor_list("i", structure.to_atoms(), MIN_DISTANCE)):  # images of atoms among them
        raise LabelingError("atoms overlap")
    if structure.energy is None or method != "gfn2-xtb":
        structure = methods.METHODS[method].label(structure)
    assert structure.forces is not None
    if np.linalg.norm(structure.forces, axis=1).max() > settings.max_force:
        raise LabelingError("force above max_force")
    return structure.check()
