"""What goes into one optimiser step."""

import itertools

import pytest
import torch

from toy import read_metrics, toy_recipe
from transip.training.loop import train
from transip.training.losses import Losses, Objective

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


def test_accumulated_batches_are_one_large_batch(toy_packs, tmp_path):
    """Fifteen structures a step, odd in number: signs of energy errors cannot cancel."""
    changes = {
        "training.steps": 2,
        "training.optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "objective.augment": False,
    }
    small = {"training.batch.structures": 5, "training.accumulate": 3}
    train(toy_recipe(toy_packs, {**changes, **small}), tmp_path / "small", progress=False)
    train(toy_recipe(toy_packs, {**changes, "training.batch.structures": 15}), tmp_path / "large", progress=False)
    found, expected = (read_metrics(tmp_path / name, "train") for name in ("small", "large"))
    assert len(found) == 2
    for a, b in zip(found, expected, strict=True):
        assert a.pop("kind") == b.pop("kind")
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("augment", [True, False])
def test_every_view_of_every_batch_has_an_orientation_of_its_own(toy_packs, tmp_path, monkeypatch, augment):
    seen: list[torch.Tensor] = []
    forward = Objective.forward

    def recorded(self: Objective, batch, turns, *rest) -> Losses:
        seen.extend(turns.flatten(0, 1))
        return forward(self, batch, turns, *rest)

    monkeypatch.setattr(Objective, "forward", recorded)
    changes = {"training.steps": 3, "training.accumulate": 2, "objective.views": 2, "objective.augment": augment}
    train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
    assert len(seen) == 2 * (5 * 8 + 3)  # the last of six batches is the rest of the epoch
    if augment:
        assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    else:
        assert all(torch.equal(turn, torch.eye(3)) for turn in seen)
