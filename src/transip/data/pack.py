"""`transip data pack` and `transip data info`: files into a packed dataset, and what is in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from transip.batch import Batch
from transip.config import KeySettings, UnitSettings
from transip.data.read import DEFAULT_KEYS, DEFAULT_UNITS, inspect_keys, is_pack, read_structures
from transip.data.store import SCAN_CHUNK, Pack, write_pack
from transip.errors import InputError
from transip.files import output_lock
from transip.structure import ELEMENTS, Structure

NAME_THE_KEY = "add it to the file or name its key (--{name}-key, keys.{name})"


@dataclass(frozen=True)
class ReadReport:
    """What a file or a packed dataset holds; energies in eV, forces in eV/Å.

    Attributes:
        path: what was read.
        level_of_theory: of the labels; empty if the file does not say.
        structures: number of structures.
        labelled: how many of them have energy and forces.
        atoms: number of atoms in all structures.
        smallest, largest: atoms of the smallest and the largest structure.
        energy_range: lowest and highest total energy; None if nothing is labelled.
        force_rms: √⟨‖F‖²⟩ over atoms.
        force_max: largest ‖F‖ of any atom.
        elements: symbol → atoms.
        charges, spins, domains: value → structures.
        keys: label → keys of the file it was found under; ``"unused"`` lists the others.
        units: in which the file was written.
    """

    path: str
    level_of_theory: str
    structures: int
    labelled: int
    atoms: int
    smallest: int
    largest: int
    energy_range: tuple[float, float] | None
    force_rms: float | None
    force_max: float | None
    elements: dict[str, int]
    charges: dict[int, int]
    spins: dict[int, int]
    domains: dict[str, int]
    keys: dict[str, list[str]]
    units: dict[str, str]

    @property
    def mean_atoms(self) -> float:
        """Atoms per structure."""
        return self.atoms / self.structures

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"mean_atoms": self.mean_atoms}

    def table(self) -> Table:
        """The report for a terminal."""
        table = Table(title=escape(self.path), show_header=False, title_justify="left")
        table.add_row("structures", f"{self.structures} ({self.labelled} labelled)")
        table.add_row(
            "atoms",
            f"{self.atoms}; {self.smallest} to {self.largest} a structure, mean {self.mean_atoms:.1f}",
        )
        table.add_row("level of theory", escape(self.level_of_theory) or "not stated")
        if self.energy_range:
            low, high = self.energy_range
            table.add_row("total energy", f"{low:.3f} to {high:.3f} eV")
            table.add_row("forces", f"RMS {self.force_rms:.3f}, largest {self.force_max:.3f} eV/Å")
        for name in ("elements", "charges", "spins", "domains"):
            counts = getattr(self, name).items()
            texts = (f"{value if value != '' else '(none)'}: {count}" for value, count in counts)
            table.add_row(name, escape("  ".join(texts)))
        table.add_row("units", "  ".join(f"{name}: {unit}" for name, unit in self.units.items()))
        if self.keys:
            texts = (f"{label}: {', '.join(map(str, keys)) or '–'}" for label, keys in self.keys.items())
            table.add_row("keys", escape("\n".join(texts)))
        return table


def pack_files(
    inputs: Sequence[Path],
    output: Path,
    *,
    level_of_theory: str,
    keys: KeySettings = DEFAULT_KEYS,
    units: UnitSettings = DEFAULT_UNITS,
    overwrite: bool = False,
) -> ReadReport:
    """Read labelled files in the given order and write one packed dataset; it is complete or absent.

    Args:
        inputs: anything `read_structures` reads.
        output: the pack, `NAME.pack`.
        level_of_theory: of the labels; must be that of any pack among `inputs`.
        keys: where labels, charge and spin are stored in the files.
        units: in which the files are written.
        overwrite: replace `output` if it exists.

    Raises:
        InputError: as `read_structures` and `write_pack`, or another process is writing `output`.
    """
    if not inputs:
        raise InputError("no input files are given", remedy="name at least one file to pack")
    for path in filter(is_pack, inputs):
        recorded = Pack.open(path).meta["level_of_theory"]
        if recorded != level_of_theory:
            raise InputError(
                f"was labelled with {recorded!r}, not {level_of_theory!r}",
                where=str(path),
                remedy="do not mix levels of theory in a pack",
            )
    files = [path for path in inputs if not is_pack(path)]
    with output_lock(output):
        pack = write_pack(
            output,
            chain.from_iterable(read_structures(path, keys, units, when_missing=NAME_THE_KEY) for path in inputs),
            level_of_theory=level_of_theory,
            provenance={
                "inputs": [path.name for path in inputs],
                "keys": inspect_keys(files[0], keys) if files else {},
                "units": units.model_dump(exclude_none=True) if files else {},
            },
            overwrite=overwrite,
            progress=f"packing {output.name}",
        )
    return _summarize_pack(pack)


def summarize(path: Path, keys: KeySettings = DEFAULT_KEYS, units: UnitSettings = DEFAULT_UNITS) -> ReadReport:
    """Report what a pack or any readable file holds; labels may be missing.

    Raises:
        InputError: as `read_structures`.
    """
    if is_pack(path):
        return _summarize_pack(Pack.open(path))
    stats = _RunningStats()
    structures = track(
        read_structures(path, keys, units, labels="optional", when_missing="add it to the file"),
        f"reading {path.name}",
        console=Console(stderr=True),
    )
    for block in _blocks(structures):
        stats.add(Batch.collate(block), [s.domain for s in block])
    return stats.report(
        str(path), level_of_theory="", keys=inspect_keys(path, keys), units=units.model_dump(exclude_none=True)
    )


def _summarize_pack(pack: Pack) -> ReadReport:
    stats, names = _RunningStats(), np.array(pack.domains, dtype=np.str_)
    for start in range(0, len(pack), SCAN_CHUNK):
        rows = np.arange(start, min(start + SCAN_CHUNK, len(pack)))
        stats.add(pack.get_batch(rows), names[pack.domain_codes[rows]].tolist())
    recorded = pack.meta.get("provenance", {}).get("keys", {})
    return stats.report(
        str(pack.path),
        level_of_theory=pack.meta["level_of_theory"],
        keys=recorded,
        units=DEFAULT_UNITS.model_dump(exclude_none=True),
    )


def _blocks(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    """Runs of structures that are all labelled or all unlabelled, bounded in size."""
    structures = iter(structures)
    while block := list(islice(structures, 1024)):
        labelled = [s for s in block if s.energy is not None and s.forces is not None]
        unlabelled = [s for s in block if s.energy is None or s.forces is None]
        yield from filter(None, (labelled, unlabelled))


@dataclass
class _RunningStats:
    """Sums over batches from which a report is made."""

    structures: int = 0
    labelled: int = 0
    atoms: int = 0
    labelled_atoms: int = 0
    smallest: float = math.inf
    largest: int = 0
    energies: tuple[float, float] = (math.inf, -math.inf)
    force_squares: float = 0.0
    force_max: float = 0.0
    elements: Counter[int] = field(default_factory=Counter)
    charges: Counter[int] = field(default_factory=Counter)
    spins: Counter[int] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)

    def add(self, batch: Batch, domains: Sequence[str]) -> None:
        """Count the structures of `batch`, whose domains are `domains`."""
        self.structures += len(batch)
        self.atoms += batch.num_atoms
        self.smallest = min(self.smallest, int(batch.atom_counts.min()))
        self.largest = max(self.largest, batch.max_num_atoms)
        self.elements.update(batch.numbers.tolist())
        self.charges.update(batch.charge.tolist())
        self.spins.update(batch.spin.tolist())
        self.domains.update(domains)
        if batch.energy is not None and batch.forces is not None:
            squares = batch.forces.double().square().sum(-1)
            self.labelled += len(batch)
            self.labelled_atoms += batch.num_atoms
            low, high = self.energies
            self.energies = (min(low, float(batch.energy.min())), max(high, float(batch.energy.max())))
            self.force_squares += float(squares.sum())
            self.force_max = max(self.force_max, float(squares.max().sqrt()))

    def report(
        self, path: str, *, level_of_theory: str, keys: dict[str, list[str]], units: dict[str, str]
    ) -> ReadReport:
        """The report of everything counted so far."""
        return ReadReport(
            path=path,
            level_of_theory=level_of_theory,
            structures=self.structures,
            labelled=self.labelled,
            atoms=self.atoms,
            smallest=int(self.smallest),
            largest=self.largest,
            energy_range=self.energies if self.labelled else None,
            force_rms=math.sqrt(self.force_squares / self.labelled_atoms) if self.labelled else None,
            force_max=self.force_max if self.labelled else None,
            elements={ELEMENTS[z]: self.elements[z] for z in sorted(self.elements)},
            charges=dict(sorted(self.charges.items())),
            spins=dict(sorted(self.spins.items())),
            domains=dict(self.domains.most_common()),
            keys=keys,
            units=units,
        )
