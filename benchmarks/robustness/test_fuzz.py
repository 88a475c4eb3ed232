"""A few hundred damaged inputs per format in seconds, and whether the fuzzer sees what it is to find.

The long run is `benchmarks/robustness/fuzz.py`; there every input is read in a process that may die. What it has found
is in `tests/robustness/test_robustness_damage.py`.
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness import formats, fuzz, mutations
from transip.data import info, store
from transip.errors import InputError

MUTANTS = {"recipe": 300}
FEWER = 40  # of formats whose inputs take longer


@pytest.mark.parametrize("name", formats.FORMATS)
def test_damaged_inputs_are_read_or_refused(name, tmp_path, monkeypatch):
    """In this process: a crash or a hang would be plain enough."""
    for module in (info, store):
        monkeypatch.setattr(module, "track", lambda items, *_, **__: items)  # progress bars, hundreds of them
    form, outcomes = formats.FORMATS[name], {"ok": 0, "refused": 0}
    known = fuzz.Found.nothing(name, seed=12345)
    corpus = known.corpus
    inputs = [*corpus, *(files for _, files in known.mutants(range(MUTANTS.get(name, FEWER))))]
    for number, files in enumerate(inputs):
        folder, output = tmp_path / f"{number}", tmp_path / f"{number}-output"
        output.mkdir()
        formats.write(files, folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                form.read(folder, output)
            outcomes["ok"] += 1
        except InputError as error:
            outcomes["refused"] += 1
            assert number >= len(corpus), error
            assert all(line.isprintable() for line in str(error).split("\n"))
        assert formats.of_folder(folder) == files  # as it was
    assert outcomes["ok"] >= len(corpus) and outcomes["refused"] > 10


def test_the_fuzzer_sees_what_it_is_to_find(tmp_path):
    """A reader that misbehaves in every way: nothing of it goes unnoticed."""

    def read(folder: Path, output: Path) -> None:
        match (folder / "x").read_bytes():
            case b"raises":
                raise KeyError("x")
            case b"refuses":
                raise InputError("no")
            case b"hoards":
                np.ones(10**10)
            case b"writes":
                (folder.parent / "here/elsewhere").write_text("x")
            case b"changes":
                (folder / "x").write_bytes(b"y")
            case b"unpickles":
                __import__("pickle").loads(b"cos\nsystem\n.")
            case b"dies":
                __import__("os").abort()
            case b"sleeps":
                while True:
                    pass

    expected = {
        "raises": "KeyError",
        "refuses": "refused",
        "hoards": "memory",
        "writes": "file outside the output",
        "changes": "input changed",
        "unpickles": "forbidden",
        "dies": "crash",
        "well": "ok",
        "sleeps": "too slow",
    }
    seconds, fuzz.SECONDS = fuzz.SECONDS, 0.2
    reader = fuzz.Reader(formats.Format(list, lambda files, other, rng: files, read), tmp_path / "box")
    try:
        found = {text: reader.read({"x": text.encode()}).outcome for text in expected}
    finally:
        reader.close()
        fuzz.SECONDS = seconds
    assert found == expected


def test_a_seed_names_an_input():
    first, again = ([*fuzz.Found.nothing("extxyz", seed=7).mutants(range(20))] for _ in range(2))
    assert first == again and len({files["x.extxyz"] for _, files in first}) > 15


def test_mutations_leave_their_input_alone():
    rng, tree = random.Random(0), {"a": [1, {"b": 2}], "c": "x"}
    before = json.dumps(tree)
    damaged = {json.dumps(mutations.damage_tree(tree, rng)) for _ in range(200)}
    assert json.dumps(tree) == before and len(damaged) > 50
