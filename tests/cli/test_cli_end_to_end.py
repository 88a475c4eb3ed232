"""Every verb on tiny data, through the same entry point as the shell's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import ase.io
import numpy as np
import pytest

from commands import call, write_recipe
from toy import toy_structure
from transip.data.read import read_structures
from transip.data.store import write_pack
from transip.version import __version__

VERBS = ["train", "evaluate", "symmetry", "report", "predict", "relax", "md", "info", "data"]


@pytest.mark.parametrize(
    "verb", [[], *([verb] for verb in VERBS), ["data", "build"], ["data", "pack"], ["data", "info"]]
)
def test_help_says_what_a_verb_does(verb, capsys):
    assert call(*verb, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_pack_is_verified_on_request(tmp_path, capsys):
    write_pack(tmp_path / "x.pack", map(toy_structure, range(8)), level_of_theory="toy")
    assert call("data", "info", tmp_path / "x.pack", "--verify") == 0
    charges = tmp_path / "x.pack" / "charge.npy"
    charges.write_bytes(charges.read_bytes()[:-1] + b"\1")
    assert call("data", "info", tmp_path / "x.pack") == 0
    assert call("data", "info", tmp_path / "x.pack", "--verify") == 2
    assert "does not have the checksum" in capsys.readouterr().err


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "transip", "--help"], capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in VERBS)


def test_training_leaves_a_model_with_its_symmetry_error(run):
    card = json.loads((run / "model" / "config.json").read_text())
    assert card["validation"]["force_rotation_error"] > 0
    assert card["training"]["forward_passes"] == 4 * 4 * 2  # steps × structures × views
    assert card["level_of_theory"] == "toy pairs"


def test_evaluate_without_data_uses_what_the_recipe_held_out(run, tmp_path, capsys):
    assert call("evaluate", run, "-o", tmp_path) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["overall"]["structures"] == 8  # two compositions of ten
    assert set(found["domains"]) <= {"neutral_organics", "elytes"}
    assert "rotation error" in capsys.readouterr().out


def test_evaluate_named_data(run, tiny_pack, tmp_path):
    assert call("evaluate", run / "model", tiny_pack, "-o", tmp_path) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["overall"]["structures"] == 40
    assert np.load(tmp_path / "predictions.npz")["energy"].shape == (40,)


def test_a_file_of_the_model_will_do(run, tiny_pack, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    assert call("evaluate", run / "model" / "model.safetensors", tiny_pack) == 0
    assert (run / "model" / "evaluation.json").is_file()


def test_labels_of_another_level_of_theory_are_named(run, tmp_path, capsys):
    write_pack(tmp_path / "other.pack", map(toy_structure, range(8)), level_of_theory="another")
    assert call("evaluate", run, tmp_path / "other.pack", "-o", tmp_path / "out") == 0
    assert "the data are labelled with another" in " ".join(capsys.readouterr().err.split())


def test_averages_on_every_verb(run, water, tmp_path, capsys):
    run = shutil.copytree(run, tmp_path / "run")
    assert call("evaluate", run, "--average", 12) == 0
    found = json.loads((run / "average-12" / "evaluation.json").read_text())
    assert found["cost"]["forward_passes"] == 12 * 8
    assert call("evaluate", run, "-o", tmp_path / "raw") == 0
    raw = json.loads((tmp_path / "raw" / "evaluation.json").read_text())
    assert found["symmetry"]["force_rotation_error"] < raw["symmetry"]["force_rotation_error"]
    for verb, options in {"predict": [], "relax": ["--steps", 1], "md": ["--steps", 1]}.items():
        assert call(verb, run, water, "-o", tmp_path / f"{verb}.extxyz", "--average", 3, *options) == 0
        assert ase.io.read(tmp_path / f"{verb}.extxyz").arrays["forces_std"].shape == (3,)
    assert call("predict", run, water, "-o", tmp_path / "one.extxyz", "--average", 1) == 2
    assert "average is 1" in capsys.readouterr().err and not (tmp_path / "one.extxyz").exists()


def test_what_runs_the_network_often_compiles_it_when_asked(run, water, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr("transip.inference.predict.compile_network", lambda model, _: compiled.append(model))
    for number, (verb, options) in enumerate({"predict": [], "relax": ["--steps", 1], "md": ["--steps", 1]}.items()):
        assert call(verb, run, water, "-o", tmp_path / f"{verb}.extxyz", *options) == 0
        assert len(compiled) == number
        assert call(verb, run, water, "-o", tmp_path / f"compiled-{verb}.extxyz", "--compile", *options) == 0
        assert len(compiled) == number + 1


def test_symmetry_examines_every_layer(run, tiny_pack, tmp_path, capsys):
    target = tmp_path / "symmetry.json"
    assert call("symmetry", run, tiny_pack, "--structures", 4, "--rotations", 3, "-o", target) == 0
    layers = json.loads(target.read_text())["layers"]
    assert len(layers) == 2 and all(0 <= layer["invariant_share"] <= 1 for layer in layers)
    assert "invariant share" in capsys.readouterr().out


def test_report_shows_runs_side_by_side(run, tmp_path):
    one, other = (shutil.copytree(run, tmp_path / name) for name in ("one", "other"))
    assert call("evaluate", one) == 0
    assert call("report", one, other, "-o", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "one" in page and "other" in page and "</html>" in page


def test_predict_labels_every_structure(run, water, tmp_path):
    target = tmp_path / "labelled.extxyz"
    assert call("predict", run, water, "-o", target) == 0
    given, labelled = ase.io.read(water, ":"), ase.io.read(target, ":")
    assert [a.info["source"] for a in labelled] == ["w7", "w8"]
    for before, after in zip(given, labelled, strict=True):
        assert np.allclose(before.positions, after.positions, atol=1e-6)
        assert np.isfinite(after.get_potential_energy()) and after.get_forces().shape == (3, 3)


def test_predict_takes_charge_and_spin_from_the_command(run, water, tmp_path):
    target = tmp_path / "cation.extxyz"
    assert call("predict", run, water, "-o", target, "--charge", 1, "--spin", 2) == 0
    assert {(a.info["charge"], a.info["spin"]) for a in ase.io.read(target, ":")} == {(1, 2)}


def test_relax_keeps_every_structure(run, water, tmp_path, capsys):
    target = tmp_path / "relaxed.extxyz"
    assert call("relax", run, water, "-o", target, "--steps", 2, "--fmax", 1e-9) == 0
    assert len(ase.io.read(target, ":")) == 2
    assert "0 of 2 converged" in capsys.readouterr().out


def test_md_writes_its_frames(run, water, tmp_path, capsys):
    target = tmp_path / "md.extxyz"
    assert call("md", run, water, "-o", target, "--steps", 4, "--interval", 2, "--ensemble", "nve") == 0
    assert len(ase.io.read(target, ":")) == 3
    assert "drift" in capsys.readouterr().out


def test_info_on_the_installation_and_on_a_model(run, capsys):
    assert call("info") == 0
    assert "torch" in capsys.readouterr().out
    assert call("info", run) == 0
    assert "toy pairs" in capsys.readouterr().out


def test_pack_reports_what_it_found(run, water, tmp_path, capsys):
    call("predict", run, water, "-o", tmp_path / "labelled.extxyz")
    capsys.readouterr()
    arguments = ["data", "pack", tmp_path / "labelled.extxyz", "-o", tmp_path / "water.pack"]
    assert call(*arguments, "--level-of-theory", "tiny") == 0
    packed = capsys.readouterr().out
    assert call("data", "info", tmp_path / "water.pack") == 0
    shown = capsys.readouterr().out
    for text in (packed, shown):
        assert "2 (2 labelled)" in text and "tiny" in text


def test_packing_converts_declared_units(tmp_path):
    atoms = ase.Atoms("HO", [[0, 0, 0], [0, 0, 1.0]], info={"charge": 0, "spin": 2, "REF_energy": -75.0})
    atoms.arrays["REF_forces"] = np.array([[0, 0, 0.1], [0, 0, -0.1]])
    ase.io.write(tmp_path / "oh.extxyz", atoms)
    units = ["--energy-unit", "hartree", "--force-unit", "hartree/bohr"]
    assert call("data", "pack", tmp_path / "oh.extxyz", "-o", tmp_path / "oh.pack", *units) == 0
    (found,) = read_structures(tmp_path / "oh.pack")
    assert found.energy == pytest.approx(-75.0 * 27.211386)
    assert found.forces[0, 2] == pytest.approx(0.1 * 27.211386 / 0.52917721)


def test_a_killed_training_goes_on(run, tiny_pack, tmp_path):
    recipe = write_recipe(tmp_path / "tiny.yaml", tiny_pack)
    assert call("train", recipe, "-o", tmp_path / "run") == 0
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert call("train", recipe, "-o", tmp_path / "run", "--resume", "--set", "training.steps=6") == 0
    longer = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert longer[: len(log)] == log
    assert json.loads(longer[-1])["step"] == 6
