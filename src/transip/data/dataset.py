"""One numbering over chosen structures of several packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, Integer

from transip.batch import Batch
from transip.data.store import SCAN_CHUNK, Pack
from transip.errors import InputError
from transip.structure import Structure

Indices = Sequence[int] | Integer[np.ndarray, "chosen"]


class Dataset:
    """Structures chosen from one or more packs, numbered from 0.

    Args:
        packs: where the structures are.
        pack_index: for each structure, its pack.
        row_index: for each structure, its number in that pack.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        pack_index: Integer[np.ndarray, "structures"],
        row_index: Integer[np.ndarray, "structures"],
    ):
        self._packs, self._pack_index, self._row_index = tuple(packs), pack_index, row_index

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, require_compatible: bool = True) -> Dataset:
        """All structures of the packs at `paths`.

        Args:
            paths: of the packs.
            require_compatible: require that labels can be mixed; without it only geometries may be used.

        Raises:
            InputError: a pack cannot be used, levels of theory differ, or only some packs are labelled.
        """
        if not paths:
            raise InputError("no packed dataset is given", remedy="name at least one NAME.pack")
        packs = [Pack.open(path) for path in paths]
        for pack in packs[1:] if require_compatible else ():
            _check_compatible(packs[0], pack)
        sizes = [len(pack) for pack in packs]
        pack_index = np.repeat(np.arange(len(packs)), sizes)
        return cls(packs, pack_index, np.concatenate([np.arange(size) for size in sizes]))

    def __len__(self) -> int:
        return len(self._row_index)

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
    def atom_counts(self) -> Int64[np.ndarray, "structures"]:
        """Atoms per structure."""
        return self._per_structure([pack.atom_counts for pack in self._packs])

    @cached_property
    def domains(self) -> np.ndarray:
        """Chemical domain of each structure, an array of str."""
        names = [np.array(pack.domains, dtype=np.str_) for pack in self._packs]
        widest = max(array.dtype for array in names)
        domains = np.empty(len(self), dtype=widest)
        for code, rows, targets in self._by_pack():
            domains[targets] = names[code][self._packs[code].domain_codes[rows]]
        return domains

    @cached_property
    def charge(self) -> Int64[np.ndarray, "structures"]:
        """Total charges in e."""
        return self._per_structure([pack.charge for pack in self._packs])

    @cached_property
    def spin(self) -> Int64[np.ndarray, "structures"]:
        """Multiplicities 2S + 1."""
        return self._per_structure([pack.spin for pack in self._packs])

    def composition_hashes(self) -> Int64[np.ndarray, "structures"]:
        """One number per structure, shared iff two structures have the same atoms; see `Pack.composition_hashes`."""
        return self._per_structure([pack.composition_hashes() for pack in self._packs])

    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        present = np.zeros(256, dtype=bool)
        for batch in self.iter_batches():
            present[batch.numbers.numpy()] = True
        return [int(z) for z in np.flatnonzero(present)]

    def with_elements(self, elements: Sequence[int]) -> Dataset:
        """The structures in which any of these atomic numbers occurs."""
        chosen, start = [np.empty(0, dtype=np.int64)], 0
        for batch in self.iter_batches():
            atoms = np.isin(batch.numbers.numpy(), elements)
            chosen.append(start + np.unique(batch.structure_index.numpy()[atoms]))
            start += len(batch)
        return self.select(np.concatenate(chosen))

    def check_compatible(self, other: Dataset) -> None:
        """Make sure that labels of the two can be mixed or compared.

        Raises:
            InputError: levels of theory differ, or only one of them is labelled.
        """
        _check_compatible(self._packs[0], other._packs[0])

    def select(self, indices: Indices) -> Dataset:
        """The structures `indices`, renumbered from 0 in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(self._packs, self._pack_index[chosen], self._row_index[chosen])

    def __getitem__(self, i: int) -> Structure:
        return self._packs[self._pack_index[i]][int(self._row_index[i])]

    def source(self, i: int) -> str:
        """Where structure `i` comes from: SMILES or name; empty if that is not known."""
        return self._packs[self._pack_index[i]].source(int(self._row_index[i]))

    def describe(self, i: int) -> str:
        """How messages name structure `i`: pack, number in the pack, formula and source."""
        pack, row = self._packs[self._pack_index[i]], int(self._row_index[i])
        structure = pack[row]
        source = f", source {structure.source}" if structure.source else ""
        return f"{pack.path.name}, structure {row} ({structure.formula}{source})"

    def get_batch(self, indices: Indices) -> Batch:
        """The structures `indices`, in this order, as one float32 batch; `Batch.index` holds `indices`."""
        chosen = np.asarray(indices, dtype=np.int64)
        by_pack = list(self.select(chosen)._by_pack())
        batch = reduce(Batch.concatenate, [self._packs[code].get_batch(rows) for code, rows, _ in by_pack])
        if len(by_pack) > 1:
            batch = batch.index_select(
                torch.from_numpy(np.argsort(np.concatenate([targets for *_, targets in by_pack])))
            )
        return replace(batch, index=torch.from_numpy(chosen.copy()))

    def iter_batches(self, structures: int = SCAN_CHUNK) -> Iterator[Batch]:
        """All structures in order, as batches of `structures`: for statistics over a whole dataset."""
        for start in range(0, len(self), structures):
            yield self.get_batch(np.arange(start, min(start + structures, len(self))))

    def _by_pack(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each pack that occurs: its number, the rows taken from it, and their places here."""
        for code in np.unique(self._pack_index):
            targets = np.flatnonzero(self._pack_index == code)
            yield int(code), self._row_index[targets], targets

    def _per_structure(self, columns: Sequence[np.ndarray]) -> Int64[np.ndarray, "structures"]:
        values = np.empty(len(self), dtype=np.int64)
        for code, rows, targets in self._by_pack():
            values[targets] = columns[code][rows]
        return values


def _check_compatible(reference: Pack, other: Pack) -> None:
    for key, name in (("level_of_theory", "levels of theory"), ("labelled", "labelled and unlabelled data")):
        if reference.meta[key] != other.meta[key]:
            raise InputError(
                f"{name} cannot be mixed: {reference.meta[key]!r} in {reference.path.name}, {other.meta[key]!r} here",
                where=str(other.path),
                remedy="train on packs of one kind",
            )
