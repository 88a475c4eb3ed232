"""Two processes that share a global batch compute what one process computes on all of it."""

import itertools
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
from transip.config import ModelSettings, ObjectiveSettings
from transip.model.potential import Potential
from transip.rotations import random_rotations
from transip.training.loop import train
from transip.training.losses import Objective, Share, Twice

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")

LATENT = {"weight": 1.0, "layers": [0, -1], "hidden": 16}
# Where the signs of the energy errors cancel, rounding alone decides in which direction AdamW steps: the number of
# signs is odd in the first run (10 or 3 structures, half of them twice, in 3 batches), zero in the second.
RUNS = {
    "latent loss on half of the batch": {
        "objective.views": 2,
        "objective.second_view": 0.5,
        "objective.latent": LATENT,
        "training.grad_accumulation": 3,
    },
    "conservative forces": {
        "model.forces": "conservative",
        "objective.equigrad_weight": 0.1,
        "objective.energy_weight": 0,
    },
    "consistency on an unlabelled pool": {
        "training.batch.unlabelled": 2,
        "objective.energy_weight": 0,
        "objective.consistency": 0.5,
        "objective.latent": LATENT,
    },
    "part of a second view and an unlabelled pool": {
        "training.batch.unlabelled": 2,
        "objective.energy_weight": 0,
        "objective.views": 2,
        "objective.second_view": 0.5,
        "objective.second_view_labels": False,
        "objective.latent": {**LATENT, "layers": [0]},
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
from transip.training import loop

class Alike(loop.Training):
    def _evaluate(self):
        weights = torch.cat([p.detach().flatten() for p in self.objective.parameters()])
        mine, others = self.accelerator.gather(weights[None])
        assert torch.equal(mine, others), (mine - others).abs().max()
        return super()._evaluate()

loop.Training = Alike
loop.train(load(Recipe, sys.argv[1]), sys.argv[2], progress=False)
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
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5, 6, 6]
    for found, expected in zip(two, one, strict=True):
        assert found.pop("kind") == expected.pop("kind")
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_processes_whose_clocks_differ_keep_the_same_weights(toy_packs, tmp_path):
    settings = {"training.steps": None, "training.minutes": 0.05, "training.evaluate_every": 5}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(toy_settings(toy_packs, settings)))
    (tmp_path / "alike.py").write_text(ALIKE)
    finished = twice(tmp_path / "alike.py", tmp_path / "recipe.yaml", tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert read_metrics(tmp_path / "run")[-1]["step"] > 5


# ------------------------------------------------------------------------------- the same, without processes

LATENTS = [
    {"weight": 1.0, "hidden": 16, "level": level, "distance": distance, "layers": layers, **action}
    for level, distance, layers, action in itertools.product(
        ("atoms", "pooled"),
        ("mse", "cosine", "infonce"),
        ([0], [0, -1]),
        ({"action": "mlp", "rotation": "6d"}, {"rotation": "quaternion", "warmup": 0.5, "stop_gradient": True}),
    )
]
OBJECTIVES = [
    {},
    {"augment": False},
    {"energy_weight": 0},
    {"forces": 0},
    {"views": 2},
    {"views": 2, "second_view": 0.5},
    *({"views": 2, "latent": latent} for latent in LATENTS),
]
FIXED = {"views": 2, "latent": {"weight": 1.0, "action": "fixed"}}
POOLED = [
    {**views, **between}
    for views in ({"views": 1}, {"views": 2, "second_view": 0.5, "second_view_labels": False})
    for between in ({"latent": LATENT}, {"latent": {**LATENT, "layers": [0]}}, {"consistency": 1.0})
]
VARIATIONS = [
    *(({"preset": preset}, objective) for preset in ("default", "paper") for objective in OBJECTIVES),
    *(({"forces": "conservative"}, objective) for objective in [*OBJECTIVES[:6], {"equigrad_weight": 1.0}]),
    *(({"forces": forces, "fixed_representation": True}, FIXED) for forces in ("direct", "conservative")),
]


def objective(model: dict, settings: dict, dtype: torch.dtype = torch.float64) -> Objective:
    """An untrained objective whose zero-initialised parts are random."""
    torch.manual_seed(0)
    potential = Potential(ModelSettings.model_validate({**TINY, **model}), torch.zeros(87, dtype=torch.float64), 0.4)
    built = Objective(potential, ObjectiveSettings.model_validate(settings)).to(dtype)
    for parameter in built.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return built


def rotations(views: int, structures: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(structures)
    return random_rotations(views * structures, generator, torch.float64).view(views, structures, 3, 3)


@pytest.mark.parametrize(
    ("model", "settings", "pool"),
    [
        *((*variation, 0) for variation in VARIATIONS),
        *(({"forces": forces}, settings, 2) for forces in ("direct", "conservative") for settings in POOLED),
    ],
)
def test_every_parameter_has_a_gradient_at_every_step(model, settings, pool):
    """Otherwise processes would wait for each other's gradients for ever; also where a weight is still zero."""
    built = objective(model, settings)
    batch = Batch.collate([toy_structure(i) for i in range(4)], torch.float64)
    views = built.settings.views
    others = Twice(batch.head(pool), rotations(2, pool)) if pool else None
    for progress in (0.0, 0.5):
        built.zero_grad(set_to_none=True)
        losses = built(batch, rotations(views, 4), 2 * (views - 1), Share(6, 25, 2, 9), progress, others)
        losses.total.backward()
        assert [name for name, p in built.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("model", "settings", "pool"),
    [
        ({}, {}, 0),
        ({}, {"views": 2, "second_view": 0.5, "latent": {"weight": 2.0, "level": "atoms", "hidden": 16}}, 0),
        ({}, {"views": 2, "latent": {"weight": 2.0, "level": "pooled", "distance": "cosine", "hidden": 16}}, 0),
        ({"forces": "conservative"}, {"equigrad_weight": 0.7}, 0),
        ({}, {"views": 2, "second_view": 0.5, "consistency": 0.4}, 0),
        *(({}, settings, 5) for settings in POOLED),
        ({"forces": "conservative"}, POOLED[-1], 5),
    ],
)
@pytest.mark.parametrize("processes", [2, 3])
def test_means_over_processes_are_the_loss_and_gradient_of_the_whole_batch(model, settings, pool, processes):
    built = objective(model, settings)
    structures = [toy_structure(i) for i in (3, 0, 5, 1, 7, 2, 4)]  # 6 to 3 atoms; 7 structures do not divide evenly
    others = [toy_structure(i, seed=1) for i in range(pool)]
    number, views = len(structures), built.settings.views
    turns, other_turns = rotations(views, number), rotations(2, pool)
    second = round(built.settings.second_view * number) * (views - 1)
    labelled = structures + (structures[:second] if built.settings.second_view_labels else [])
    pairs = structures[:second] + others
    totals = [total for views in (labelled, pairs) for total in (len(views), sum(map(len, views)))]

    def losses_and_gradients(rank: int, of: int) -> list[torch.Tensor]:
        paired = len(range(rank, second, of))
        share = Share(*(total / of for total in totals))
        batch = Batch.collate(structures[rank::of], torch.float64)
        mine = Twice(Batch.collate(others[rank::of], torch.float64), other_turns[:, rank::of]) if pool else None
        losses = built(batch, turns[:, rank::of], paired, share, 0.5, mine)
        built.zero_grad()
        losses.total.backward()
        return [torch.stack([loss.detach() for loss in losses]), *(p.grad.clone() for p in built.parameters())]

    whole = losses_and_gradients(0, 1)
    parts = [losses_and_gradients(rank, processes) for rank in range(processes)]
    for expected, *found in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=1e-9, atol=1e-10)
    assert whole[0][0] > 0
