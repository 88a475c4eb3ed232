"""A loss term from outside the package is trained, logged, checkpointed, resumed, and refused where it is missing."""

import pytest
import torch
from huber import HuberForces, huber_terms
from test_training_resume import Killed, assert_same, kill_at, state

from toy import read_metrics, toy_recipe
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.model.files import load_model
from transip.training.callbacks import Callback
from transip.training.checkpoint import load_checkpoint
from transip.training.terms import Energy, Forces
from transip.training.trainer import Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


class Observer(Callback):
    """Adds an error to the log, and remembers when it was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_evaluation(self, trainer: Trainer, record: dict) -> None:
        self.calls.append(f"evaluation {record['step']}")
        batch = trainer.data.train.get_batch(range(8))
        record["train_force_mae"] = float((trainer.potential(batch).forces - batch.forces).abs().mean())

    def on_checkpoint(self, trainer: Trainer) -> None:
        self.calls.append(f"checkpoint {trainer.state.step}")

    def on_end(self, trainer: Trainer) -> None:
        self.calls.append(f"end {trainer.progress}")


def test_is_trained_logged_resumed_and_saved(toy_packs, tmp_path, monkeypatch):
    recipe = toy_recipe(toy_packs)
    train(recipe, tmp_path / "whole", progress=False, loss_terms=huber_terms)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        train(recipe, tmp_path / "killed", progress=False, loss_terms=huber_terms)
    train(recipe, tmp_path / "killed", resume=True, progress=False, loss_terms=huber_terms)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    for record in read_metrics(tmp_path / "whole", "train"):
        assert record["loss"] == pytest.approx(record["energy_loss"] + record["huber_loss"], rel=1e-6)
        assert "force_loss" not in record
    groups = load_checkpoint(tmp_path / "whole/checkpoints")[1]
    weights = groups["objective"]["terms.huber.log_weights"]
    assert weights[[1, 6, 8]].abs().min() > 1e-4 and not weights[[2, 50]].any()
    model = load_model(tmp_path / "whole")
    assert model(Dataset.open(toy_packs[:1]).get_batch(range(3))).energy.isfinite().all()


@pytest.mark.parametrize(
    "other", [None, lambda *_: [Energy(1.0)], lambda *_: [Energy(1.0), HuberForces(1.0), Forces(1.0)]]
)
def test_a_run_is_not_resumed_with_other_terms(toy_packs, tmp_path, other):
    train(toy_recipe(toy_packs), tmp_path / "run", progress=False, loss_terms=huber_terms)
    message = r"other loss terms \(backbone: .*, energy: transip\.training\.terms\.Energy, huber: huber\.HuberForces\)"
    with pytest.raises(InputError, match=message):
        recipe = toy_recipe(toy_packs, {"training.steps": 12})
        train(recipe, tmp_path / "run", resume=True, progress=False, loss_terms=other)


def test_callbacks_look_on_and_add_to_the_log(toy_packs, tmp_path):
    observer = Observer()
    train(toy_recipe(toy_packs), tmp_path / "run", progress=False, callbacks=[observer])
    assert observer.calls == ["evaluation 5", "checkpoint 5", "evaluation 10", "checkpoint 10", "end 1.0"]
    errors = [record["train_force_mae"] for record in read_metrics(tmp_path / "run", "evaluation")]
    assert len(errors) == 2 and all(0 < error < 10 for error in errors)


def test_the_weights_of_a_term_are_those_that_moved(toy_packs, tmp_path):
    """Elements that the data do not have keep the weight that they began with."""
    groups = {}
    for steps in (1, 4):
        recipe = toy_recipe(toy_packs, {"training.steps": steps, "training.seed": 1})
        train(recipe, tmp_path / str(steps), progress=False, loss_terms=huber_terms)
        groups[steps] = load_checkpoint(tmp_path / str(steps) / "checkpoints")[1]["objective"]
    assert not torch.equal(groups[1]["terms.huber.log_weights"], groups[4]["terms.huber.log_weights"])
