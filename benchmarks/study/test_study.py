"""The latent loss trains a backbone that is none of ours, its variants are losses, and entries make equal passes."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.study import backbone, entries, run, terms
from tests.toy import toy_structure, write_toy_pack
from transip.batch import Batch
from transip.config import LatentSettings, ModelSettings, Recipe, load
from transip.model.potential import Potential
from transip.rotations import random_rotations, rotate
from transip.structure import MAX_ATOMIC_NUMBER
from transip.symmetry.latent import LatentEquivariance
from transip.symmetry.measure import measure_symmetry
from transip.testing import assert_conforms

F64 = torch.float64


@pytest.fixture
def model() -> Potential:
    """Message passing in float64, with heads that read something."""
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({"width": 16, "heads": 2, "forces": "direct"})
    references = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=F64)
    model = Potential(settings, references, 1.0, backbone=backbone.MessagePassing(settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().requires_grad_(True)


@pytest.fixture
def batch() -> Batch:
    """Methanol, water and methane, shaken."""
    return Batch.collate([toy_structure(number) for number in (3, 0, 1)], F64)


def test_message_passing_obeys_physics_and_is_smooth_at_its_cutoff(model):
    assert_conforms(model, cutoffs=[backbone.CUTOFF])


def test_no_rotation_symmetry_is_built_in(model, batch):
    found = measure_symmetry(model, [batch], layers=(0, 2))
    assert found["force_rotation_error"] > 0.05
    assert all(layer["invariant_share"] < 0.999 for layer in found["layers"])


def test_the_latent_loss_falls_along_its_gradient(model, batch):
    latent = LatentEquivariance(LatentSettings(weight=1), model.backbone.width).double()
    first, second = random_rotations(6, torch.Generator().manual_seed(0), F64).view(2, 3, 3, 3)
    parameters = [*model.parameters(), *latent.parameters()]
    losses = []
    for _ in range(5):
        u, v = (model(rotate(batch, rotations), (2,)).embeddings[0] for rotations in (first, second))
        losses.append(latent(u, v, second @ first.mT, batch).mean())
        gradients = torch.autograd.grad(losses[-1], parameters, allow_unused=True)  # it asks nothing of the heads
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0 if gradient is None else 1e-3 * gradient
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


@pytest.mark.parametrize("distance", [terms.cosine, terms.info_nce])
def test_distances_are_lowest_between_equal_embeddings(distance):
    embeddings = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    others = embeddings.roll(1, 0)
    assert (distance(embeddings, embeddings) < distance(embeddings, others)).all()


@pytest.mark.parametrize("entry", ["objective/consistency", "objective/infonce", "second-backbone/atoms-latent-0.2"])
def test_an_entry_trains_with_its_own_code(entry, tmp_path, monkeypatch):
    pack, group, name = write_toy_pack(tmp_path / "toy.pack", 60), *entry.split("/")
    monkeypatch.setattr(run, "recipe_of", lambda *_: tiny(entries.GROUPS[group][name].settings, pack))
    result = run.run(group, name, 0)
    assert result["steps"] == 2 and result["force_mae_mev_per_angstrom"] > 0
    losses = result["training_loss"]
    assert losses["consistency" if name == "consistency" else "latent"] > 0


def tiny(settings: dict, pack: object) -> Recipe:
    """A few steps of the recipe of an entry on a few toy structures."""
    small = {"data.train": [str(pack)], "model.width": 16, "model.heads": 2, "model.depth": 3, "training.steps": 2}
    small |= {"training.log_every": 1, "training.evaluate_every": 2, "data.validation_fraction": 0.3}
    return load(Recipe, run.BASE, [f"{key}={value!r}" for key, value in (settings | small).items()])


def test_every_entry_is_a_recipe_of_equally_many_passes():
    made = {
        f"{group}/{name}": entries.passes(run.recipe_of(group, name, seed=0))
        for group, members in entries.GROUPS.items()
        for name in members
        if entries.counted(group, name)
    }
    assert len(made) > 50
    assert set(made.values()) == {entries.PASSES}
