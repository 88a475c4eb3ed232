"""Two processes that share a global batch compute what one process computes on all of it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from toy import TINY, read_metrics, toy_recipe, toy_settings, toy_structure
from transip.batch import Batch
from transip.config import LatentSettings, ModelSettings
from transip.model.potential import Potential
from transip.rotations import random_rotations
from transip.training.objective import Objective
from transip.training.terms import Energy, Equigrad, Forces, Latent
from transip.training.trainer import train
from transip.training.training_batch import Normalizer, TrainingBatch, Views

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")

LATENT = {"weight": 1.0, "hidden": 16}
# Without energies: where the signs of their errors cancel, rounding alone decides in which direction AdamW steps.
RUNS = {
    "accumulation and an unlabelled set": {
        "training.batch.unlabelled": 2,
        "objective.energy_weight": 0,
        "objective.latent": LATENT,
        "training.grad_accumulation": 3,
    },
    "conservative forces": {
        "model.forces": "conservative",
        "objective.equigrad_weight": 0.1,
        "objective.energy_weight": 0,
    },
    "two views and an unlabelled set": {
        "training.batch.unlabelled": 2,
        "objective.energy_weight": 0,
        "objective.views": 2,
        "objective.latent": LATENT | {"level": "pooled"},
    },
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(recipe: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """`transip train` on two processes, as a user starts it."""
    return twice("-m", "transip", "train", recipe, "-o", folder, **environment)


def twice(*command: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """A command on two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    known = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*torchrun, str(free_port()), *command], env=known, capture_output=True, text=True, timeout=120
    )


# A training that looks, before each evaluation, whether all processes have the same weights.
ALIKE = """
import sys
import torch
from transip.config import Recipe, load
from transip.training.callbacks import Callback
from transip.training.trainer import train

class Compare(Callback):
    def on_evaluation(self, trainer, record):
        weights = torch.cat([p.detach().flatten() for p in trainer.objective.parameters()])
        first, second = trainer.accelerator.gather(weights[None])
        assert torch.equal(first, second), (first - second).abs().max()
        print("compared")

train(load(Recipe, sys.argv[1]), sys.argv[2], progress=False, callbacks=[Compare()])
"""


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS.keys())
def test_two_processes_train_as_one(toy_packs, toy_pool, tmp_path, changes):
    """AdamW and small steps: Muon's bfloat16 iteration turns the last bit of a sum into the third digit."""
    changes = {
        "training.steps": 6,
        "training.evaluate_every": 6,
        "training.optimizer": {"name": "adamw", "learning_rate": 1e-4},
        **changes,
    }
    of_pool = changes.get("training.batch.unlabelled", 0)
    if of_pool:
        changes["data.unlabelled"] = [str(toy_pool)]
    halves = toy_settings(toy_packs, {**changes, "training.batch.batch_size": 5})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(halves))
    launcher = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}  # not the recipe's
    finished = launch(tmp_path / "recipe.yaml", tmp_path / "two", **launcher)
    assert finished.returncode == 0, finished.stderr
    whole = {**changes, "training.batch.batch_size": 10, "training.batch.unlabelled": 2 * of_pool}
    train(toy_recipe(toy_packs, whole), tmp_path / "one", progress=False)
    two, one = (read_metrics(tmp_path / name) for name in ("two", "one"))
    assert [line["step"] for line in two] == [0, 1, 2, 3, 4, 5, 6, 6]
    for found, expected in zip(two, one, strict=True):
        assert found.pop("kind") == expected.pop("kind")
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_processes_whose_clocks_differ_keep_the_same_weights(toy_packs, tmp_path):
    settings = {"training.steps": None, "training.minutes": 0.05, "training.evaluate_every": 5}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(toy_settings(toy_packs, settings)))
    (tmp_path / "alike.py").write_text(ALIKE)
    finished = twice(tmp_path / "alike.py", tmp_path / "recipe.yaml", tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert "compared" in finished.stdout
    assert read_metrics(tmp_path / "run")[-1]["step"] > 5


# ------------------------------------------------------------------------------- the same, without processes

OBJECTIVES = {  # numbers of views and of unlabelled structures, terms
    "one view": (1, 0, lambda: [Energy(8.0), Forces(1.0)]),
    "forces alone": (1, 0, lambda: [Energy(0.0), Forces(1.0)]),
    "two views": (2, 0, lambda: [Energy(8.0), Forces(1.0)]),
    "equigrad": (1, 0, lambda: [Energy(8.0), Forces(1.0), Equigrad(0.7)]),
    "latent": (2, 0, lambda: [Energy(8.0), Forces(1.0), latent("atoms")]),
    "latent, pooled, of unlabelled structures": (1, 4, lambda: [Energy(8.0), Forces(1.0), latent("pooled")]),
    "latent, of all structures": (2, 5, lambda: [Energy(8.0), Forces(1.0), latent("atoms")]),
}
MODELS = [{"preset": "default"}, {"preset": "paper"}, {"forces": "conservative"}]


def latent(level: str) -> Latent:
    return Latent(LatentSettings(weight=2.0, hidden=16, level=level), TINY["width"])


def objective(model: dict, terms) -> Objective:
    """An untrained objective whose zero-initialised parts are random."""
    torch.manual_seed(0)
    potential = Potential(ModelSettings.model_validate({**TINY, **model}), torch.zeros(87, dtype=torch.float64), 0.4)
    built = Objective(potential, terms()).double()
    for parameter in built.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return built


def rotations(views: int, structures: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(structures)
    return random_rotations(views * structures, generator, torch.float64).view(views, structures, 3, 3)


def shard(views: int, num_unlabelled: int, rank: int, processes: int) -> TrainingBatch:
    """What one process sees of seven structures, of 6 to 3 atoms, which do not divide evenly."""
    stored = [toy_structure(i) for i in (3, 0, 5, 1, 7, 2, 4)]
    extra = [toy_structure(i, seed=1) for i in range(num_unlabelled)]
    paired = (stored if views == 2 else []) + extra
    counted = (views * stored, paired)
    normalizer = Normalizer(*(n / processes for group in counted for n in (len(group), sum(map(len, group)))))
    own, unlabelled = slice(rank, None, processes), None
    if extra:
        batch = Batch.collate(extra[own], torch.float64)
        unlabelled = Views(batch, rotations(2, len(extra))[:, own])
    batch = Batch.collate(stored[own], torch.float64)
    return TrainingBatch(Views(batch, rotations(views, len(stored))[:, own]), normalizer, unlabelled)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("which", OBJECTIVES)
def test_every_parameter_has_a_gradient_at_every_step(model, which):
    """Otherwise processes would wait for each other's gradients for ever; also where a weight is still zero."""
    views, num_unlabelled, terms = OBJECTIVES[which]
    built = objective(model, terms)
    for progress in (0.0, 0.5):
        built.zero_grad(set_to_none=True)
        sum(built(shard(views, num_unlabelled, 0, 1), progress).values()).backward()
        assert [name for name, p in built.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize("which", OBJECTIVES)
@pytest.mark.parametrize("processes", [2, 3])
def test_means_over_processes_are_the_loss_and_gradient_of_the_whole_batch(forces, which, processes):
    views, num_unlabelled, terms = OBJECTIVES[which]
    built = objective({"forces": forces}, terms)

    def losses_and_gradients(rank: int, of: int) -> list[torch.Tensor]:
        losses = built(shard(views, num_unlabelled, rank, of), 0.5)
        built.zero_grad()
        sum(losses.values()).backward()
        return [torch.stack([loss.detach() for loss in losses.values()]), *(p.grad.clone() for p in built.parameters())]

    whole = losses_and_gradients(0, 1)
    shards = [losses_and_gradients(rank, processes) for rank in range(processes)]
    for expected, *values in zip(whole, *shards, strict=True):
        torch.testing.assert_close(torch.stack(values).mean(0), expected, rtol=1e-9, atol=1e-10)
    assert (whole[0] > 0).sum() == len(whole[0]) - (which == "forces alone")
