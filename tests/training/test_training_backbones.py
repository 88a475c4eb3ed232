"""A backbone from outside the package is trained, resumed, saved, loaded, averaged and used like ours."""

import ase.build
import numpy as np
import pytest
import torch
from mean_field import MeanField
from test_training_resume import assert_same, killed_and_resumed, state

from toy import read_metrics, toy_recipe
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.inference.ase import TransIPCalculator
from transip.metrics.validation import validation_metrics
from transip.model.files import load_model, save_model
from transip.rotations import rotation_group
from transip.symmetry.average import RotationEnsemble
from transip.training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")
LATENT = {"objective.views": 2, "objective.latent": {"weight": 1.0, "hidden": 8}}


@pytest.fixture(scope="module", params=["direct", "conservative"])
def run(request, toy_packs, tmp_path_factory):
    """A folder, and the recipe it was trained with."""
    folder = tmp_path_factory.mktemp("run") / request.param
    recipe = toy_recipe(toy_packs, {**LATENT, "model.forces": request.param})
    train(recipe, folder, progress=False, backbone=MeanField)
    return folder, recipe


def test_learns(toy_packs, run):
    records = read_metrics(run[0], "train")
    assert records[-1]["force_loss"] < records[0]["force_loss"] and all(r["latent_loss"] > 0 for r in records[1:])


def test_is_saved_and_loaded_with_its_code_alone(run, tmp_path):
    with pytest.raises(InputError, match=r"backbone that is no part of transip(.|\n)*backbone=\.\.\."):
        load_model(run[0])
    model = load_model(run[0], backbone=MeanField)
    assert isinstance(model.backbone, MeanField)
    batch = Dataset.open(run[1].data.validation).get_batch(range(5))
    expected = model(batch)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, backbone=MeanField)(batch)
    assert torch.equal(loaded.energy, expected.energy) and torch.equal(loaded.forces, expected.forces)


def test_serves_ase_averages_and_measurements(run):
    model = load_model(run[0], backbone=MeanField)
    atoms = ase.build.molecule("CH3OH")
    atoms.info.update(charge=0, spin=1)
    atoms.calc = TransIPCalculator(model)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-3 and np.isfinite(atoms.get_potential_energy())
    data = Dataset.open(run[1].data.validation)
    alone, averaged = (
        validation_metrics(m, data, run[1].training.batch) for m in (model, RotationEnsemble(model, rotation_group(12)))
    )
    assert averaged["force_rotation_error"] < alone["force_rotation_error"]


def test_is_resumed_bit_for_bit_and_not_without_its_code(toy_packs, tmp_path, monkeypatch):
    recipe = toy_recipe(toy_packs, LATENT)
    killed_and_resumed(recipe, tmp_path, monkeypatch, backbone=MeanField)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    with pytest.raises(InputError, match=r"backbone: mean_field\.MeanField(.|\n)*pass train\(\) the same backbone"):
        longer = toy_recipe(toy_packs, {**LATENT, "training.steps": 12})
        train(longer, tmp_path / "whole", resume=True, progress=False)


def test_is_fine_tuned_but_not_with_adapters(toy_packs, run, tmp_path):
    changes = {"init_from": str(run[0]), "model": {}, "training.steps": 2, "training.optimizer.learning_rate": 1e-4}
    with pytest.raises(InputError, match="are for the built-in backbone"):
        recipe = toy_recipe(toy_packs, {**changes, "fine_tuning": {"lora_rank": 2}})
        train(recipe, tmp_path / "adapters", progress=False, backbone=MeanField)
    folder = tmp_path / "run"
    train(toy_recipe(toy_packs, changes), folder, progress=False, backbone=MeanField)
    start = load_model(run[0], backbone=MeanField).card["validation"]["force_mae"]
    assert read_metrics(folder, "evaluation")[0]["force_mae"] == pytest.approx(start, rel=1e-6)
