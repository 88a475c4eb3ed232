"""One view over parts of several packs, and how it is split into training and validation data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer

from transip.batch import Batch
from transip.config import DataSettings
from transip.data.store import BLOCK, Pack, atoms_of
from transip.errors import InputError, InputWarning
from transip.structure import MAX_ATOMIC_NUMBER, Structure

Indices = Sequence[int] | Integer[np.ndarray, "chosen"]


class Dataset:
    """Structures chosen from one or more packs, numbered from 0.

    Args:
        packs: where the structures are.
        pack_of: for each structure, its pack.
        row_of: for each structure, its number in that pack.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        pack_of: Integer[np.ndarray, "structures"],
        row_of: Integer[np.ndarray, "structures"],
    ):
        self._packs, self._pack_of, self._row_of = tuple(packs), pack_of, row_of

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, alike: bool = True) -> Dataset:
        """All structures of the packs at `paths`.

        Args:
            paths: of the packs.
            alike: require that labels can be mixed; without it only geometries may be used.

        Raises:
            InputError: a pack cannot be used, levels of theory differ, or only some packs are labelled.
        """
        if not paths:
            raise InputError("no packed dataset is given", remedy="name at least one NAME.pack")
        packs = [Pack.open(path) for path in paths]
        for pack in packs[1:] if alike else ():
            _check_alike(packs[0], pack)
        sizes = [len(pack) for pack in packs]
        pack_of = np.repeat(np.arange(len(packs)), sizes)
        return cls(packs, pack_of, np.concatenate([np.arange(size) for size in sizes]))

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def labelled(self) -> bool:
        """Whether every structure has an energy and forces; otherwise none has."""
        return self._packs[0].labelled

    @property
    def level_of_theory(self) -> str:
        """Of the labels, the same in all packs."""
        return self._packs[0].meta["level_of_theory"]

    @property
    def periodic(self) -> bool:
        """Whether any of the packs holds crystals or liquids."""
        return any("cell" in pack.meta["optional"] for pack in self._packs)

    @cached_property
    def counts(self) -> Int64[np.ndarray, "structures"]:
        """Atoms per structure."""
        return self._per_structure([pack.counts for pack in self._packs])

    @cached_property
    def domains(self) -> np.ndarray:
        """Chemical domain of each structure, an array of str."""
        names = [np.array(pack.domains, dtype=np.str_) for pack in self._packs]
        widest = max(array.dtype for array in names)
        domains = np.empty(len(self), dtype=widest)
        for code, rows, places in self._parts():
            domains[places] = names[code][self._packs[code].domain_codes[rows]]
        return domains

    def charges(self) -> Int64[np.ndarray, "structures"]:
        """Total charges in e."""
        return self._per_structure([pack.charge for pack in self._packs])

    def spins(self) -> Int64[np.ndarray, "structures"]:
        """Multiplicities 2S + 1."""
        return self._per_structure([pack.spin for pack in self._packs])

    def compositions(self) -> Int64[np.ndarray, "structures"]:
        """An id per structure, shared iff two structures have the same atoms; see `Pack.compositions`."""
        return self._per_structure([pack.compositions() for pack in self._packs])

    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        present = np.zeros(256, dtype=bool)
        for batch in self.blocks():
            present[batch.numbers.numpy()] = True
        return [int(z) for z in np.flatnonzero(present)]

    def select(self, indices: Indices) -> Dataset:
        """The structures `indices`, renumbered from 0 in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(self._packs, self._pack_of[chosen], self._row_of[chosen])

    def structure(self, i: int) -> Structure:
        """Structure number `i`."""
        return self._packs[self._pack_of[i]].structure(int(self._row_of[i]))

    def describe(self, i: int) -> str:
        """How messages name structure `i`: pack, number in the pack, formula and source."""
        pack, row = self._packs[self._pack_of[i]], int(self._row_of[i])
        structure = pack.structure(row)
        source = f", source {structure.source}" if structure.source else ""
        return f"{pack.path.name}, structure {row} ({structure.formula}{source})"

    def batch(self, indices: Indices) -> Batch:
        """The structures `indices`, in this order, as one float32 batch; `Batch.index` holds `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        parts = list(self.select(chosen)._parts())
        batch = reduce(Batch.followed_by, [self._packs[code].batch(rows) for code, rows, _ in parts])
        if len(parts) > 1:
            batch = _reordered(batch, np.argsort(np.concatenate([places for *_, places in parts])))
        return replace(batch, index=torch.from_numpy(chosen.copy()))

    def blocks(self, structures: int = BLOCK) -> Iterator[Batch]:
        """All structures in order, as batches of `structures`: for statistics over a whole dataset."""
        for start in range(0, len(self), structures):
            yield self.batch(np.arange(start, min(start + structures, len(self))))

    def _parts(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each pack that occurs: its number, the rows taken from it, and their places here."""
        for code in np.unique(self._pack_of):
            places = np.flatnonzero(self._pack_of == code)
            yield int(code), self._row_of[places], places

    def _per_structure(self, columns: Sequence[np.ndarray]) -> Int64[np.ndarray, "structures"]:
        values = np.empty(len(self), dtype=np.int64)
        for code, rows, places in self._parts():
            values[places] = columns[code][rows]
        return values


def split_by_composition(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split into (train, held out) so that no composition is in both.

    Compositions are drawn at random until about `fraction` of the structures is held out. The choice depends
    on the set of compositions and their sizes, not on the order of the structures. The last composition
    with an element stays in training: errors on an element never seen would say nothing.

    Raises:
        InputError: a split with structures on both sides is asked for, but there is only one composition.
    """
    ids, examples, member, sizes = np.unique(
        dataset.compositions(), return_index=True, return_inverse=True, return_counts=True
    )
    if 0 < fraction < 1 and len(ids) < 2:
        raise InputError(
            f"{len(dataset)} structures of one composition cannot be split by composition",
            remedy="give validation data of its own (data.validation)",
        )
    held_out = np.zeros(len(ids), dtype=bool)
    total, target = 0, fraction * len(dataset)
    present = _elements_present(dataset.select(examples))
    trained = present.sum(0)  # compositions left for training, per element
    for i in np.random.default_rng(seed).permutation(len(ids)):
        alone = fraction < 1 and (trained[present[i]] == 1).any()
        if total + sizes[i] <= target and not alone:
            held_out[i] = True
            total += sizes[i]
            trained -= present[i]
    if fraction > 0 and not held_out.any():  # every composition is larger than the share: take the smallest
        held_out[sizes.argmin()] = True
    mask = held_out[member]
    return dataset.select(np.flatnonzero(~mask)), dataset.select(np.flatnonzero(mask))


def _elements_present(dataset: Dataset) -> Bool[np.ndarray, "structures elements"]:
    """Which elements each structure has."""
    present = np.zeros((len(dataset), MAX_ATOMIC_NUMBER + 1), dtype=bool)
    start = 0
    for batch in dataset.blocks():
        present[start + batch.structure.numpy(), batch.numbers.numpy()] = True
        start += len(batch)
    return present


def prepare(settings: DataSettings) -> tuple[Dataset, Dataset]:
    """Open the packs of a recipe and return (training, validation) data, split and cut as it says.

    Warns (`InputWarning`) if validation packs share compositions with the training packs.

    Raises:
        InputError: a pack cannot be used, packs do not fit together, they are unlabelled, or nothing is left
            to train on or to validate with.
    """
    train, validation = _split(settings)
    if settings.validation:
        _warn_of_overlap(train, validation)
    for name, part in (("training", train), ("validation", validation)):
        if not len(part):
            raise InputError(
                f"no structures are left for {name}",
                where=", ".join(settings.train),
                remedy="choose data.validation_fraction between 0 and 1, or give data.validation",
            )
    return (
        _subset(train, settings.max_train, settings.seed),
        _subset(validation, settings.max_validation, settings.seed),
    )


def prepare_unlabelled(settings: DataSettings) -> Dataset:
    """Open the packs of which a recipe uses only geometries, without the compositions held out for validation.

    Raises:
        InputError: a pack cannot be used, or nothing is left.
    """
    pool, (_, held_out) = Dataset.open(settings.unlabelled, alike=False), _split(settings)
    left = np.flatnonzero(~np.isin(pool.compositions(), held_out.compositions()))
    if not len(left):
        raise InputError(
            f"all {len(pool)} structures have a composition that is held out for validation",
            where=", ".join(settings.unlabelled),
            remedy="give unlabelled packs with other molecules, or hold out less (data.validation_fraction)",
        )
    return pool.select(left)


def _split(settings: DataSettings) -> tuple[Dataset, Dataset]:
    """Training and held-out structures, before either is cut."""
    train = Dataset.open(settings.train)
    if not train.labelled:
        raise InputError("has no energies and forces", where=", ".join(settings.train), remedy="give labelled packs")
    if not settings.validation:
        return split_by_composition(train, settings.validation_fraction, settings.seed)
    validation = Dataset.open(settings.validation)
    _check_alike(train._packs[0], validation._packs[0])
    return train, validation


def _subset(dataset: Dataset, size: int | None, seed: int) -> Dataset:
    if size is None or size >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).choice(len(dataset), size, replace=False)
    return dataset.select(np.sort(chosen))  # ascending: neighbouring rows are read together


def _warn_of_overlap(train: Dataset, validation: Dataset) -> None:
    shared = np.isin(validation.compositions(), train.compositions()).sum()
    if shared:
        warnings.warn(
            f"{shared} of {len(validation)} validation structures have a composition that is "
            "also trained on: their errors say little about unseen molecules",
            InputWarning,
            stacklevel=3,
        )


def _check_alike(first: Pack, other: Pack) -> None:
    for key, name in (("level_of_theory", "levels of theory"), ("labelled", "labelled and unlabelled data")):
        if first.meta[key] != other.meta[key]:
            raise InputError(
                f"{name} cannot be mixed: {first.meta[key]!r} in {first.path.name}, {other.meta[key]!r} here",
                where=str(other.path),
                remedy="train on packs of one kind",
            )


def _reordered(batch: Batch, order: np.ndarray) -> Batch:
    """The structures of `batch` in another order."""
    counts = batch.counts.numpy()
    structures = torch.from_numpy(order)
    atoms = torch.from_numpy(atoms_of((np.cumsum(counts) - counts)[order], counts[order]))
    return replace(
        batch,
        numbers=batch.numbers[atoms],
        positions=batch.positions[atoms],
        structure=torch.from_numpy(np.repeat(np.arange(len(order)), counts[order])),
        counts=batch.counts[structures],
        charge=batch.charge[structures],
        spin=batch.spin[structures],
        cell=None if batch.cell is None else batch.cell[structures],
        energy=None if batch.energy is None else batch.energy[structures],
        forces=None if batch.forces is None else batch.forces[atoms],
        stress=None if batch.stress is None else batch.stress[structures],
    )
