"""What a run writes down about itself."""

import json
import math

import pytest

from toy import read_metrics, toy_recipe
from transip.config import Recipe, load
from transip.data.dataset import Dataset
from transip.training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")

ERRORS = {"energy_mae_per_atom", "force_mae", "force_rotation_error", "energy_rotation_spread_per_atom"}


@pytest.fixture(scope="module")
def run(toy_packs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "toy"
    changes = {"training.steps": 7, "training.log_every": 3, "training.trackers": ["tensorboard"]}
    recipe = toy_recipe(toy_packs, {**changes, "objective.views": 2})
    assert train(recipe, folder, progress=False) == folder / "model"
    return folder, recipe


def test_lines_come_when_they_are_due_and_at_the_end(run):
    folder, _ = run
    assert [line["step"] for line in read_metrics(folder, "train")] == [3, 6, 7]
    assert [line["step"] for line in read_metrics(folder, "evaluation")] == [5, 7]


def test_every_evaluation_carries_its_symmetry_and_its_cost(run):
    folder, _ = run
    for line in read_metrics(folder, "evaluation", without=set()):
        assert {"time_s", "forward_passes", "atoms_processed"} | ERRORS <= line.keys()
        assert all(math.isfinite(value) for value in line.values() if not isinstance(value, str))
        assert line["structures"] == 12


def test_forward_passes_count_second_views(run):
    """43 structures: five batches of 8, one of 3, then 8 again; each is seen twice."""
    folder, _ = run
    last = read_metrics(folder, "train")[-1]
    assert last["forward_passes"] == 2 * (6 * 8 + 3)
    assert last["loss"] == pytest.approx(last["energy_loss"] + last["force_loss"], rel=1e-6)


@pytest.mark.parametrize("views", [1, 2])
def test_forward_passes_count_both_views_of_unlabelled_structures(toy_packs, toy_pool, tmp_path, views):
    """In an epoch of 43 labelled structures and 18 unlabelled ones."""
    unlabelled = {"data.unlabelled": [str(toy_pool)], "training.batch.unlabelled": 3, "training.steps": 6}
    changes = {**unlabelled, "objective.views": views, "objective.latent": {"weight": 1.0}}
    train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
    last = read_metrics(tmp_path / "run", "train")[-1]
    assert last["forward_passes"] == 43 * views + 18 * 2
    atoms, more_atoms = (int(Dataset.open([path]).atom_counts.sum()) for path in (toy_packs[0], toy_pool))
    assert last["atoms_processed"] == views * atoms + 2 * more_atoms
    assert last["loss"] == pytest.approx(sum(last[f"{term}_loss"] for term in ("energy", "force", "latent")), rel=1e-5)
    assert last["latent_loss"] > 0


def test_the_resolved_recipe_is_kept(run):
    folder, recipe = run
    assert load(Recipe, folder / "recipe.yaml") == recipe


def test_the_model_knows_how_it_was_trained(run):
    folder, _ = run
    card = json.loads((folder / "model/config.json").read_text())
    best = min(read_metrics(folder, "evaluation"), key=lambda line: line["force_mae"])
    assert card["validation"]["force_mae"] == best["force_mae"]
    assert card["training"]["step"] == best["step"]
    assert card["level_of_theory"] == "toy pairs"
    assert card["elements"] == ["H", "C", "N", "O", "S"]
    assert card["charges"] == [0, 1] and card["spins"] == [1, 2]


def test_tensorboard_gets_the_same_numbers(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, _ = run
    files = list(folder.rglob("events.out.tfevents.*"))
    assert files
    events = accumulator.EventAccumulator(str(files[0]))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    expected = {line["step"]: line["loss"] for line in read_metrics(folder, "train")}
    assert found == pytest.approx(expected)
    assert {"evaluation/" + name for name in ERRORS} <= set(events.Tags()["scalars"])


def test_patience_ends_a_run_that_no_longer_gains(toy_packs, tmp_path):
    """With a vanishing learning rate, every evaluation finds the same error: none is better than the first."""
    optimizer = {"name": "adamw", "learning_rate": 1e-30}
    changes = {"training.steps": 100, "training.early_stopping_patience": 2, "training.evaluate_every": 2}
    train(toy_recipe(toy_packs, {**changes, "training.optimizer": optimizer}), tmp_path / "run", progress=False)
    assert [line["step"] for line in read_metrics(tmp_path / "run", "evaluation")] == [2, 4, 6]
