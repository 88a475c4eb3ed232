"""A killed run goes on exactly where its last checkpoint stood."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from toy import read_metrics, toy_recipe, toy_settings, write_toy_pack
from transip.config import Recipe
from transip.data.read import read_structures
from transip.data.store import Pack, write_pack
from transip.errors import InputError, InputWarning
from transip.evaluation.saved import load_validation_set
from transip.training import trainer
from transip.training.checkpoint import load_checkpoint
from transip.training.log import MetricsFile
from transip.training.optim import Optimizers
from transip.training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")

# The 43 structures make six batches: step 5 is in the middle of an epoch, step 10 in the middle of the next.
OBJECTIVES = {
    "plain": {},
    "sorted windows": {"training.batch.bucket_window": 3, "training.batch.max_atoms": 30},
    "accumulation": {"training.grad_accumulation": 2},
    "two views and latent": {
        "objective.views": 2,
        "objective.latent": {"weight": 1.0, "hidden": 16, "warmup": 0.8},
    },
    "conservative forces": {"model.forces": "conservative", "objective.equigrad_weight": 0.1},
    "adamw without averaging": {"training.optimizer.name": "adamw", "training.ema_decay": 0},
    "early_stopping_patience": {"training.early_stopping_patience": 100},
    "unlabelled pool": {
        "training.batch.unlabelled": 4,
        "training.grad_accumulation": 2,
        "objective.latent": {"weight": 1.0, "hidden": 16, "warmup": 0.5},
    },
}


class Killed(BaseException):
    """Nothing in transip catches it, as nothing catches a kill."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the run die while it logs `step`."""
    write = MetricsFile.write

    def dying(self: MetricsFile, line: dict) -> None:
        if line["step"] == step:
            raise Killed
        write(self, line)

    monkeypatch.setattr(MetricsFile, "write", dying)


def state(folder: Path, step: int = 10) -> tuple[dict, dict, dict, list]:
    """Everything that equal runs share: checkpoint tensors, counters, model tensors, metrics."""
    found = load_checkpoint(folder / "checkpoints")
    assert found is not None
    progress, groups = found
    assert progress.step == step
    counters = {**asdict(progress), "seconds": None}
    return groups, counters, load_file(folder / "model/model.safetensors"), read_metrics(folder)


def assert_same(found: tuple, expected: tuple) -> None:
    (groups, counters, model, metrics), (groups_, counters_, model_, metrics_) = found, expected
    torch.testing.assert_close(groups, groups_, rtol=0, atol=0)
    torch.testing.assert_close(model, model_, rtol=0, atol=0)
    assert counters == counters_
    assert metrics == metrics_


def killed_and_resumed(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **code: object) -> None:
    """A run that dies at step 8 and goes on from its checkpoint ends as one that was let alone."""
    train(recipe, tmp_path / "whole", progress=False, **code)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        train(recipe, tmp_path / "killed", progress=False, **code)
    assert max(line["step"] for line in read_metrics(tmp_path / "killed")) == 7
    train(recipe, tmp_path / "killed", resume=True, progress=False, **code)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))


@pytest.mark.parametrize("changes", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_five_steps_and_five_more_are_ten_bit_for_bit(toy_packs, toy_pool, tmp_path, monkeypatch, changes):
    pool = {"data.unlabelled": [str(toy_pool)]} if "training.batch.unlabelled" in changes else {}
    killed_and_resumed(toy_recipe(toy_packs, {**changes, **pool}), tmp_path, monkeypatch)


def test_a_budget_of_minutes_is_continued_bit_for_bit(toy_packs, tmp_path, monkeypatch):
    """With a clock that ticks once a step, the schedule of a budget in minutes is a function of the step."""
    clock = SimpleNamespace(now=0.0)
    step = Optimizers.step

    def ticking(self: Optimizers, progress: float) -> float:
        clock.now += 6.0
        return step(self, progress)

    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr(Optimizers, "step", ticking)
    recipe = toy_recipe(toy_packs, {"training.steps": None, "training.minutes": 1.0})
    train(recipe, tmp_path / "whole", progress=False)
    clock.now = 1000.0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        train(recipe, tmp_path / "killed", progress=False)
    clock.now = 5000.0
    train(recipe, tmp_path / "killed", resume=True, progress=False)
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    times = [line["time_s"] for line in read_metrics(tmp_path / "killed", "train", without=set())]
    assert times == [6.0 * step for step in range(1, 11)]


def test_time_that_runs_out_in_a_checkpoint_does_not_cut_off_the_last_evaluation(toy_packs, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    step, save = Optimizers.step, trainer.save_checkpoint

    def ticking(self: Optimizers, progress: float) -> float:
        clock.now += 1.0
        return step(self, progress)

    def slow(*arguments: object) -> Path:
        clock.now += 58.0
        return save(*arguments)

    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr(Optimizers, "step", ticking)
    monkeypatch.setattr(trainer, "save_checkpoint", slow)
    changes = {"training.minutes": 1.0, "training.steps": None, "training.checkpoint_every": 2}
    train(toy_recipe(toy_packs, {**changes, "training.evaluate_every": 100}), tmp_path / "run", progress=False)
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["kind"] == "evaluation"
    assert (tmp_path / "run/model/config.json").exists()


def test_after_a_real_kill(toy_packs, tmp_path):
    changes = {"training.steps": 80, "training.checkpoint_every": 10, "training.evaluate_every": 40}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(toy_settings(toy_packs, changes)))
    process = subprocess.Popen(
        [sys.executable, "-m", "transip", "train", str(recipe), "-o", str(tmp_path / "killed")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "killed/checkpoints/00000010.safetensors"
    while not first.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    train(toy_recipe(toy_packs, changes), tmp_path / "killed", resume=True, progress=False)
    train(toy_recipe(toy_packs, changes), tmp_path / "whole", progress=False)
    assert_same(state(tmp_path / "killed", 80), state(tmp_path / "whole", 80))
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_resuming_before_the_first_checkpoint_starts_anew(toy_packs, tmp_path, monkeypatch):
    recipe = toy_recipe(toy_packs)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 3)
        train(recipe, tmp_path / "killed", progress=False)
    train(recipe, tmp_path / "killed", resume=True, progress=False)
    train(recipe, tmp_path / "whole", resume=True, progress=False)  # nothing to resume is no mistake
    assert_same(state(tmp_path / "killed"), state(tmp_path / "whole"))


@pytest.fixture(scope="module")
def finished(toy_packs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(toy_recipe(toy_packs), folder, progress=False)
    return folder


def copy(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            destination = target / path.relative_to(folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(path.read_bytes())
    return target


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


class TestFolderOfARun:
    def test_is_refused_and_untouched_without_resume(self, toy_packs, finished):
        before = contents(finished)
        with pytest.raises(InputError, match=r"already holds a run(.|\n)*--resume"):
            train(toy_recipe(toy_packs), finished, progress=False)
        assert contents(finished) == before

    @pytest.mark.parametrize(
        "changes",
        [
            {"model.width": 64},
            {"objective.views": 2},
            {"objective.energy_weight": 1.0},
            {"data.max_train": 20},
            {"training.optimizer.name": "adamw"},
        ],
    )
    def test_is_refused_and_untouched_with_other_settings(self, toy_packs, finished, changes):
        before = contents(finished)
        with pytest.raises(InputError, match="other data, model, objective or optimizer"):
            train(toy_recipe(toy_packs, {"training.steps": 20, **changes}), finished, resume=True, progress=False)
        assert contents(finished) == before

    def test_is_refused_with_other_structures_and_evaluated_with_a_warning(self, finished, tmp_path):
        first, second = (write_toy_pack(tmp_path / f"{n}.pack", n) for n in (40, 41))
        data = {"train": [str(first)], "validation": [], "validation_fraction": 0.3}
        recipe = toy_recipe((first, second), {"data": data, "training.steps": 2, "training.evaluate_every": 2})
        train(recipe, tmp_path / "run", progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", InputWarning)
            load_validation_set(tmp_path / "run")
        shutil.rmtree(first)
        shutil.copytree(second, first)
        with pytest.raises(InputError, match=r"before a change of .*40\.pack"):
            train(recipe, tmp_path / "run", resume=True, progress=False)
        with pytest.warns(InputWarning, match=r"40\.pack: not the structures"):
            load_validation_set(tmp_path / "run")

    @pytest.mark.parametrize("which", ["train", "replay", "unlabelled"])
    def test_is_refused_with_other_labels_replay_or_geometries(self, toy_packs, finished, tmp_path, which):
        first, pack = (write_toy_pack(tmp_path / f"{name}.pack", 40) for name in ("first", "x"))
        data = {"train": [str(first)], "validation": [], "validation_fraction": 0.3} | {which: [str(pack)]}
        more = {
            "train": {},
            "replay": {"training.batch.replay": 2, "init_from": str(finished)},
            "unlabelled": {"training.batch.unlabelled": 2, "objective.latent": {"weight": 1.0}},
        }[which]
        recipe = toy_recipe(toy_packs, {"data": data, "training.steps": 2, **more})
        train(recipe, tmp_path / "run", progress=False)
        if which == "train":
            doubled = [replace(s, energy=2 * s.energy, forces=2 * s.forces) for s in read_structures(pack)]
        else:
            doubled = list(read_structures(pack))[1:]
        write_pack(pack, doubled, level_of_theory=Pack.open(pack).meta["level_of_theory"], overwrite=True)
        with pytest.raises(
            InputError, match=rf"before a change of {'labels of ' if which == 'train' else ''}.*x\.pack"
        ):
            train(recipe, tmp_path / "run", resume=True, progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", InputWarning)
            load_validation_set(tmp_path / "run")  # what it is evaluated on is as it was

    def test_goes_on_with_a_larger_budget(self, toy_packs, finished, tmp_path):
        folder = copy(finished, tmp_path / "run")
        train(toy_recipe(toy_packs, {"training.steps": 12}), folder, resume=True, progress=False)
        assert state(folder, 12)[3][: len(read_metrics(finished))] == read_metrics(finished)

    def test_goes_on_with_averaging_switched_on(self, toy_packs, tmp_path):
        train(toy_recipe(toy_packs, {"training.ema_decay": 0}), tmp_path / "run", progress=False)
        train(toy_recipe(toy_packs, {"training.steps": 11}), tmp_path / "run", resume=True, progress=False)
        groups = state(tmp_path / "run", 11)[0]
        # one step on, the average is the current weights and not the untrained ones
        for name, value in groups["ema"].items():
            if name.startswith("module."):
                assert torch.equal(value, groups["objective"][name.replace("module", "potential", 1)])


class TestDamage:
    def damage(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def test_the_newest_checkpoint_is_named_and_the_one_before_it_used(self, toy_packs, finished, tmp_path):
        folder = copy(finished, tmp_path / "run")
        self.damage(folder / "checkpoints/00000010.safetensors")
        with pytest.warns(InputWarning, match=r"00000010\.safetensors.*corrupt(.|\n)*falling back"):
            train(toy_recipe(toy_packs), folder, resume=True, progress=False)
        assert_same(state(folder), state(finished))

    def test_of_every_checkpoint_stops_the_run(self, toy_packs, finished, tmp_path):
        folder = copy(finished, tmp_path / "run")
        for path in (folder / "checkpoints").iterdir():
            self.damage(path)
        before = contents(folder)
        with pytest.warns(InputWarning), pytest.raises(InputError, match=r"00000010\.safetensors"):
            train(toy_recipe(toy_packs), folder, resume=True, progress=False)
        assert contents(folder) == before

    def test_two_checkpoints_are_kept(self, finished):
        names = sorted(path.name for path in (finished / "checkpoints").iterdir())
        assert names == ["00000005.safetensors", "00000010.safetensors"]


class TestMetricsFile:
    def write(self, path: Path, steps: list[int], torn: str = "") -> None:
        path.write_text("".join(json.dumps({"step": step}) + "\n" for step in steps) + torn)

    def steps(self, path: Path) -> list[int]:
        return [json.loads(line)["step"] for line in path.read_text().splitlines()]

    @pytest.mark.parametrize("torn", ["", '{"kind": "train", "st', "\n", '{"step": 8'])
    def test_lines_past_the_checkpoint_are_dropped(self, tmp_path, torn):
        path = tmp_path / "metrics.jsonl"
        self.write(path, [1, 3, 5, 5, 6, 7], torn)
        metrics = MetricsFile(path, last_step=5)
        metrics.write({"step": 6})
        metrics.close()
        assert self.steps(path) == [1, 3, 5, 5, 6]

    def test_a_run_that_starts_anew_starts_an_empty_file(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        self.write(path, [0, 1, 2])
        MetricsFile(path, last_step=0).close()
        assert path.read_text() == ""
