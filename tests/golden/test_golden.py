"""Numbers that no change may move unnoticed; `make.py` remakes them."""

import json

import pytest
import torch
from make import CURVE, MODELS, PREDICTIONS, curve, predictions

from transip.model.files import load_model
from transip.symmetry.latent import load_latent


def test_a_seeded_run_loses_what_it_always_lost(tmp_path):
    """Kernels of other machines add up in another order, hence not more than four digits."""
    found, expected = curve(tmp_path), json.loads(CURVE.read_text())
    assert len(found) == len(expected) == 30
    for line, known in zip(found, expected, strict=True):
        assert line == pytest.approx(known, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_committed_model_predicts_what_it_always_predicted(model):
    for found, known in zip(predictions(model), json.loads((model / PREDICTIONS).read_text()), strict=True):
        assert found["energy"] == pytest.approx(known["energy"], rel=0, abs=1e-6)
        torch.testing.assert_close(torch.tensor(found["forces"]), torch.tensor(known["forces"]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("number", "folder"), list(enumerate(MODELS, 1)))
def test_files_of_every_format_are_read(number, folder):
    assert json.loads((folder / "config.json").read_text())["format"] == number
    model, latent = load_model(folder), load_latent(folder)
    assert model.card["level_of_theory"] == "toy pairs"
    assert latent is not None and latent.width == model.settings.width == 24
    assert sum(path.stat().st_size for path in folder.iterdir()) < 600_000
