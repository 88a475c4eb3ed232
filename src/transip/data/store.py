"""The packed dataset `NAME.pack/`: flat memory-mapped arrays and a `meta.json`, readable with NumPy alone.

The arrays are described in `transip.data.columns`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int64, Integer
from pydantic import ConfigDict, Field
from rich.console import Console
from rich.progress import track

from transip.config import Settings, parse
from transip.data.columns import NpyWriter, column_names, load_column
from transip.errors import InputError, printable
from transip.files import read_json, write_json
from transip.structure import ELEMENTS, MAX_ATOMIC_NUMBER, OPTIONAL_FIELDS, Structure, from_optional_entries

if TYPE_CHECKING:
    from transip.batch import Batch

FORMAT = "transip-pack"
VERSION = 1
UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å³", "charge": "e", "spin": "multiplicity 2S+1"}
UNITS |= {"charges": "e", "spin_populations": "unpaired electrons", "dipole": "e·Å"}
COPY_AGAIN = "the pack is corrupt; copy it again or pack the data again"
UNKNOWN = "unknown"  # level of theory of labels about which nobody said it
MAX_DOMAINS = 1000  # more are identifiers taken for domains
SCAN_CHUNK = 16_384  # structures read at once when a whole pack is scanned

# one random 64-bit number per element: a composition's id is the sum over its atoms, modulo 2⁶⁴
_ELEMENT_KEYS = np.random.default_rng(20250527).integers(0, 2**64, size=256, dtype=np.uint64)


class Pack:
    """A packed dataset on disk. Cheap to open and to send to another process; safe under fork."""

    def __init__(self, path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.path, self.meta, self._arrays = path, meta, arrays
        self.atom_counts: Int64[np.ndarray, "structures"] = np.diff(arrays["offsets"])

    @classmethod
    def open(cls, path: str | Path) -> Pack:
        """Open `NAME.pack`; of its arrays only those that say where structures and texts are are read yet.

        Raises:
            InputError: there is no pack at `path`, its format is newer than this transip, or an array is
                missing, truncated, of another type or of another length than `meta.json` says, or points to what
                is not there.
        """
        path = Path(path)
        meta = _read_meta(path)
        arrays = {name: load_column(path, name) for name in column_names(meta["labelled"], meta["optional"])}
        _check_sizes(path, meta, arrays)
        _check_indices(path, meta, arrays)
        return cls(path, meta, arrays)

    def __len__(self) -> int:
        return len(self.atom_counts)

    def __reduce__(self) -> tuple[Any, ...]:  # memory maps travel to workers as a path, not as their content
        return Pack.open, (self.path,)

    @property
    def labelled(self) -> bool:
        """Whether every structure has an energy and forces; otherwise none has."""
        return self.meta["labelled"]

    @property
    def domains(self) -> list[str]:
        """Names of the chemical domains; `domain_codes` index this list."""
        return self.meta["domains"]

    @property
    def domain_codes(self) -> Integer[np.ndarray, "structures"]:
        """Domain of each structure, an index into `domains`."""
        return self._arrays["domain"]

    @property
    def charge(self) -> Integer[np.ndarray, "structures"]:
        """Total charges in e."""
        return self._arrays["charge"]

    @property
    def spin(self) -> Integer[np.ndarray, "structures"]:
        """Multiplicities 2S + 1."""
        return self._arrays["spin"]

    def __getitem__(self, i: int) -> Structure:
        """Structure number `i`, from the end if negative; positions and forces have float32 precision."""
        i, arrays = range(len(self))[i], self._arrays
        atoms = slice(arrays["offsets"][i], arrays["offsets"][i + 1])
        return Structure(
            numbers=arrays["numbers"][atoms].astype(np.int64),
            positions=arrays["positions"][atoms].astype(np.float64),
            charge=int(arrays["charge"][i]),
            spin=int(arrays["spin"][i]),
            energy=float(arrays["energy"][i]) if self.labelled else None,
            forces=arrays["forces"][atoms].astype(np.float64) if self.labelled else None,
            **{name: self._optional(name, i, atoms) for name in self.meta["optional"]},
            domain=self.domains[arrays["domain"][i]],
            source=self.source(i),
        )

    def _optional(self, name: str, i: int, atoms: slice) -> np.ndarray | None:
        """The optional field `name` of structure `i`, which has these atoms; None if it has none."""
        rows = atoms if OPTIONAL_FIELDS[name].per_atom else slice(i, i + 1)
        return from_optional_entries(name, self._arrays[name][rows].astype(np.float64))

    def source(self, i: int) -> str:
        """Identifier of structure `i`, from the end if negative."""
        i, ends = range(len(self))[i], self._arrays["source_ends"]
        return self._arrays["source"][ends[i - 1] if i else 0 : ends[i]].tobytes().decode("utf-8", "replace")

    def get_batch(self, indices: Sequence[int] | Integer[np.ndarray, "batch"]) -> Batch:
        """The structures `indices`, in this order, as one float32 batch; `Batch.index` holds `indices`."""
        import torch  # which takes seconds; labelling and packing do without it

        from transip.batch import Batch

        chosen = np.asarray(indices, dtype=np.int64)
        arrays, counts = self._arrays, self.atom_counts[chosen]
        atoms = concat_ranges(arrays["offsets"][chosen], counts)
        numbers = arrays["numbers"][atoms]
        if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= MAX_ATOMIC_NUMBER:
            raise self._corrupt_error("numbers", "holds what is no element")
        optional: dict[str, Any] = {
            name: torch.from_numpy(arrays[name][atoms if OPTIONAL_FIELDS[name].per_atom else chosen])
            for name in self.meta["optional"]
        }
        return Batch(
            numbers=torch.from_numpy(numbers.astype(np.int64)),
            positions=torch.from_numpy(arrays["positions"][atoms]),
            structure_index=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
            atom_counts=torch.from_numpy(counts),
            charge=torch.from_numpy(arrays["charge"][chosen].astype(np.int64)),
            spin=torch.from_numpy(arrays["spin"][chosen].astype(np.int64)),
            max_num_atoms=int(counts.max(initial=0)),
            **optional,
            energy=torch.from_numpy(arrays["energy"][chosen]) if self.labelled else None,
            forces=torch.from_numpy(arrays["forces"][atoms]) if self.labelled else None,
            index=torch.from_numpy(chosen.copy()),
        )

    def composition_hashes(self) -> Int64[np.ndarray, "structures"]:
        """A 64-bit hash of the composition of each structure, which can be compared between packs."""
        ids = np.empty(len(self), dtype=np.uint64)
        offsets = self._arrays["offsets"]
        for start in range(0, len(self), SCAN_CHUNK):
            stop = min(start + SCAN_CHUNK, len(self))
            keys = _ELEMENT_KEYS[self._arrays["numbers"][offsets[start] : offsets[stop]]]
            ids[start:stop] = np.add.reduceat(keys, offsets[start:stop] - offsets[start])
        return ids.view(np.int64)

    def _corrupt_error(self, column: str, problem: str) -> InputError:
        return InputError(problem, where=str(self.path / f"{column}.npy"), remedy=COPY_AGAIN)

    def verify(self) -> None:
        """Compare the checksum of every file with `meta.json`.

        Raises:
            InputError: a file changed since the pack was written.
        """
        for name in (f"{column}.npy" for column in self._arrays):  # what else meta.json may name is none of ours
            if _sha256(self.path / name) != self.meta["sha256"].get(name):
                raise InputError(
                    "does not have the checksum it was written with",
                    where=str(self.path / name),
                    remedy="the pack is corrupt; copy it or pack it again",
                )


def write_pack(
    path: str | Path,
    structures: Iterable[Structure],
    *,
    level_of_theory: str,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: str = "",
    total: int | None = None,
) -> Pack:
    """Write `structures` to `path` as they come, in bounded memory; the pack is complete or absent.

    Args:
        path: the pack to write, `NAME.pack`.
        structures: all labelled or all unlabelled.
        level_of_theory: of the labels, e.g. ``"GFN2-xTB"``.
        provenance: anything worth keeping in `meta.json`, e.g. the command; must be JSON.
        overwrite: replace a pack that exists.
        progress: text beside a progress bar; empty: no bar.
        total: number of structures, if known, for the progress bar.

    Raises:
        InputError: `path` exists, there are no structures, one is impossible, only some are labelled, or the
            disk is full. In every case what was at `path` before is unchanged.
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "meta.json").is_file()):
        raise InputError("exists already", where=str(path), remedy="choose another output or pass --overwrite")
    if progress:
        structures = track(structures, progress, total, console=Console(stderr=True))
    with _atomic_folder(path) as folder:
        meta = _write_columns(folder, structures, path.name)
        files = sorted(folder.iterdir())
        write_json(
            folder / "meta.json",
            {
                "format": FORMAT,
                "version": VERSION,
                **meta,
                "units": UNITS,
                "level_of_theory": level_of_theory,
                "provenance": provenance or {},
                "sha256": {file.name: _sha256(file) for file in files},
            },
        )
    return Pack.open(path)


def concat_ranges(
    first: Integer[np.ndarray, "structures"], counts: Integer[np.ndarray, "structures"]
) -> Int64[np.ndarray, "atoms"]:
    """Indices of the atoms of structures that begin at atom `first` and have `counts` atoms."""
    shift = first - (np.cumsum(counts) - counts)
    return np.repeat(shift, counts) + np.arange(counts.sum())


# ---------------------------------------------------------------------------------------------- writing


def _write_columns(folder: Path, structures: Iterable[Structure], name: str) -> dict[str, Any]:
    """Stream `structures` into the arrays of a pack; return what `meta.json` says about them."""
    elements, domains = np.zeros(len(ELEMENTS), dtype=np.int64), {}
    atoms = bytes_of_sources = number = 0
    labelled = None
    with ExitStack() as stack:
        columns: dict[str, NpyWriter] = {}
        for number, structure in enumerate(structures, start=1):
            where = f"{name}, structure {number - 1}" + (f" ({structure.source})" if structure.source else "")
            structure.check(where)
            if labelled is None:
                labelled = structure.energy is not None
                columns = {c: stack.enter_context(NpyWriter(folder, c)) for c in column_names(labelled)}
                columns["offsets"].extend([0])
            _check_labels(structure, labelled, where)
            source = structure.source.encode("utf-8")
            atoms, bytes_of_sources = atoms + len(structure), bytes_of_sources + len(source)
            elements += np.bincount(structure.numbers, minlength=len(elements))
            entries = {
                "positions": structure.recentered_positions(),
                "numbers": structure.numbers,
                "offsets": [atoms],
                "charge": [structure.charge],
                "spin": [structure.spin],
                "domain": [_domain_code(structure.domain, domains, where)],
                "source": np.frombuffer(source, dtype=np.uint8),
                "source_ends": [bytes_of_sources],
                "energy": [structure.energy],
                "forces": structure.forces,
            }
            for optional, field in OPTIONAL_FIELDS.items():
                if getattr(structure, optional) is not None and optional not in columns:
                    columns[optional] = stack.enter_context(NpyWriter(folder, optional))
                    before = atoms - len(structure) if field.per_atom else number - 1
                    columns[optional].extend(field.fill_entries(before))
                entries[optional] = structure.optional_entries(optional)
            for column in columns:
                columns[column].extend(entries[column])
    if not number:
        raise InputError("there are no structures to write", where=name, remedy="check the input")
    return {
        "structures": number,
        "atoms": atoms,
        "labelled": labelled,
        "optional": [column for column in OPTIONAL_FIELDS if column in columns],
        "elements": {ELEMENTS[z]: int(elements[z]) for z in np.flatnonzero(elements)},
        "domains": list(domains),
    }


def _domain_code(name: str, codes: dict[str, int], where: str) -> int:
    code = codes.setdefault(name, len(codes))
    if code >= MAX_DOMAINS:
        raise InputError(
            f"there are more than {MAX_DOMAINS} chemical domains, lastly {name!r}",
            where=where,
            remedy="what was read as domain looks like an identifier: name another key (--domain-key)",
        )
    return code


def _check_labels(structure: Structure, labelled: bool, where: str) -> None:
    is_labelled = [structure.energy is not None, structure.forces is not None]
    if is_labelled != [labelled, labelled]:
        raise InputError(
            "only some structures (or only energy or forces) are labelled",
            where=where,
            remedy="label every structure with energy and forces, or none",
        )


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` only if the block succeeds."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    previous = target.with_name(f".{target.name}.{os.getpid()}.previous.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rename(previous)
        try:
            partial.rename(target)
        except OSError:
            if previous.exists():
                previous.rename(target)
            raise
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            where=str(target),
            remedy="free some space or choose another output; what was there before is unchanged",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("is missing", where=str(path), remedy="the pack is incomplete; copy it again") from None


# ---------------------------------------------------------------------------------------------- opening


class _Provenance(Settings):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    keys: dict[str, list[str]] = Field(default={})


class _Meta(Settings):
    """What is needed of `meta.json`; more may be there."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    version: int = Field(ge=1)
    structures: int = Field(gt=0, lt=2**62)
    atoms: int = Field(gt=0, lt=2**62)
    labelled: bool
    optional: list[Literal["cell", "stress", "charges", "spin_populations", "dipole"]] = Field(default=[])
    domains: list[str] = Field(min_length=1)
    level_of_theory: str
    elements: dict[str, int]
    sha256: dict[str, str]
    provenance: _Provenance = _Provenance()


def columns_checksum(path: str | Path, columns: Sequence[str]) -> str:
    """One checksum of these columns of the pack `path`, from those in its `meta.json`; columns may be absent.

    Raises:
        InputError: there is no pack, or its format is newer than this transip.
    """
    written = _read_meta(Path(path))["sha256"]
    checksums = (str(written.get(f"{column}.npy")) for column in columns)
    return hashlib.sha256(" ".join(checksums).encode()).hexdigest()


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    if not file.is_file():
        raise InputError(
            "is not a packed dataset" if path.exists() else "does not exist",
            where=str(path),
            remedy="make one of files with `transip data pack`, or of a labelling recipe with `transip data build`",
        )
    try:
        meta = read_json(file)
    except RecursionError:
        meta = {}
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError("does not describe a packed dataset", where=str(file), remedy="pack the data again")
    if isinstance(version := meta.get("version"), int) and version > VERSION:
        raise InputError(
            f"has format version {version}; this transip reads up to {VERSION}",
            where=str(path),
            remedy="upgrade transip",
        )
    parsed = parse(_Meta, meta, str(file))
    texts = {"domains": list(map(printable, parsed.domains)), "level_of_theory": printable(parsed.level_of_theory)}
    return meta | texts | {"optional": parsed.optional}


def _check_sizes(path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    structures, atoms = meta["structures"], meta["atoms"]
    ends = arrays["source_ends"]
    expected = {"offsets": structures + 1, "source": int(ends[-1]) if len(ends) else 0}
    expected |= dict.fromkeys(("positions", "forces", "numbers"), atoms)
    expected |= {name: atoms for name, field in OPTIONAL_FIELDS.items() if field.per_atom}
    for name, array in arrays.items():
        if len(array) != expected.get(name, structures):
            raise InputError(
                f"has {len(array)} entries, expected {expected.get(name, structures)}",
                where=str(path / f"{name}.npy"),
                remedy=COPY_AGAIN,
            )


def _check_indices(path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    offsets, ends, codes = arrays["offsets"], arrays["source_ends"], arrays["domain"]
    problems = {  # differences of numbers that are not negative cannot overflow: that is asked first
        "offsets": offsets[0] != 0 or offsets[-1] != meta["atoms"] or offsets.min() < 0 or (np.diff(offsets) < 1).any(),
        "source_ends": ends.min() < 0 or (np.diff(ends) < 0).any(),
        "domain": codes.min() < 0 or codes.max() >= len(meta["domains"]),
        "cell": "cell" in arrays and not np.isfinite(arrays["cell"]).all(),
    }
    for name, wrong in problems.items():
        if wrong:
            ascending = "ascend from 0 to the number of atoms or characters"
            expected = {"domain": "name a domain", "cell": "hold finite numbers"}.get(name, ascending)
            raise InputError(f"does not {expected}", where=str(path / f"{name}.npy"), remedy=COPY_AGAIN)
