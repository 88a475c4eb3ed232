"""The packed dataset gives back what went in, or says why it cannot."""

import errno
import json
import multiprocessing
import os
import pickle
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_molecules import random_structures, real

from transip.batch import Batch
from transip.data.columns import NpyWriter
from transip.data.dataset import Dataset
from transip.data.store import MAX_DOMAINS, Pack, write_pack
from transip.errors import InputError
from transip.structure import OPTIONAL_FIELDS

ARRAYS = ("positions", "forces", "numbers", "offsets", "energy", "charge", "spin", "domain", "source_ends")


@pytest.fixture
def pack(tmp_path) -> Pack:
    return write_pack(tmp_path / "small.pack", real(12), level_of_theory="test")


def assert_same(found, expected):
    assert np.array_equal(found.numbers, expected.numbers)
    assert np.array_equal(found.positions, expected.positions.astype(np.float32))
    fields = ("charge", "spin", "energy", "domain", "source")
    assert [getattr(found, f) for f in fields] == [getattr(expected, f) for f in fields]
    for name in ("forces", "charges", "spin_populations", "dipole"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        assert a is None or np.array_equal(a, b.astype(np.float32)), name


@settings(max_examples=30, deadline=None)
@given(
    st.booleans().flatmap(lambda yes: st.lists(random_structures(labelled=yes), min_size=1, max_size=6)),
    st.data(),
)
def test_round_trip(structures, data):
    with tempfile.TemporaryDirectory() as folder:
        pack = write_pack(Path(folder) / "x.pack", iter(structures), level_of_theory="any")
        pack.verify()
        assert len(pack) == len(structures)
        assert pack.atom_counts.tolist() == [len(s) for s in structures]
        for i, structure in enumerate(structures):
            assert_same(pack[i], structure)
        indices = data.draw(st.lists(st.integers(0, len(structures) - 1), min_size=1, max_size=8))
        found, expected = pack.get_batch(indices), Batch.collate([structures[i] for i in indices])
        assert found.index.tolist() == indices
        assert found.max_num_atoms == expected.max_num_atoms
        for name in (field.name for field in fields(Batch)):
            a, b = getattr(found, name), getattr(expected, name)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
                assert a.dtype == b.dtype and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), name
            else:  # a column exists if any structure of the pack has it
                assert name == "index" or a == b or a.isnan().all(), name


@settings(max_examples=20, deadline=None)
@given(
    st.lists(random_structures(), min_size=1, max_size=4),
    st.lists(random_structures(), min_size=1, max_size=4),
    st.data(),
)
def test_datasets_mix_packs_with_and_without_optional_columns(first, second, data):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "a.pack", Path(folder) / "b.pack"]
        for path, structures in zip(paths, (first, second), strict=True):
            write_pack(path, structures, level_of_theory="any")
        dataset, everything = Dataset.open(paths), [*first, *second]
        order = data.draw(st.permutations(range(len(everything))))
        found, expected = dataset.get_batch(order), Batch.collate([everything[i] for i in order])
        for name in ("charges", "spin_populations", "dipole"):
            a, b = getattr(found, name), getattr(expected, name)
            assert (a is None) == (b is None), name
            assert a is None or torch.equal(a.nan_to_num(99), b.nan_to_num(99)), name


def test_columns_that_no_structure_has_are_absent(pack):
    assert not {f"{name}.npy" for name in OPTIONAL_FIELDS} & set(os.listdir(pack.path))
    assert pack.meta["optional"] == []


@settings(max_examples=20, deadline=None)
@given(st.lists(random_structures(max_atoms=3), min_size=2, max_size=8))
def test_compositions_agree_iff_formulas_do(structures):
    structures = [*structures, replace(structures[0], numbers=structures[0].numbers[::-1].copy())]
    with tempfile.TemporaryDirectory() as folder:
        ids = write_pack(Path(folder) / "x.pack", structures, level_of_theory="any").composition_hashes()
    formulas = [sorted(s.numbers.tolist()) for s in structures]
    for i in range(len(ids)):
        assert [ids[i] == ids[j] for j in range(len(ids))] == [f == formulas[i] for f in formulas]


def test_structures_are_counted_from_the_end_as_in_a_list(pack):
    assert_same(pack[-1], pack[len(pack) - 1])
    assert pack.source(-len(pack)) == pack.source(0)
    for beyond in (len(pack), -len(pack) - 1):
        with pytest.raises(IndexError):
            pack[beyond]


def test_readable_with_numpy_alone(pack):
    meta = json.loads((pack.path / "meta.json").read_text())
    positions = np.load(pack.path / "positions.npy", allow_pickle=False)
    assert positions.shape == (meta["atoms"], 3)
    assert meta["units"]["energy"] == "eV"
    assert meta["level_of_theory"] == "test"
    assert sum(meta["elements"].values()) == meta["atoms"]


def test_travels_to_workers_as_a_path(pack):
    assert len(pickle.dumps(pack)) < 500
    with multiprocessing.get_context("fork").Pool(2) as pool:
        batches = pool.map(pack.get_batch, [[0, 3], [5]])
    assert torch.equal(batches[0].positions, pack.get_batch([0, 3]).positions)


def test_input_is_left_alone(tmp_path):
    structure = real(1)[0]
    before = structure.positions.copy(), structure.forces.copy()
    batch = write_pack(tmp_path / "x.pack", [structure], level_of_theory="test").get_batch([0])
    batch.positions.zero_()
    assert np.array_equal(structure.positions, before[0])
    assert np.array_equal(structure.forces, before[1])


# ---------------------------------------------------------------------------------------------- damaged packs


def test_missing(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Pack.open(tmp_path / "no.pack")


def test_not_a_pack(tmp_path):
    with pytest.raises(InputError, match="is not a packed dataset"):
        Pack.open(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="does not describe a packed dataset"):
        Pack.open(tmp_path)


@pytest.mark.parametrize("name", ARRAYS)
def test_truncated_array(pack, name):
    file = pack.path / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{name}\.npy: is truncated or corrupt"):
        Pack.open(pack.path)


@pytest.mark.parametrize("name", ARRAYS)
def test_missing_array(pack, name):
    (pack.path / f"{name}.npy").unlink()
    with pytest.raises(InputError, match=rf"{name}\.npy: is missing"):
        Pack.open(pack.path)


@pytest.mark.parametrize("name", ARRAYS)
def test_array_of_another_length(pack, name):
    file = pack.path / f"{name}.npy"
    np.save(file, np.load(file)[:-1])
    with pytest.raises(InputError, match=r"has \d+ entries, expected \d+"):
        Pack.open(pack.path)


def test_offsets_that_do_not_ascend(pack):
    file = pack.path / "offsets.npy"
    offsets = np.load(file)
    offsets[3] = offsets[4] + 1
    np.save(file, offsets)
    with pytest.raises(InputError, match="does not ascend"):
        Pack.open(pack.path)


def test_pickles_are_refused(pack):
    np.save(pack.path / "energy.npy", np.array([{"a": 1}] * len(pack), dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"energy\.npy"):
        Pack.open(pack.path)


def test_newer_format(pack):
    meta = json.loads((pack.path / "meta.json").read_text())
    (pack.path / "meta.json").write_text(json.dumps(meta | {"version": 99}))
    with pytest.raises(InputError, match=r"format version 99(.|\n)*upgrade"):
        Pack.open(pack.path)


def test_changed_content_is_found_by_its_checksum(pack):
    file = pack.path / "forces.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"forces\.npy: does not have the checksum"):
        Pack.open(pack.path).verify()


# ---------------------------------------------------------------------------------------------- writing


def broken_off(structures):
    yield from structures
    raise InputError("ends here")


@pytest.mark.parametrize(
    ("structures", "problem"),
    [
        (lambda: [], "no structures"),
        (lambda: broken_off(real(5)), "ends here"),
        (
            lambda: [*real(2), replace(real(1)[0], energy=None, forces=None)],
            "structure 2 .*only some structures",
        ),
        (lambda: [replace(real(1)[0], forces=None)], "only some structures"),
        (lambda: [replace(real(1)[0], energy=float("nan"))], "NaN"),
        (lambda: [replace(real(1)[0], spin=2)], "cannot have multiplicity 2"),
        (lambda: [replace(s, domain=s.source) for s in real(MAX_DOMAINS + 1)], "chemical domains"),
    ],
)
def test_nothing_is_left_of_a_pack_that_failed(tmp_path, structures, problem):
    with pytest.raises(InputError, match=problem):
        write_pack(tmp_path / "x.pack", structures(), level_of_theory="test")
    assert list(tmp_path.iterdir()) == []


def test_existing_pack_is_kept_unless_told_otherwise(pack):
    with pytest.raises(InputError, match="exists already"):
        write_pack(pack.path, real(2), level_of_theory="test")
    with pytest.raises(InputError, match="ends here"):
        write_pack(pack.path, broken_off(real(2)), level_of_theory="test", overwrite=True)
    assert len(Pack.open(pack.path)) == 12
    assert len(write_pack(pack.path, real(2), level_of_theory="test", overwrite=True)) == 2
    assert os.listdir(pack.path.parent) == ["small.pack"]


def test_a_folder_that_is_no_pack_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_pack(tmp_path / "precious", real(2), level_of_theory="test", overwrite=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk(tmp_path, monkeypatch):
    opened = NpyWriter.__init__

    def on_full_disk(column, folder, name):
        opened(column, folder, name)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, column._handle.fileno())
        os.close(full)

    monkeypatch.setattr(NpyWriter, "__init__", on_full_disk)
    with pytest.raises(InputError, match=os.strerror(errno.ENOSPC)):
        write_pack(tmp_path / "x.pack", real(500), level_of_theory="test")
    assert list(tmp_path.iterdir()) == []
