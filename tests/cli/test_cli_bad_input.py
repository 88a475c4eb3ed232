"""Bad input: one message that names the file and the remedy, exit code 2, nothing written, nothing changed."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from commands import call, write_recipe

FRAME = '3\nProperties=species:S:1:pos:R:3{labels} {info} pbc="F F F"\n{atoms}\n'
EMPTY = hashlib.sha256(b"").hexdigest()
WATER = "O 0.0 0.0 0.12{0}\nH 0.0 0.76 -0.48{0}\nH 0.0 -0.76 -0.48{0}"


def structures(path: Path, atoms: str = WATER, info: str = "charge=0 spin=1") -> Path:
    """An unlabelled extxyz file of one molecule."""
    path.write_text(FRAME.format(labels="", info=info, atoms=atoms.format("")), encoding="utf-8")
    return path


def labelled(path: Path, info: str = "energy=-2000.0 charge=0 spin=1", atoms: str = WATER) -> Path:
    """The same with forces, and whatever `info` says."""
    text = FRAME.format(labels=":forces:R:3", info=info, atoms=atoms.format(" 0.1 0.0 0.0"))
    path.write_text(text, encoding="utf-8")
    return path


class Place(NamedTuple):
    """Where a case may prepare files: a folder of its own, a copy of a trained run, a copy of its data."""

    folder: Path
    run: Path
    pack: Path

    @property
    def output(self) -> Path:
        """What the command is told to write and must not."""
        return self.folder / "output"


@pytest.fixture
def place(tmp_path: Path, run: Path, tiny_pack: Path) -> Place:
    """Copies that a case may damage."""
    return Place(tmp_path, shutil.copytree(run, tmp_path / "run"), shutil.copytree(tiny_pack, tmp_path / "tiny.pack"))


Case = tuple[str, Callable[[Place], list[object]], tuple[str, ...]]
CASES: list[Case] = []


def case(*expected: str) -> Callable[[Callable[[Place], list[object]]], None]:
    """Register a function that prepares bad input and returns the arguments; `expected` must be in the message."""
    return lambda prepare: CASES.append((prepare.__name__, prepare, expected))


# ---------------------------------------------------------------------------------------------- recipes


@case("training.stepz", "did you mean 'steps'")
def unknown_setting(at: Place) -> list[object]:
    recipe = write_recipe(at.folder / "r.yaml", at.pack, training={"stepz": 5})
    return ["train", recipe, "-o", at.output]


@case("training.step", "did you mean 'steps'")
def unknown_setting_on_the_command_line(at: Place) -> list[object]:
    recipe = write_recipe(at.folder / "r.yaml", at.pack)
    return ["train", recipe, "-o", at.output, "--set", "training.step=5"]


@case("objective", "views")
def latent_loss_on_one_view(at: Place) -> list[object]:
    recipe = write_recipe(at.folder / "r.yaml", at.pack, objective={"latent": {"weight": 1}})
    return ["train", recipe, "-o", at.output]


@case("nothing.yaml", "cannot be read")
def missing_recipe(at: Place) -> list[object]:
    return ["train", at.folder / "nothing.yaml", "-o", at.output]


@case("r.yaml", "not YAML")
def broken_recipe(at: Place) -> list[object]:
    (at.folder / "r.yaml").write_text("name: [", encoding="utf-8")
    return ["train", at.folder / "r.yaml", "-o", at.output]


@case("domainz", "did you mean 'domains'")
def unknown_setting_of_a_campaign(at: Place) -> list[object]:
    (at.folder / "d.yaml").write_text("domainz: []", encoding="utf-8")
    return ["data", "build", at.folder / "d.yaml", "-o", at.output]


# ---------------------------------------------------------------------------------------------- training data


@case("nowhere.pack")
def missing_pack(at: Place) -> list[object]:
    recipe = write_recipe(at.folder / "r.yaml", at.folder / "nowhere.pack")
    return ["train", recipe, "-o", at.output]


@case("positions.npy", "corrupt")
def truncated_pack(at: Place) -> list[object]:
    file = at.pack / "positions.npy"
    file.write_bytes(file.read_bytes()[:200])
    return ["train", write_recipe(at.folder / "r.yaml", at.pack), "-o", at.output]


@case("tiny.pack", "version", "upgrade")
def pack_of_a_newer_version(at: Place) -> list[object]:
    meta = json.loads((at.pack / "meta.json").read_text())
    (at.pack / "meta.json").write_text(json.dumps(meta | {"version": 999}))
    return ["train", write_recipe(at.folder / "r.yaml", at.pack), "-o", at.output]


@case("6 atoms", "raise training.batch.max_atoms")
def structure_larger_than_the_budget(at: Place) -> list[object]:
    recipe = write_recipe(at.folder / "r.yaml", at.pack)
    return ["train", recipe, "-o", at.output, "--set", "training.batch.max_atoms=3"]


@case("already holds a run", "--resume")
def run_that_exists(at: Place) -> list[object]:
    return ["train", write_recipe(at.folder / "r.yaml", at.pack), "-o", at.run]


@case("was started with other data, model", "recipe.yaml")
def resuming_another_run(at: Place) -> list[object]:
    values = yaml.safe_load((at.run / "recipe.yaml").read_text())
    values["model"]["depth"] = 3
    (at.folder / "r.yaml").write_text(yaml.safe_dump(values))
    return ["train", at.folder / "r.yaml", "-o", at.run, "--resume"]


# ---------------------------------------------------------------------------------------------- packing


@case("x.extxyz", "energy", "dft_energy")
def missing_label(at: Place) -> list[object]:
    return [
        "data",
        "pack",
        labelled(at.folder / "x.extxyz", "dft_energy=-2000.0 charge=0 spin=1"),
        "-o",
        at.output,
    ]


@case("x.extxyz", "my_energy")
def label_key_not_found(at: Place) -> list[object]:
    return ["data", "pack", labelled(at.folder / "x.extxyz"), "-o", at.output, "--energy-key", "my_energy"]


@case("x.extxyz", "charge is missing", "(--charge-key, keys.charge)")
def packing_without_charge(at: Place) -> list[object]:
    return ["data", "pack", labelled(at.folder / "x.extxyz", "energy=-2000.0 spin=1"), "-o", at.output]


@case("x.extxyz", "hartree")
def wrong_energy_unit(at: Place) -> list[object]:
    return ["data", "pack", labelled(at.folder / "x.extxyz"), "-o", at.output, "--energy-unit", "hartree"]


@case("x.extxyz", "NaN")
def nan_label(at: Place) -> list[object]:
    return ["data", "pack", labelled(at.folder / "x.extxyz", "energy=nan charge=0 spin=1"), "-o", at.output]


@case("x.extxyz")
def truncated_file(at: Place) -> list[object]:
    file = labelled(at.folder / "x.extxyz")
    file.write_text(file.read_text()[:-30])
    return ["data", "pack", file, "-o", at.output]


@case("empty.extxyz")
def empty_file(at: Place) -> list[object]:
    (at.folder / "empty.extxyz").touch()
    return ["data", "pack", at.folder / "empty.extxyz", "-o", at.output]


@case("x.cif")
def unknown_kind_of_file(at: Place) -> list[object]:
    (at.folder / "x.cif").write_text("data_x")
    return ["data", "pack", at.folder / "x.cif", "-o", at.output]


@case("x.db")
def corrupt_database(at: Place) -> list[object]:
    (at.folder / "x.db").write_bytes(b"SQLite format 3\0" + bytes(50))
    return ["data", "pack", at.folder / "x.db", "-o", at.output]


@case("exists")
def pack_that_exists(at: Place) -> list[object]:
    return ["data", "pack", labelled(at.folder / "x.extxyz"), "-o", at.pack]


@case("nothing.extxyz")
def missing_file(at: Place) -> list[object]:
    return ["data", "info", at.folder / "nothing.extxyz"]


# ---------------------------------------------------------------------------------------------- structures


@case("x.extxyz", "charge is missing", "(--charge, charge=...)")
def missing_charge(at: Place) -> list[object]:
    return ["predict", at.run, structures(at.folder / "x.extxyz", info="spin=1"), "-o", at.output]


@case("x.extxyz", "spin is missing", "(--spin, spin=...)")
def missing_spin(at: Place) -> list[object]:
    return ["relax", at.run, structures(at.folder / "x.extxyz", info="charge=0"), "-o", at.output]


@case("x.extxyz", "cannot have multiplicity 2")
def impossible_parity(at: Place) -> list[object]:
    return ["predict", at.run, structures(at.folder / "x.extxyz", info="charge=0 spin=2"), "-o", at.output]


@case("cannot have multiplicity 1")
def impossible_parity_on_the_command_line(at: Place) -> list[object]:
    return ["md", at.run, structures(at.folder / "x.extxyz"), "-o", at.output, "--charge", 1, "--spin", 1]


@case("x.extxyz", "overlap", "0.4 Å")
def overlapping_atoms(at: Place) -> list[object]:
    atoms = "O 0.0 0.0 0.0\nH 0.0 0.0 0.1\nH 0.0 1.0 0.0"
    return ["predict", at.run, structures(at.folder / "x.extxyz", atoms), "-o", at.output]


@case("x.extxyz", "NaN")
def infinite_position(at: Place) -> list[object]:
    atoms = "O 0.0 0.0 0.0\nH 0.0 0.0 inf\nH 0.0 1.0 0.0"
    return ["predict", at.run, structures(at.folder / "x.extxyz", atoms), "-o", at.output]


@case("x.extxyz")
def unknown_element(at: Place) -> list[object]:
    atoms = "Xq 0.0 0.0 0.0\nH 0.0 0.0 1.0\nH 0.0 1.0 0.0"
    return ["predict", at.run, structures(at.folder / "x.extxyz", atoms), "-o", at.output]


@case("Se is not in the model's training data", "element seen")
def unseen_element_refused(at: Place) -> list[object]:
    atoms = "Se 0.0 0.0 0.0\nH 0.0 0.0 1.46\nH 0.0 1.46 0.0"
    return [
        "predict",
        at.run,
        structures(at.folder / "x.extxyz", atoms),
        "-o",
        at.output,
        "--unseen",
        "refuse",
    ]


# ---------------------------------------------------------------------------------------------- models and runs


@case("best.pt", "pickled")
def pickled_checkpoint(at: Place) -> list[object]:
    (at.folder / "best.pt").write_bytes(pickle.dumps({"state_dict": {}}))
    return ["predict", at.folder / "best.pt", structures(at.folder / "x.extxyz"), "-o", at.output]


@case("format 999", "upgrade")
def model_of_a_newer_format(at: Place) -> list[object]:
    file = at.run / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 999}))
    return ["evaluate", at.run, at.pack, "-o", at.output]


@case("model.safetensors", "corrupt")
def truncated_model(at: Place) -> list[object]:
    file = at.run / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return ["info", at.run]


@case("no transip model", "config.json")
def no_model(at: Place) -> list[object]:
    return ["symmetry", at.folder, at.pack, "-o", at.output]


@case("cannot be used", "cpu")
def no_such_device(at: Place) -> list[object]:
    source = structures(at.folder / "x.extxyz")
    return ["predict", at.run, source, "-o", at.output, "--device", "cuda:99"]


@case("cannot be used", "cpu")
def no_such_device_for_symmetry(at: Place) -> list[object]:
    return ["symmetry", at.run, at.pack, "-o", at.output, "--device", "cuda:99"]


@case("is not a run")
def report_on_something_else(at: Place) -> list[object]:
    return ["report", at.pack, "-o", at.output]


@case("checkpoints", "corrupt")
def every_checkpoint_damaged(at: Place) -> list[object]:
    for file in (at.run / "checkpoints").iterdir():
        file.write_bytes(b"\0" * 50)
    return ["train", at.run / "recipe.yaml", "-o", at.run, "--resume"]


# ---------------------------------------------------------------------------------------------- what must hold


@pytest.mark.parametrize(("prepare", "expected"), [pytest.param(p, e, id=name) for name, p, e in CASES])
def test_one_message_and_nothing_written(prepare, expected, place, capfd):
    arguments = prepare(place)
    before = dict(fingerprints(place.folder))
    assert call(*arguments) == 2
    message = capfd.readouterr().err
    for text in expected:
        assert text in message
    assert message.count("error: ") == 1
    assert "Traceback" not in message
    assert dict(fingerprints(place.folder)) == before


def test_an_unseen_element_is_a_warning(run, tmp_path, capfd):
    atoms = "Se 0.0 0.0 0.0\nH 0.0 0.0 1.46\nH 0.0 1.46 0.0"
    target = tmp_path / "out.extxyz"
    assert call("predict", run, structures(tmp_path / "x.extxyz", atoms), "-o", target) == 0
    assert "warning: " in capfd.readouterr().err
    assert target.exists()


def test_an_output_that_cannot_be_written(run, water, capfd):
    assert call("predict", run, water, "-o", water / "below-a-file.extxyz") == 2
    assert "is not an existing folder" in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["predict", "evaluate", "report", "relax"])
def test_a_full_disk(verb, run, tiny_pack, water, tmp_path, capfd, monkeypatch):
    sources = {"predict": [water], "relax": [water, "--steps", 1], "evaluate": [tiny_pack], "report": []}
    before = dict(fingerprints(tmp_path))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert call(verb, run, *sources[verb], "-o", tmp_path / "output") == 2
    message = capfd.readouterr().err
    assert "No space left on device" in message and "free some space" in message
    left = dict(fingerprints(tmp_path))
    assert (left.pop("output.partial.xyz", None) is not None) == (verb == "relax")  # what was relaxed is kept
    assert left in (before, before | {"output": EMPTY})


def fingerprints(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file and folder below `folder` with a hash of its content."""
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        yield str(path.relative_to(folder)), hashlib.sha256(content).hexdigest()
