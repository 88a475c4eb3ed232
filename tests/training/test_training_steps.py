"""What goes into one optimiser step."""

import io
import itertools
import json

import pytest
import torch
from rich.console import Console

from toy import read_metrics, toy_recipe
from transip.errors import InputError
from transip.model.files import load_model
from transip.report.describe import describe_model
from transip.report.runs import read_run
from transip.report.tables import comparison
from transip.training.objective import Objective
from transip.training.trainer import train
from transip.training.training_batch import TrainingBatch

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


def test_accumulated_batches_are_one_large_batch(toy_packs, tmp_path):
    """Fifteen structures a step, odd in number: signs of energy errors cannot cancel."""
    changes = {
        "training.steps": 2,
        "training.optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "objective.augment": False,
    }
    small = {"training.batch.batch_size": 5, "training.grad_accumulation": 3}
    train(toy_recipe(toy_packs, {**changes, **small}), tmp_path / "small", progress=False)
    train(toy_recipe(toy_packs, {**changes, "training.batch.batch_size": 15}), tmp_path / "large", progress=False)
    found, expected = (read_metrics(tmp_path / name, "train") for name in ("small", "large"))
    assert len(found) == 2
    for a, b in zip(found, expected, strict=True):
        assert a.pop("kind") == b.pop("kind")
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("augment", [True, False])
def test_every_view_of_every_batch_has_an_orientation_of_its_own(toy_packs, tmp_path, monkeypatch, augment):
    seen: list[torch.Tensor] = []
    forward = Objective.forward

    def recorded(self: Objective, batch: TrainingBatch, progress: float) -> dict[str, torch.Tensor]:
        seen.extend(batch.labelled.rotations.flatten(0, 1))
        return forward(self, batch, progress)

    monkeypatch.setattr(Objective, "forward", recorded)
    changes = {"training.steps": 3, "training.grad_accumulation": 2, "objective.views": 2, "objective.augment": augment}
    train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
    assert len(seen) == 2 * (5 * 8 + 3)  # the last of six batches is the rest of the epoch
    if augment:
        assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    else:
        assert all(torch.equal(turn, torch.eye(3)) for turn in seen)


@pytest.mark.parametrize("reflections", [True, False])
def test_half_of_the_molecules_are_mirrored_in_both_views_or_in_neither(toy_packs, tmp_path, monkeypatch, reflections):
    seen: list[torch.Tensor] = []
    forward = Objective.forward

    def recorded(self: Objective, batch: TrainingBatch, progress: float) -> dict[str, torch.Tensor]:
        seen.append(torch.linalg.det(batch.labelled.rotations).round())
        return forward(self, batch, progress)

    monkeypatch.setattr(Objective, "forward", recorded)
    changes = {"training.steps": 12, "objective.views": 2, "objective.mirror": reflections}
    train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
    signs = torch.cat(seen, 1)
    assert torch.equal(signs[0], signs[1])
    assert abs(signs.mean()) < 0.4 if reflections else bool((signs == 1).all())


def test_unlabelled_structures_have_an_order_and_orientations_of_its_own(toy_packs, toy_pool, tmp_path, monkeypatch):
    """What is seen of the labelled structures is the same with and without it."""
    seen: dict[str, list[TrainingBatch]] = {}
    forward = Objective.forward

    def recorded(self: Objective, batch: TrainingBatch, progress: float) -> dict[str, torch.Tensor]:
        seen[name].append(batch)
        return forward(self, batch, progress)

    monkeypatch.setattr(Objective, "forward", recorded)
    changes = {"training.steps": 10, "objective.views": 2, "objective.latent": {"weight": 1.0, "hidden": 8}}
    for name, more in {
        "without": {},
        "with": {"data.unlabelled": [str(toy_pool)], "training.batch.unlabelled": 5},
    }.items():
        seen[name] = []
        train(toy_recipe(toy_packs, {**changes, **more}), tmp_path / name, progress=False)
    for more, less in zip(seen["with"], seen["without"], strict=True):
        assert torch.equal(more.labelled.batch.index, less.labelled.batch.index) and torch.equal(
            more.labelled.rotations, less.labelled.rotations
        )
        number = len(more.unlabelled.batch)
        assert less.unlabelled is None
        assert number in (5, 3) and more.unlabelled.rotations.shape == (2, number, 3, 3)
    drawn = torch.cat([batch.unlabelled.batch.index for batch in seen["with"][:4]])
    assert sorted(drawn.tolist()) == list(range(18)) != drawn.tolist()  # an epoch of 5, 5, 5 and 3
    rotations = torch.cat([batch.unlabelled.rotations for batch in seen["with"]], 1)
    labelled = torch.cat([batch.labelled.rotations for batch in seen["with"]], 1)
    assert all(
        not torch.equal(a, b) for a, b in itertools.combinations([*rotations.flatten(0, 1), *labelled.flatten(0, 1)], 2)
    )
    signs = torch.linalg.det(rotations).round()
    assert torch.equal(signs[0], signs[1]) and set(signs[0].tolist()) == {-1.0, 1.0}


def test_references_of_charge_and_spin_are_logged_and_described(toy_packs, tmp_path):
    """The cations of the toy data, which are doublets, have 3 eV more than the molecules."""
    model = train(toy_recipe(toy_packs, {"training.steps": 1}), tmp_path / "run", progress=False)
    first, *others = read_metrics(tmp_path / "run")
    assert (first["kind"], first["step"]) == ("references", 0) and "references" not in {o["kind"] for o in others}
    assert first["charge"] == pytest.approx(3, abs=1) and "unpaired_electrons" not in first
    assert 0 < first["reference_mae_per_atom"] < first["element_reference_mae_per_atom"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(describe_model(model), comparison([read_run(tmp_path / "run")]))
    for text in ((model / "README.md").read_text("utf-8"), console.export_text()):
        assert "reference energy of a charge" in text and "energy MAE of the references" in text
        assert f"{first['charge']:.2f}" in text and "unpaired" not in text
    train(toy_recipe(toy_packs, {"references.terms": [], "training.steps": 1}), tmp_path / "none", progress=False)
    assert not read_metrics(tmp_path / "none", "references")


@pytest.mark.parametrize(
    ("before", "after"), [("direct", "conservative"), ("conservative", "direct"), ("direct", "direct")]
)
def test_training_goes_on_from_a_trained_model(toy_packs, tmp_path, before, after):
    train(toy_recipe(toy_packs, {"training.steps": 3, "model.forces": before}), tmp_path / "first", progress=False)
    almost_nothing = {"name": "adamw", "learning_rate": 1e-12}
    changes = {
        "training.steps": 1,
        "training.optimizer": almost_nothing,
        "training.seed": 5,
        "model.forces": after,
        "init_from": str(tmp_path / "first"),
    }
    train(toy_recipe(toy_packs, changes), tmp_path / "second", progress=False)
    first, second = load_model(tmp_path / "first"), load_model(tmp_path / "second")
    assert second.scale == first.scale and torch.equal(second.references, first.references)
    assert second.settings.forces == after
    for name, value in second.state_dict().items():
        if before == after or "force_head" not in name:
            torch.testing.assert_close(value, first.state_dict()[name], rtol=0, atol=1e-9)
    config = json.loads((tmp_path / "second/model/config.json").read_text())
    assert config["started_from"] == str(tmp_path / "first")


def test_a_start_of_another_architecture_is_refused(toy_packs, tmp_path):
    train(toy_recipe(toy_packs, {"training.steps": 1}), tmp_path / "first", progress=False)
    changes = {"init_from": str(tmp_path / "first"), "model.depth": 1, "model.num_local_layers": 1}
    with pytest.raises(InputError, match=r"another architecture.*depth 1 \(there 2\)"):
        train(toy_recipe(toy_packs, changes), tmp_path / "second", progress=False)
    assert not (tmp_path / "second" / "model").exists()
