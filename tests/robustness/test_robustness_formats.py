"""Files of the first formats stay loadable for ever; files of formats that are yet to come are named as such."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from toy import read_metrics, toy_structure
from transip.config import Recipe, load
from transip.data.read import read_structures
from transip.data.store import Pack
from transip.errors import InputError
from transip.evaluation.result import Evaluation
from transip.evaluation.saved import evaluate_checkpoint
from transip.model.files import load_model
from transip.report.page import write_report
from transip.training.checkpoint import checkpoints, load_checkpoint
from transip.training.trainer import train

GOLDEN = Path(__file__).parents[1] / "golden"
PACK, RUN, MODEL = (GOLDEN / name for name in ("pack-format-1", "run-format-1", "model-format-1"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first run folder beside the first pack, which its recipe names; in the working folder."""
    for folder in (PACK, RUN):
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / RUN.name


def test_the_first_pack_holds_what_went_in():
    pack = Pack.open(PACK)
    pack.verify()
    assert pack.meta["version"] == 1 and len(pack) == 20
    for i, found in enumerate(read_structures(PACK)):
        expected = toy_structure(i)
        assert (found.numbers == expected.numbers).all()
        np.testing.assert_allclose(found.positions, expected.positions, atol=1e-6)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-5)
        names = ("energy", "charge", "spin", "domain", "source")
        assert [getattr(found, name) for name in names] == [
            pytest.approx(expected.energy, abs=1e-9),
            *(getattr(expected, name) for name in names[1:]),
        ]


@pytest.mark.filterwarnings("ignore:.*composition")
def test_the_first_run_goes_on(run):
    progress, groups = load_checkpoint(run / "checkpoints")
    assert progress.step == 4 and groups
    train(load(Recipe, run / "recipe.yaml", ["training.steps=6"]), run, resume=True, progress=False)
    assert [line["step"] for line in read_metrics(run, "train")] == [1, 2, 3, 4, 5, 6]
    assert checkpoints(run / "checkpoints")[-1].stem == "00000006"
    assert load_model(run).card["training"]["step"] == 6


def test_the_first_run_is_shown_and_evaluated_again(run, tmp_path):
    old = Evaluation.read(run)
    new = evaluate_checkpoint(run)
    assert list(new.predictions["ids"]) == list(old.predictions["ids"])
    np.testing.assert_allclose(new.predictions["energy"], old.predictions["energy"], atol=1e-4)
    np.testing.assert_allclose(new.predictions["forces"], old.predictions["forces"], atol=1e-4)
    assert "latent loss, atoms" in write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------- yet to come


def newer_json(file: Path, key: str) -> None:
    """The next format but many."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: 99}))


def newer_pack(folder: Path) -> Callable[[], object]:
    pack = shutil.copytree(PACK, folder / "x.pack")
    newer_json(pack / "meta.json", "version")
    return lambda: Pack.open(pack)


def newer_model(folder: Path) -> Callable[[], object]:
    model = shutil.copytree(MODEL, folder / "x")
    newer_json(model / "config.json", "format")
    return lambda: load_model(model)


def newer_evaluation(folder: Path) -> Callable[[], object]:
    run = shutil.copytree(RUN, folder / "x")
    newer_json(run / "evaluation.json", "format")
    return lambda: Evaluation.read(run)


def newer_checkpoint(folder: Path) -> Callable[[], object]:
    file = shutil.copytree(RUN / "checkpoints", folder / "x") / "00000004.safetensors"
    with safe_open(file, framework="pt") as handle:
        metadata = handle.metadata()
    save_file(load_file(file), file, metadata | {"format": "99"})
    return lambda: load_checkpoint(file.parent)


@pytest.mark.filterwarnings("ignore:.*falling back")
@pytest.mark.parametrize("newer", [newer_pack, newer_model, newer_evaluation, newer_checkpoint])
def test_a_newer_format_is_one_clear_message(newer, tmp_path):
    with pytest.raises(InputError) as caught:
        newer(tmp_path)()
    message = str(caught.value)
    assert "99" in message and "upgrade transip" in message and message.count("\n") == 1


@pytest.mark.parametrize("number", [0, -1, "1", 1.5, None, True, 10**30])
def test_what_is_no_format_number_is_refused(number, tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "x")
    pack = shutil.copytree(PACK, tmp_path / "x.pack")
    for file, key in ((model / "config.json", "format"), (pack / "meta.json", "version")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: number}))
    for read in (lambda: load_model(model), lambda: Pack.open(pack)):
        with pytest.raises(InputError):
            read()
