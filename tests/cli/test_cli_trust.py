"""`transip calibrate`, and what predictions come with from then on."""

import json
import shutil

import ase.io
import pytest

from commands import call
from toy import toy_structure
from transip.data.store import write_pack
from transip.model.files import load_model
from transip.model.released import check_files, write_checksums

LEVELS = ["50", "68", "90", "95"]


@pytest.fixture
def runs(run, tmp_path):
    """Two models, the second of them with slightly other weights, in folders of this test."""
    from transip.model.files import save_model

    a = shutil.copytree(run, tmp_path / "a")
    b = load_model(a)
    next(b.parameters()).mul_(1.01)
    save_model(b, tmp_path / "b")
    return a, tmp_path / "b"


def test_from_calibration_to_refusal(runs, water, tmp_path, capsys):
    a, b = runs
    weights = (a / "model" / "model.safetensors").read_bytes()
    assert call("calibrate", a, "--average", 3) == 0
    assert call("calibrate", a, "--committee", b) == 0
    assert call("calibrate", a, "--committee", b, "--seed", 1) == 0  # replaces the one before
    assert "within" in capsys.readouterr().out
    known = json.loads((a / "model" / "config.json").read_text())["calibrations"]
    assert [(len(one["members"]), one["rotations"]) for one in known] == [(1, 3), (2, 1)]
    for one in known:
        assert one["structures"] == 4  # of eight that were held out
        assert list(one["energy"]["coverage"]) == list(one["forces"]["coverage"]) == LEVELS
    assert (a / "model" / "model.safetensors").read_bytes() == weights
    assert "## Uncertainties" in (a / "model" / "README.md").read_text()

    out = tmp_path / "o.extxyz"
    for options in (["--average", 3], ["--committee", b]):
        for verb in ("predict", "relax", "md"):
            assert (
                call(verb, a, water, "-o", out, "--overwrite", *options, *(["--steps", 1] if verb != "predict" else []))
                == 0
            )
            frame = ase.io.read(out)
            assert frame.arrays["forces_uncertainty"].shape == (3,)
            assert frame.info["max_force_uncertainty"] == pytest.approx(frame.arrays["forces_uncertainty"].max())
    assert call("predict", b, water, "-o", out, "--overwrite", "--committee", a) == 0  # whichever comes first
    assert "energy_uncertainty" in ase.io.read(out).info
    capsys.readouterr()
    assert call("predict", a, water, "-o", out, "--overwrite", "--average", 3, "--max-uncertainty", 1e-9) == 0
    assert capsys.readouterr().err.count("is uncertain by") == 2
    refused = [a, water, "-o", tmp_path / "no.extxyz", "--average", 3, "--max-uncertainty", 1e-9]
    assert call("predict", *refused, "--uncertain", "refuse") == 2
    assert "w7: the force on atom" in capsys.readouterr().err and not (tmp_path / "no.extxyz").exists()


def test_a_committee_is_evaluated(runs, capsys):
    a, b = runs
    assert call("evaluate", a, "--committee", b, "--average", 2) == 0
    found = json.loads((a / "committee-2-average-2" / "evaluation.json").read_text())
    assert found["cost"]["forward_passes"] == 2 * 2 * 8
    capsys.readouterr()


def test_a_released_model_stays_one(runs, capsys):
    _, b = runs
    write_checksums(b)
    write_pack(b.parent / "new.pack", [toy_structure(i) for i in range(20)], level_of_theory="toy pairs")
    assert call("calibrate", b, b.parent / "new.pack", "--average", 2) == 0
    assert check_files(b, "b", remedy="") == b
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one model in one orientation has no spread"),
        (["--committee", "b/../a"], "all spreads are the same"),
        (["--average", 1], "average is 1"),
    ],
)
def test_what_cannot_be_calibrated(runs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(runs[1].parent)
    before = (runs[0] / "model" / "config.json").read_bytes()
    assert call("calibrate", "a", *arguments) == 2
    assert message in capsys.readouterr().err
    assert (runs[0] / "model" / "config.json").read_bytes() == before
