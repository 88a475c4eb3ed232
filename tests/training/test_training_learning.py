"""Symmetry is learned, and it is the rotated views that teach it."""

import pytest
import torch

from toy import toy_recipe, write_toy_pack
from transip.data.dataset import Dataset
from transip.model.files import load_model
from transip.model.potential import Potential
from transip.symmetry.measure import measure_symmetry
from transip.training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


def errors(model: Potential, pack) -> tuple[float, float]:
    """Force MAE relative to the true forces' size, and force rotation error relative to the predicted ones'."""
    batch = Dataset.open([pack]).get_batch(range(40))
    with torch.no_grad():
        predicted = model(batch).forces
    rotation = measure_symmetry(model, [batch], rotations=8)["force_rotation_error"]
    return float((predicted - batch.forces).abs().mean() / batch.forces.abs().mean()), rotation / float(
        predicted.abs().mean()
    )


def test_augmentation_teaches_what_plain_data_do_not(tmp_path):
    """Three molecules shaken about one orientation each. An untrained model predicts no forces: error 1."""
    packs = write_toy_pack(tmp_path / "train.pack", 300, kinds=3), write_toy_pack(tmp_path / "new.pack", 40, 1, kinds=3)
    changes = {
        "training.steps": 200,
        "training.ema_decay": 0.95,
        "training.optimizer.learning_rate": 1e-2,
        "training.batch.batch_size": 16,
        "training.evaluate_every": 200,
        "training.checkpoint_every": 200,
    }
    found = {}
    for augment in (True, False):
        recipe = toy_recipe(packs, {**changes, "objective.augment": augment})
        found[augment] = errors(load_model(train(recipe, tmp_path / str(augment), progress=False)), packs[1])
    (taught, turned), (_, unturned) = found[True], found[False]
    assert taught < 0.65, found
    assert turned < 0.5 * unturned, found
