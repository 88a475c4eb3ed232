"""`transip data info`: what is in a pack or in a file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from transip.batch import Batch
from transip.config import KeySettings, UnitSettings
from transip.data.read import DEFAULT_KEYS, DEFAULT_UNITS, inspect_keys, is_pack, missing_keys, read_structures
from transip.data.store import SCAN_CHUNK, Pack
from transip.errors import InputError
from transip.io.files import read_frames
from transip.structure import ELEMENTS, OPTIONAL_FIELDS, Structure


@dataclass
class Summary:
    """What a file or a packed dataset holds, counted batch by batch; energies in eV, forces in eV/Å.

    Attributes:
        path: what was read.
        level_of_theory: of the labels; empty if the file does not say.
        keys: label → keys of the file it was found under; ``"unused"`` lists the others.
        units: of the file as it was read; those of a pack are always eV and Å.
        remarks: what to do before the file can be used.
        structures, labelled: number of structures, and of those with energy and forces.
        atoms, smallest, largest: number of atoms in all, in the smallest and in the largest structure.
        lowest, highest: total energies; infinite if nothing is labelled.
        force_squares, force_max: Σ‖F‖² over atoms, and the largest ‖F‖.
        elements, charges, spins, domains: value → atoms or structures.
        other_labels: label beside energy and forces → structures.
    """

    path: str
    level_of_theory: str = ""
    keys: dict[str, list[str]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=lambda: DEFAULT_UNITS.model_dump(exclude_none=True))
    remarks: list[str] = field(default_factory=list)
    structures: int = 0
    labelled: int = 0
    atoms: int = 0
    labelled_atoms: int = 0
    smallest: float = math.inf
    largest: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    force_squares: float = 0.0
    force_max: float = 0.0
    elements: Counter[str] = field(default_factory=Counter)
    charges: Counter[int] = field(default_factory=Counter)
    spins: Counter[int] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    other_labels: Counter[str] = field(default_factory=Counter)

    def add(self, batch: Batch, domains: Sequence[str]) -> None:
        """Count the structures of `batch`, whose domains are `domains`."""
        self.add_geometries(batch.atom_counts.tolist(), batch.numbers.numpy())
        self.charges.update(batch.charge.tolist())
        self.spins.update(batch.spin.tolist())
        self.domains.update(domains)
        first = batch.atom_counts.cumsum(0) - batch.atom_counts
        for name in ("stress", "charges", "spin_populations", "dipole"):
            if (values := getattr(batch, name)) is not None:
                entries = values[first] if OPTIONAL_FIELDS[name].per_atom else values
                self.other_labels[name] += int((~entries.view(len(batch), -1)[:, 0].isnan()).sum())
        if batch.energy is not None and batch.forces is not None:
            squares = batch.forces.double().square().sum(-1)
            self.labelled += len(batch)
            self.labelled_atoms += batch.num_atoms
            self.lowest = min(self.lowest, float(batch.energy.min()))
            self.highest = max(self.highest, float(batch.energy.max()))
            self.force_squares += float(squares.sum())
            self.force_max = max(self.force_max, float(squares.max().sqrt()))

    def add_geometries(self, atom_counts: Sequence[int], numbers: np.ndarray) -> None:
        """Count structures of so many atoms, with these atomic numbers one after another."""
        self.structures += len(atom_counts)
        self.atoms += sum(atom_counts)
        self.smallest = min(self.smallest, *atom_counts)
        self.largest = max(self.largest, *atom_counts)
        for z, count in zip(*np.unique(numbers, return_counts=True), strict=True):
            self.elements[ELEMENTS[z] if 0 < z < len(ELEMENTS) else str(z)] += int(count)

    @property
    def force_rms(self) -> float:
        """√⟨‖F‖²⟩ over atoms."""
        return math.sqrt(self.force_squares / max(self.labelled_atoms, 1))

    def table(self) -> Table:
        """The summary for a terminal."""
        table = Table(title=escape(self.path), show_header=False, title_justify="left")
        labelled = f" ({self.labelled} labelled)" if self.charges else ""
        mean = self.atoms / self.structures
        table.add_row("structures", f"{self.structures}{labelled}")
        table.add_row("atoms", f"{self.atoms}; {self.smallest} to {self.largest} a structure, mean {mean:.1f}")
        if self.charges:
            table.add_row("level of theory", escape(self.level_of_theory) or "not stated")
        if self.labelled:
            table.add_row("total energy", f"{self.lowest:.3f} to {self.highest:.3f} eV")
            table.add_row("forces", f"RMS {self.force_rms:.3f}, largest {self.force_max:.3f} eV/Å")
        order = {symbol: z for z, symbol in enumerate(ELEMENTS)}
        counts = {
            "elements": sorted(self.elements.items(), key=lambda item: order.get(item[0], 0)),
            "charges": sorted(self.charges.items()),
            "spins": sorted(self.spins.items()),
            "domains": self.domains.most_common(),
            "other labels": [(name.replace("_", " "), count) for name, count in self.other_labels.items() if count],
        }
        for name, items in counts.items():
            if items:
                texts = (f"{value if value != '' else '(none)'}: {count}" for value, count in items)
                table.add_row(name, escape("  ".join(texts)))
        table.add_row("units", "  ".join(f"{name}: {unit}" for name, unit in self.units.items()))
        if self.keys:
            texts = (f"{label}: {', '.join(map(str, keys)) or '–'}" for label, keys in self.keys.items())
            table.add_row("keys", escape("\n".join(texts)))
        if self.remarks:
            table.add_row("to do", escape("\n".join(self.remarks)))
        return table


def summarize(path: Path, keys: KeySettings = DEFAULT_KEYS, units: UnitSettings = DEFAULT_UNITS) -> Summary:
    """Report what a pack or any readable file holds; labels, charge and spin may be missing.

    Raises:
        InputError: as `read_structures`; a structure has no list of atomic numbers.
    """
    if is_pack(path):
        return summarize_pack(Pack.open(path))
    summary = Summary(str(path), keys=inspect_keys(path, keys), units=units.model_dump(exclude_none=True))
    console, title = Console(stderr=True), f"reading {path.name}"
    if missing := missing_keys(path, keys):
        for where, frame in track(read_frames(path), title, console=console):
            numbers = np.asarray(frame.numbers)
            if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
                raise InputError("holds no list of atomic numbers", where=where)
            summary.add_geometries([len(numbers)], numbers.astype(np.int64))
        summary.remarks = [
            f"{name} is missing: add it to each structure ({key}=…), or name its key (--{name}-key) to data pack"
            for name, key in missing.items()
        ]
        return summary
    structures = read_structures(path, keys, units, labels="optional", when_missing="add it to the file")
    for block in _uniform_blocks(track(structures, title, console=console)):
        summary.add(Batch.collate(block), [s.domain for s in block])
    return summary


def summarize_pack(pack: Pack) -> Summary:
    """Report what an open pack holds."""
    keys = pack.meta.get("provenance", {}).get("keys", {})
    summary = Summary(str(pack.path), pack.meta["level_of_theory"], keys)
    names = np.array(pack.domains, dtype=np.str_)
    for start in range(0, len(pack), SCAN_CHUNK):
        rows = np.arange(start, min(start + SCAN_CHUNK, len(pack)))
        summary.add(pack.get_batch(rows), names[pack.domain_codes[rows]].tolist())
    return summary


def _uniform_blocks(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    """Runs of structures that are all labelled or all unlabelled, bounded in size."""
    structures = iter(structures)
    while block := list(islice(structures, 1024)):
        labelled = [s for s in block if s.energy is not None and s.forces is not None]
        unlabelled = [s for s in block if s.energy is None or s.forces is None]
        yield from filter(None, (labelled, unlabelled))
