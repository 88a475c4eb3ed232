"""The formats that are fuzzed: small sound inputs, how each is damaged, and everything that reads it."""

from __future__ import annotations

import io
import json
import random
import re
import sqlite3
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from rich.console import Console

from benchmarks.common.records import ROOT
from benchmarks.robustness.mutations import (
    NUMBERS,
    TEXTS,
    TREES,
    Files,
    damage_bytes,
    damage_json,
    damage_npy,
    damage_safetensors,
    damage_text,
    encoded,
)
from tests.toy import toy_crystal, toy_structure
from transip.batch import Batch
from transip.config import LabelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.data.info import summarize
from transip.data.pack import pack_files
from transip.data.read import read_structures
from transip.data.references import AtomicReferences, statistics
from transip.data.split import split_by_composition
from transip.data.store import Pack, write_pack
from transip.inference.domain import ApplicabilityDomain
from transip.inference.predict import iter_predictions
from transip.io.extxyz import format_frame
from transip.model.files import load_model, model_card
from transip.model.potential import Potential
from transip.report.describe import describe_model
from transip.structure import Structure
from transip.symmetry.latent import load_latent
from transip.symmetry.measure import measure_symmetry

MODEL = ROOT / "tests/golden/model-format-1"
RECIPES = ROOT / "recipes"
KEYS = (
    "energy",
    "forces",
    "charge",
    "spin",
    "spin_multiplicity",
    "pbc",
    "Lattice",
    "stress",
    "Properties",
    "data_id",
    "source",
)
COLUMNS = ("species:S:1:pos:R:3", "forces:R:3", "Z:I:1", "magmoms:R:1", "move_mask:L:3", "pos:R:-1", "pos:R:9999999")
YAML_WORDS = (
    "!!binary x",
    "!!timestamp x",
    "!!bool x",
    "!!int x",
    "!!set {a, b}",
    "2001-99-99",
    "? [a]",
    "- -",
    "|",
    "*a",
)


@dataclass(frozen=True)
class Format:
    """What is fuzzed.

    Attributes:
        seeds: sound inputs.
        damage: one mutation of an input; `other` is a second input to splice with.
        read: everything that transip does with such an input in the folder given, writing to the second folder.
    """

    seeds: Callable[[], list[Files]]
    damage: Callable[[Files, Files, random.Random], Files]
    read: Callable[[Path, Path], None]


def show(table: object) -> None:
    """Render for a terminal."""
    Console(file=io.StringIO(), width=100).print(table)


def of_folder(folder: Path) -> Files:
    """The files below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(files: Files, folder: Path) -> None:
    """Put an input into an empty folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def structures(labelled: bool = True) -> list[Structure]:
    """Three molecules, one of them charged, and a crystal."""
    found = [*(toy_structure(i) for i in (0, 4, 6)), toy_crystal(0)]
    return found if labelled else [Structure(s.numbers, s.positions, s.charge, s.spin, cell=s.cell) for s in found]


def to_atoms(structure: Structure) -> ase.Atoms:
    """With labels in a calculator, as readers find them."""
    atoms = structure.to_atoms()
    if structure.energy is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=structure.energy, forces=structure.forces)
        if structure.stress is not None:
            atoms.calc.results["stress"] = full_3x3_to_voigt_6_stress(structure.stress)
    return atoms


def only(files: Files) -> str:
    """The name of the one file of an input."""
    (name,) = files
    return name


# ---------------------------------------------------------------------------------------------- structure files


def read_file(folder: Path, output: Path) -> None:
    """`transip data info` and, of a quarter, its table, `predict` and `data pack`, whose output must be readable."""
    (path,) = folder.iterdir()
    table = summarize(path).table()
    if quarter(folder):
        show(table)
        use(path, output)
        pack_files([path], output / "x.pack", level_of_theory="toy")


def quarter(folder: Path) -> bool:
    """Whether an input is among those that are to be used for everything, which takes longer."""
    return zlib.crc32(b"".join(of_folder(folder).values())) % 4 == 0


def use(path: Path, output: Path) -> None:
    """Predict every structure of a file, write the frames as `transip predict` does, and read them back."""
    model = committed_model()
    domain = ApplicabilityDomain(model, "warn")
    results = iter_predictions(model, read_structures(path, labels="optional"), domain=domain)
    found = [result.to_structure() for result in results]
    (output / "x.extxyz").write_text("".join(map(format_frame, found)), encoding="utf-8")
    assert [s.formula for s in read_structures(output / "x.extxyz")] == [s.formula for s in found]


@cache
def committed_model() -> Potential:
    """Small, and quick to ask."""
    return load_model(MODEL)


def extxyz_seeds() -> list[Files]:
    """Plain, with columns that only ASE reads, and unlabelled."""
    seeds = []
    for extra in (False, True):
        text = io.StringIO()
        images = [to_atoms(s) for s in structures()]
        for atoms in images if extra else ():
            atoms.arrays["tags2"], atoms.info["note"] = np.arange(len(atoms)), {"a": [1, 2]}
        ase.io.write(text, images, format="extxyz")
        seeds.append({"x.extxyz": text.getvalue().encode()})
    return seeds


def damage_extxyz(files: Files, other: Files, rng: random.Random) -> Files:
    """Mostly as text."""
    name = only(files)
    if rng.random() < 0.2:
        return {name: damage_bytes(files[name], other[name], rng)}
    return {name: damage_text(files[name], (*KEYS, *COLUMNS, "VEC1 1 2 3", "Xx", "X", "1\n\n"), rng)}


def database_seeds(suffix: str) -> Callable[[], list[Files]]:
    """An ASE database with charge and spin among the key-value pairs or in data."""

    def seeds() -> list[Files]:
        found = []
        for place in ("data", "pairs"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"x{suffix}"
                database = ase.db.connect(path, type=suffix[1:], use_lock_file=False)
                with database:
                    for structure in structures():
                        atoms = to_atoms(structure)
                        kept = {"data": atoms.info} if place == "data" else {"key_value_pairs": atoms.info}
                        database.write(atoms, **kept)
                del database
                content = path.read_bytes()
                if suffix == ".aselmdb":  # the file is as large as its map; what is used ends here
                    content = content[: len(content.rstrip(b"\0")) + 4095 & ~4095]
                found.append({path.name: content})
        return found

    return seeds


def damage_sqlite(files: Files, other: Files, rng: random.Random) -> Files:
    """Bytes, or another value in a cell, or another schema."""
    name = only(files)
    if rng.random() < 0.4:
        return {name: damage_bytes(files[name], other[name], rng)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        path.write_bytes(files[name])
        try:
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(*_statement(connection, rng))
            connection.close()
        except (sqlite3.Error, OverflowError, ValueError, TypeError, UnicodeError):
            return {name: damage_bytes(files[name], other[name], rng)}
        return {name: path.read_bytes()}


SCHEMES = (
    "ALTER TABLE systems RENAME TO other",
    "DROP TABLE systems",
    "CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i FROM n",
    "PRAGMA user_version=99",
    "PRAGMA journal_mode=WAL",
    "UPDATE information SET value='99'",
    "DELETE FROM systems",
    "INSERT INTO information VALUES ('external_table_name', 'x; DROP TABLE systems')",
    "CREATE TABLE extra (a)",
)


def _statement(connection: sqlite3.Connection, rng: random.Random) -> tuple[str, tuple[object, ...]]:
    """SQL that damages a database, with its parameters."""
    columns = [row[1] for row in connection.execute("PRAGMA table_info(systems)")]
    if not columns or rng.random() < 0.1:
        return rng.choice(SCHEMES), ()
    column = rng.choice(columns)
    if rng.random() < 0.1:
        return f"UPDATE systems SET {column}=(SELECT {rng.choice(columns)} FROM systems LIMIT 1)", ()
    tree = encoded(json.dumps(rng.choice(TREES)))
    blob = struct_blob(tree) if rng.random() < 0.5 else rng.randbytes(rng.choice((0, 7, 8, 24, 96)))
    text = rng.choice((*TEXTS, *NUMBERS)).encode("utf-8", "replace").decode()
    number = rng.choice((0, 1, 10**18, float("inf"), -1.5))
    value = rng.choice((None, number, text, tree.decode(), blob))
    return f"UPDATE systems SET {column}=? WHERE id={rng.randrange(1, 4)}", (value,)


def struct_blob(tree: bytes) -> bytes:
    """JSON as ASE stores it in a blob: where it begins, then the arrays, then the text."""
    return (8).to_bytes(8, "little") + tree


def damage_database_json(files: Files, other: Files, rng: random.Random) -> Files:
    """A node of the tree, or bytes."""
    name = only(files)
    if rng.random() < 0.25:
        return {name: damage_bytes(files[name], other[name], rng)}
    return {name: damage_json(files[name], rng)}


def damage_aselmdb(files: Files, other: Files, rng: random.Random) -> Files:
    """Bytes, mostly of page headers and nodes; or a row's JSON, compressed again."""
    name = only(files)
    content = files[name]
    if rng.random() < 0.5:
        return {name: damage_bytes(content, other[name], rng)}
    if rng.random() < 0.5 and len(content) >= 4096:  # headers of pages are small: aim at them
        page, size = 4096 * rng.randrange(len(content) // 4096), rng.choice((1, 2, 4, 8))
        at = page + rng.choice((rng.randrange(16), rng.randrange(16, 160), rng.randrange(4096 - size)))
        value = rng.choice((0, 1, 2, 3, 4, 8, 0x20, 2**15, 2**16 - 1, 2**32 - 1, 2**63, rng.randrange(4096)))
        return {name: content[:at] + (value % 256**size).to_bytes(size, "little") + content[at + size :]}
    return {name: _other_row(content, rng)}


def _other_row(content: bytes, rng: random.Random) -> bytes:
    """Another JSON in place of a row's, of the same length on disk where it fits."""
    starts = [match.start() for match in re.finditer(rb"x[\x9c\x01\xda]", content)]
    rng.shuffle(starts)
    for start in starts[:3]:
        stream = zlib.decompressobj()
        try:
            text = stream.decompress(content[start:], 10**6)
        except zlib.error:
            continue
        if not stream.eof:
            continue
        length = len(content) - start - len(stream.unused_data)
        row = damage_json(text, rng) if rng.random() < 0.9 else b"[" * 10**7
        packed = zlib.compress(row, 9)
        if len(packed) <= length:
            return content[:start] + packed + bytes(length - len(packed)) + content[start + length :]
    return damage_bytes(content, content, rng)


# ---------------------------------------------------------------------------------------------- packs


def pack_seeds() -> list[Files]:
    """Labelled and unlabelled."""
    seeds = []
    for labelled in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            write_pack(Path(folder) / "x.pack", structures(labelled), level_of_theory="toy")
            seeds.append({f"x.pack/{name}": data for name, data in of_folder(Path(folder) / "x.pack").items()})
    return seeds


def damage_folder(files: Files, other: Files, rng: random.Random) -> Files:
    """One file of a folder: as its format has it, as bytes, exchanged with another, or gone."""
    files = dict(files)
    described = [name for name in sorted(files) if name.endswith(".json")]
    if not described:
        return dict(other)
    name = rng.choice(sorted(files) if rng.random() < 0.6 else described)
    special = {".json": damage_json, ".npy": damage_npy, ".safetensors": damage_safetensors}.get(Path(name).suffix)
    choice = rng.random()
    if special is not None and choice < 0.7:
        files[name] = special(files[name], rng)
    elif choice < 0.93:
        files[name] = damage_bytes(files[name], other.get(name, b""), rng)
    elif choice < 0.97:
        files[name] = files[rng.choice(sorted(files))]
    else:
        del files[name]
    return files


def read_pack(folder: Path, output: Path) -> None:
    """Everything that opens a pack: info, training data, statistics; of a quarter, packing again and `predict`."""
    path = folder / "x.pack"
    pack = Pack.open(path)
    table = summarize(path).table()
    dataset = Dataset.open([path])
    split_by_composition(dataset, 0.5, 0)
    dataset.get_batch([len(dataset) - 1, 0])
    dataset.describe(0)
    assert dataset.domains is not None and dataset.elements()
    if dataset.labelled:
        statistics(dataset, AtomicReferences.fit(dataset))
    if quarter(folder):
        show(table)
        if dataset.labelled:
            pack_files([path], output / "y.pack", level_of_theory=pack.meta["level_of_theory"])
        use(path, output)
    pack.verify()


# ---------------------------------------------------------------------------------------------- recipes and models


def recipe_seeds() -> list[Files]:
    """The recipes that transip comes with."""
    return [{"x.yaml": path.read_bytes()} for path in sorted(RECIPES.glob("*.yaml"))]


def damage_recipe(files: Files, other: Files, rng: random.Random) -> Files:
    """Mostly as text."""
    name = only(files)
    if rng.random() < 0.15:
        return {name: damage_bytes(files[name], other[name], rng)}
    words = tuple(word.decode() for word in other[name].split()[:200] if word.isascii())
    return {name: damage_text(files[name], (*words, *YAML_WORDS), rng)}


def read_recipe(folder: Path, output: Path) -> None:
    """As a training recipe or a labelling campaign, whichever it looks like."""
    path = folder / "x.yaml"
    kind = LabelSettings if re.search(rb"^domains:", path.read_bytes(), re.MULTILINE) else Recipe
    settings = load(kind, path)
    json.dumps(settings.model_dump(mode="json"))


def model_seeds() -> list[Files]:
    """The committed model, without and with its latent action."""
    names = ("config.json", "model.safetensors", "latent.json", "latent.safetensors")
    files = {f"m/{name}": (MODEL / name).read_bytes() for name in names}
    return [dict(list(files.items())[:2]), files]


def read_model(folder: Path, output: Path) -> None:
    """Load, summarize, predict; of a quarter, show the table, measure the symmetry with the latent action."""
    model = load_model(folder / "m")
    latent = load_latent(folder / "m", model.settings)
    model_card(model)
    list(iter_predictions(model, structures(), domain=ApplicabilityDomain(model, "warn")))
    if quarter(folder):
        show(describe_model(folder / "m"))
        if latent is not None:
            measure_symmetry(model, [Batch.collate(structures()[:1])], rotations=2, layers=(0, 1), latent=latent)


FORMATS: dict[str, Format] = {
    "extxyz": Format(extxyz_seeds, damage_extxyz, read_file),
    "db": Format(database_seeds(".db"), damage_sqlite, read_file),
    "json": Format(database_seeds(".json"), damage_database_json, read_file),
    "aselmdb": Format(database_seeds(".aselmdb"), damage_aselmdb, read_file),
    "pack": Format(pack_seeds, damage_folder, read_pack),
    "recipe": Format(recipe_seeds, damage_recipe, read_recipe),
    "model": Format(model_seeds, damage_folder, read_model),
}
