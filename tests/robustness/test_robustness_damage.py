"""Files that are damaged in the ways that fuzzing has found, or that reading the code has shown to matter."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest

from toy import toy_structure, write_toy_pack
from transip.config import LabelSettings, LatentSettings, Recipe, load
from transip.data.read import read_structures
from transip.data.store import Pack, write_pack
from transip.errors import InputError
from transip.model.files import load_model
from transip.structure import Structure
from transip.symmetry.latent import LatentEquivariance, load_latent, save_latent

MODEL = Path(__file__).parents[1] / "golden/model-format-1"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_structures(path, labels="optional"))
    assert all(word in str(caught.value) for word in words), caught.value


def json_database(path: Path, **changes: Any) -> Path:
    """One hydrogen molecule in ASE's JSON format."""
    row = {"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0.7]], "data": {"charge": 0, "spin": 1}} | changes
    path.write_text(json.dumps({"1": row, "ids": [1], "nextid": 2}))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"numbers": 1},
        {"numbers": [[1], [1]], "positions": [0, 0, 0]},
        {"numbers": [1.5, 1.5]},
        {"numbers": ["H", "H"]},
        {"numbers": [10**400, 1]},
        {"positions": [[0, 0], [0, 1]]},
        {"positions": [[0, 0, 1e300], [0, 0, 0]]},  # infinite in float32
        {"positions": None},
        {"energy": 10**400},
        {"energy": {"a": 1}},
        {"forces": [[1e300, 0, 0], [0, 0, 0]]},
        {"data": {"charge": 10**400, "spin": 1}},
        {"data": {"charge": -100_000, "spin": 1}},  # would wrap to another charge in 16 bits
        {"data": {"charge": [0, 1], "spin": 1}},
        {"data": [1, 2]},
        {"key_value_pairs": "x"},
        {"numbers": {"__ndarray__": [[10**11], "float64", [1.0]]}},  # 800 GB, says the file
        {"data": {"__ndarray__": [[10**11], "float64", [1.0]]}},
        {"numbers": {"__ndarray__": [[2], "S2000000000", ["a", "b"]]}},
        {"numbers": {"__ndarray__": 1}},
    ],
)
def test_rows_of_a_database_that_are_none(changes, tmp_path):
    refused(json_database(tmp_path / "x.json", **changes))


@pytest.mark.parametrize("columns", ["18446744073709551616", "9999999", "4"])
def test_columns_that_are_announced_and_not_there(columns, tmp_path):
    """ASE makes a list of them first, until there is no memory left."""
    path = tmp_path / "x.extxyz"
    path.write_text(f"1\nProperties=species:S:1:pos:R:{columns}:tags2:I:1 charge=0 spin=1\nHe 0.0 0.0 0.0 5\n")
    refused(path, "more columns than there are")
    path.write_text(path.read_text().replace(columns, "3", 1))
    assert len(list(read_structures(path, labels="optional"))) == 1


def test_rows_that_were_written_twice_are_read_once(tmp_path):
    path = json_database(tmp_path / "x.json")
    path.write_text(path.read_text().replace("[1], ", f"[{', '.join(['1'] * 100_000)}], ").replace('"ids": [1]', ""))
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"ids": [1] * 100_000}))
    assert len(list(read_structures(path, labels="optional"))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 100_000, "cannot be read"),
        ('{"1":' * 100_000, "cannot be read"),
    ],
)
def test_trees_without_end(text, expected, tmp_path):
    (tmp_path / "x.json").write_text(text)
    refused(tmp_path / "x.json", expected)
    (tmp_path / "x.pack").mkdir()
    (tmp_path / "x.pack/meta.json").write_text(text)
    with pytest.raises(InputError):
        Pack.open(tmp_path / "x.pack")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text(text)
    (tmp_path / "m/model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes())
    with pytest.raises(InputError):
        load_model(tmp_path / "m")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match="is not YAML"):
        load(Recipe, tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99",
        "a: !!bool x",
        "a: !!int ''",
        "a: !!timestamp x",
        "a: " + "9" * 5000,
        "name: x\nmodel: {size: [1]}\ndata: {train: [a]}\ntraining: {steps: 1}",
        "name: x\nmodel: {preset: {a: 1}}\ndata: {train: [a]}\ntraining: {steps: 1}",
        "&a {name: *a}",
        "\x00",
    ],
)
def test_recipes_that_upset_the_parser(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    for kind in (Recipe, LabelSettings):
        with pytest.raises(InputError):
            load(kind, tmp_path / "x.yaml")


# ---------------------------------------------------------------------------------------------- aselmdb


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Twenty rows: a tree of several pages, and values with pages of their own."""
    pytest.importorskip("ase_db_backends")
    path = tmp_path / "x.aselmdb"
    with ase.db.connect(path, type="aselmdb", use_lock_file=False) as database:
        for i in range(20):
            atoms = toy_structure(i).to_atoms()
            noise = random.Random(i).choices("abcdefgh", k=9000 if i % 7 == 0 else 10)
            database.write(atoms, data=atoms.info | {"note": "".join(noise)})
    content = path.read_bytes()
    path.write_bytes(content[: len(content.rstrip(b"\0")) + 4095 & ~4095])
    return path


def test_a_shard_is_read_as_ase_reads_it(shard):
    """By our own reader of LMDB's pages: the C library trusts a file and dies of a damaged one."""
    with ase.db.connect(shard, type="aselmdb", readonly=True, use_lock_file=False) as database:
        expected = [row.toatoms() for row in database.select()]
    found = list(read_structures(shard, labels="optional"))
    assert [s.source for s in found] == [f"toy-{i}" for i in range(20)]
    for structure, atoms in zip(found, expected, strict=True):
        assert (structure.numbers == atoms.numbers).all() and (structure.positions == atoms.positions).all()


def test_every_byte_of_a_page_header_may_be_wrong(shard):
    content, outcomes = shard.read_bytes(), set()
    for page in range(0, len(content) // 4096, 2):
        for at in (0, 1, 10, 11, 12, 13, 14, 16, 17, 40, 92, 128):
            place, value = 4096 * page + at, (at * 37 + page) % 256
            shard.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                outcomes.add(len(list(read_structures(shard, labels="optional"))))
            except InputError:
                outcomes.add("refused")
    assert outcomes == {20, "refused"}  # all rows, or an error; never some


def rewritten(shard: Path, key: bytes, value: bytes) -> None:
    lmdb = pytest.importorskip("lmdb")
    environment = lmdb.open(str(shard), subdir=False, map_size=2**26, lock=False)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(key, value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (b"nextid", zlib.compress(b"1000000000000"), "20 of 999999999999 rows"),  # ASE would count them all
        (b"deleted_ids", zlib.compress(b"[7]"), "20 of 19 rows"),
        (b"7", zlib.compress(bytes(100_000_000)), "larger than any molecule"),  # 100 kB
        (b"7", zlib.compress(b"{}")[:-3], "cut short"),
        (b"7", b"x", "cannot be read"),
        (b"x7", zlib.compress(b"{}"), ""),
    ],
)
def test_rows_of_a_shard_that_are_none(shard, key, value, expected):
    rewritten(shard, key, value)
    if expected:
        refused(shard, expected)
    else:  # what has no number is none of ours
        assert len(list(read_structures(shard, labels="optional"))) == 20


# ---------------------------------------------------------------------------------------------- packs and models


@pytest.mark.parametrize(
    ("name", "at", "value", "expected"),
    [
        ("offsets", 1, 2**63 - 1, "ascend"),
        ("offsets", 1, -(2**63), "ascend"),
        ("source_ends", 1, -5, "ascend"),
        ("domain", 0, 7, "name a domain"),
        ("domain", 0, -1, "name a domain"),
        ("numbers", 0, 0, "unknown atomic number 0"),
        ("numbers", 0, 200, "unknown atomic number 200"),
        ("positions", 0, np.nan, "NaN"),
        ("energy", 0, np.inf, "NaN"),
        ("spin", 0, -3, "multiplicity -3"),
    ],
)
def test_numbers_of_a_pack_that_lead_nowhere(name, at, value, expected, tmp_path):
    path = write_toy_pack(tmp_path / "x.pack", 4)
    array = np.load(path / f"{name}.npy")
    array[at] = value
    np.save(path / f"{name}.npy", array)
    refused(path, expected)
    if name == "numbers":
        with pytest.raises(InputError, match="no element"):
            Pack.open(path).get_batch([0])


def test_a_column_that_is_an_archive_or_no_header(tmp_path):
    path = write_toy_pack(tmp_path / "x.pack", 4)
    content = (path / "energy.npy").read_bytes()
    with (path / "energy.npy").open("wb") as handle:
        np.savez(handle, a=np.zeros(4))
    refused(path, "energy.npy", "truncated or corrupt")
    (path / "energy.npy").write_bytes(content.replace(b"(4,)", b"((4,"))
    refused(path, "energy.npy", "truncated or corrupt")


@pytest.mark.parametrize(
    "changes",
    [
        {"structures": "4"},
        {"structures": 2**63},
        {"labelled": "no"},
        {"domains": {"a": 1}},
        {"domains": [1]},
        {"level_of_theory": None},
        {"sha256": []},
        {"provenance": [1]},
        {"provenance": {"keys": 5}},
        {"version": "2"},
    ],
)
def test_descriptions_of_a_pack_that_are_none(changes, tmp_path):
    path = write_toy_pack(tmp_path / "x.pack", 4)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | changes))
    with pytest.raises(InputError, match=r"meta\.json"):
        Pack.open(path)


def test_a_charge_that_does_not_fit_is_not_stored_as_another(tmp_path):
    ion = Structure(np.array([1]), np.zeros((1, 3)), -70_000, 2, energy=0.0, forces=np.zeros((1, 3)))
    with pytest.raises(InputError, match="cannot be represented"):
        write_pack(tmp_path / "x.pack", [ion], level_of_theory="none")


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": float("nan")},
        {"scale": 10**400},
        {"elements": 5},
        {"elements": ["Xx"]},
        {"charges": ["a"]},
        {"training": {"step": 1}},
        {"training": []},
        {"validation": {"force_mae": "low"}},
        {"domains": {"a": 1}},
        {"model": {"width": 10**6, "heads": 2}},  # 4 TB, says the file
        {"model": {"width": 24, "heads": 2, "depth": 10**9}},
        {"model": []},
    ],
)
def test_descriptions_of_a_model_that_are_none(changes, tmp_path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": None},
        {"width": 23},
        {"width": -1},
        {"width": 10**30},
        {"hidden": 10**12},  # 96 TB, says the file
        {"level": "fixed"},
        {"unknown": 1},
    ],
)
def test_descriptions_of_a_latent_action_that_are_none(changes, tmp_path):
    for name in ("latent.safetensors", "latent.json"):
        (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    settings = load_model(MODEL).settings
    assert load_latent(tmp_path, settings) is not None
    description = json.loads((tmp_path / "latent.json").read_text())
    for text in (json.dumps(description | changes), json.dumps([description]), "[" * 100_000):
        (tmp_path / "latent.json").write_text(text)
        with pytest.raises(InputError):
            load_latent(tmp_path, settings)


def test_a_latent_action_of_another_model(tmp_path):
    save_latent(LatentEquivariance(LatentSettings(hidden=4), 32), tmp_path)
    assert load_latent(tmp_path) is not None
    with pytest.raises(InputError, match="not the model"):
        load_latent(tmp_path, load_model(MODEL).settings)


def test_weights_that_are_no_numbers(tmp_path):
    (tmp_path / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    content = (MODEL / "model.safetensors").read_bytes()
    for change in (content[:-4] + b"\0\0\xc0\x7f", content.replace(b'"F32"', b'"I32"')):
        (tmp_path / "model.safetensors").write_bytes(change)
        with pytest.raises(InputError, match="NaN, infinite numbers or no numbers"):
            load_model(tmp_path)
