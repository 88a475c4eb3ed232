"""Loss terms of the study: distances of embeddings, and what stands in the place of the latent loss."""

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from test_training_terms import labelled, one_by_one, training_batch, unlabelled
from torch.nn import functional

from toy import read_metrics, toy_recipe
from transip.rotations import rotate
from transip.training.objective import LossContext
from transip.training.trainer import train

F64 = torch.float64


@pytest.fixture(scope="module")
def terms():
    path = Path(__file__).parents[2] / "benchmarks/study/terms.py"
    spec = importlib.util.spec_from_file_location("study_terms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def latents(atoms: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(atoms, 12, generator=torch.Generator().manual_seed(seed), dtype=F64)


class TestInfoNCE:
    def test_is_least_for_matches(self, terms):
        u = latents(6)
        matched = terms.info_nce(u, u).mean()
        for order in itertools.islice(itertools.permutations(range(6)), 1, 200):
            assert terms.info_nce(u, u[list(order)]).mean() > matched

    def test_compares_within_blocks(self, terms, monkeypatch):
        monkeypatch.setattr(terms, "INFONCE_BLOCK", 4)
        u, v = latents(10, 0), latents(10, 1)
        expected = torch.cat([terms.info_nce(u[part], v[part]) for part in (slice(4), slice(4, 8), slice(8, 10))])
        torch.testing.assert_close(terms.info_nce(u, v), expected)

    def test_agrees_with_the_definition(self, terms):
        u, v = latents(5, 0), latents(5, 1)
        similarity = functional.cosine_similarity(u[:, None], v[None], dim=-1) / 0.2
        expected = -(similarity.diag() - similarity.exp().sum(1).log())
        torch.testing.assert_close(terms.info_nce(u, v, 0.2), expected)


LATENT = {"objective.views": 2, "objective.latent": {"weight": 1.0, "warmup": 0.0, "hidden": 8}}


@pytest.mark.filterwarnings("ignore:.*composition")
@pytest.mark.parametrize(
    ("make", "changes", "name"),
    [
        (lambda terms: terms.latent(layers=(0, -1), distance=terms.cosine), LATENT, "latent"),
        (lambda terms: terms.latent(distance=terms.info_nce), LATENT, "latent"),
        (lambda terms: terms.consistency, LATENT, "consistency"),
    ],
)
def test_each_trains(terms, toy_packs, tmp_path, make, changes, name):
    recipe = toy_recipe(toy_packs, {**changes, "training.steps": 3})
    train(recipe, tmp_path / "run", progress=False, loss_terms=make(terms))
    records = read_metrics(tmp_path / "run", "train")
    assert all(record[f"{name}_loss"] > 0 for record in records[1:])
    assert ("latent_loss" in records[0]) == (name == "latent")


def test_the_consistency_is_the_mean_over_all_pairs(terms, toy_packs, make_model, make_structure):
    """The task losses' distance, weights included, between one view's prediction and the other's, rotated."""
    objective = {"objective.energy_weight": 3.0, "objective.force_weight": 2.0, "objective.latent": {"weight": 0.7}}
    recipe, model = toy_recipe(toy_packs, {**objective, "objective.views": 2}), make_model(scale=0.5)
    batch = training_batch(labelled(make_structure, 5, 3), 2, unlabelled(make_structure, 4))
    loss = terms.Consistency(recipe)(LossContext(model, batch, 1.0))
    energy, force = [], []
    for alone, first, second in one_by_one(batch.pairs):
        a, b = (model(rotate(alone, view)) for view in (first, second))
        energy.append(abs(a.energy - b.energy).item() / alone.num_atoms)
        force += (b.forces - a.forces @ (second[0] @ first[0].T).T).norm(dim=-1).tolist()
    expected = 0.7 * (3.0 * sum(energy) / len(energy) + 2.0 * sum(force) / len(force)) / 0.5
    assert len(force) == 12 and loss.item() == pytest.approx(expected, rel=1e-6)
