"""Runs meet damaged checkpoints, batches that are not finite, full disks and clocks that go back; nothing is lost."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from toy import read_metrics, toy_recipe
from transip.batch import Batch
from transip.data.dataset import Dataset
from transip.errors import InputError, InputWarning, NonFiniteLoss
from transip.training import trainer
from transip.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from transip.training.log import MetricsFile
from transip.training.optim import Optimizers
from transip.training.run_folder import RunFolder
from transip.training.trainer import Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


class Killed(BaseException):
    """Nothing in transip catches it, as nothing catches a kill."""


def tensors_of(training: Trainer) -> dict[str, torch.Tensor]:
    """Weights, averaged weights and the optimisers' state."""
    assert training.ema is not None
    groups = (training.objective.state_dict(), training.optimizers.tensors(), training.ema.state_dict())
    return {f"{i} {name}": value.clone() for i, group in enumerate(groups) for name, value in group.items()}


GROUPS = {"objective": {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}, "optimizers": {"w/n": torch.ones(())}}


class TestDamagedCheckpoint:
    def test_any_flipped_bit_is_noticed_or_changes_nothing(self, tmp_path):
        progress = TrainingState(step=5, batches=7, seconds=1.5, atoms_processed=100)
        path = save_checkpoint(tmp_path, progress, GROUPS)
        sound, generator, refused = path.read_bytes(), random.Random(0), 0
        for place in range(0, len(sound), 3):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            try:
                found = load_checkpoint(tmp_path)
            except InputError:
                refused += 1
                continue
            assert found is not None and found[0] == progress
            torch.testing.assert_close(found[1], GROUPS, rtol=0, atol=0)
        assert refused > 0.3 * len(sound)

    @pytest.mark.filterwarnings("ignore:.*falling back")
    def test_a_flipped_bit_of_a_weight_leads_to_the_one_before(self, tmp_path):
        save_checkpoint(tmp_path, TrainingState(step=5), GROUPS)
        path = save_checkpoint(tmp_path, TrainingState(step=10), GROUPS)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # of the last tensor
        path.write_bytes(content)
        with pytest.warns(InputWarning, match=r"00000010\.safetensors: is corrupt(.|\n)*falling back"):
            found = load_checkpoint(tmp_path)
        assert found is not None and found[0].step == 5

    def test_a_missing_one_is_said(self, toy_packs, tmp_path):
        changes = {"training.steps": 6, "training.checkpoint_every": 2, "training.evaluate_every": 6}
        recipe = toy_recipe(toy_packs, changes)
        train(recipe, tmp_path / "run", progress=False)
        before = read_metrics(tmp_path / "run")
        (tmp_path / "run/checkpoints/00000006.safetensors").unlink()
        train(recipe, tmp_path / "run", resume=True, progress=False)  # as after a kill before the last checkpoint
        assert read_metrics(tmp_path / "run") == before
        for checkpoint in (tmp_path / "run/checkpoints").iterdir():
            checkpoint.unlink()
        with pytest.warns(InputWarning, match="reaches step 6, but the newest sound checkpoint is of step 0"):
            train(recipe, tmp_path / "run", resume=True, progress=False)
        assert read_metrics(tmp_path / "run") == before


@pytest.fixture
def poison(monkeypatch):
    """``poison(sources)``: forces of these structures are infinite whenever a running training reads them."""
    batch_of, run, running = Dataset.get_batch, Trainer.run, []

    def apply(sources: set[str]) -> None:
        def poisoned(self: Dataset, indices) -> Batch:
            batch = batch_of(self, indices)
            for place, i in enumerate(batch.index.tolist()) if running else ():
                if self[i].source in sources and "train.pack" in self.describe(i):
                    batch.forces[batch.structure_index == place] = float("inf")
            return batch

        monkeypatch.setattr(Dataset, "get_batch", poisoned)

    def run_poisoned(self: Trainer, progress: bool) -> Path:
        running.append(True)
        try:
            return run(self, progress)
        finally:
            running.clear()

    apply.running = running
    monkeypatch.setattr(Trainer, "run", run_poisoned)
    return apply


SKIP = {"training.on_nonfinite": "skip", "training.steps": 12}


class TestPoisonedBatch:
    @pytest.mark.filterwarnings("ignore:.*the batch is skipped")
    def test_leaves_weights_average_and_optimisers_as_they_were(self, toy_packs, tmp_path, poison):
        training = Trainer(toy_recipe(toy_packs, SKIP), RunFolder(tmp_path / "run"))
        training.step()
        before, batches = tensors_of(training), training.state.batches
        poison({f"toy-{i}" for i in range(43)})
        poison.running.append(True)
        with pytest.raises(NonFiniteLoss, match=r"not finite at step 2, on .*source toy-"):
            training.step()
        assert training.state.batches == batches + trainer.MAX_CONSECUTIVE_SKIPS and training.state.step == 1
        torch.testing.assert_close(tensors_of(training), before, rtol=0, atol=0)
        assert all(p.grad is None for p in training.objective.parameters())

    def test_is_left_out_named_and_logged_and_the_rest_is_learned(self, toy_packs, tmp_path, poison):
        poison({"toy-17"})
        with pytest.warns(InputWarning, match=r"structure 17 \(CH4S, source toy-17\); the batch is skipped"):
            train(toy_recipe(toy_packs, SKIP), tmp_path / "run", progress=False)
        lines = read_metrics(tmp_path / "run")
        skipped = [line for line in lines if line["kind"] == "skipped"]
        assert skipped and all("source toy-17" in line["problem"] for line in skipped)
        assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 13))
        found = load_checkpoint(tmp_path / "run/checkpoints")
        assert found is not None and found[0].step == 12 and found[0].batches == 12 + len(skipped)
        assert all(value.isfinite().all() for group in found[1].values() for value in group.values())

    @pytest.mark.filterwarnings("ignore:.*the batch is skipped")
    def test_is_skipped_again_after_a_kill_and_once_in_the_log(self, toy_packs, tmp_path, poison, monkeypatch):
        poison({"toy-17"})
        train(toy_recipe(toy_packs, SKIP), tmp_path / "whole", progress=False)
        step = next(line["step"] for line in read_metrics(tmp_path / "whole", "skipped"))
        write = MetricsFile.write

        def dying(self: MetricsFile, line: dict) -> None:
            if line["kind"] == "train" and line["step"] == step:
                raise Killed
            write(self, line)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(MetricsFile, "write", dying)
            train(toy_recipe(toy_packs, SKIP), tmp_path / "killed", progress=False)
        assert read_metrics(tmp_path / "killed")[-1]["kind"] == "skipped"
        train(toy_recipe(toy_packs, SKIP), tmp_path / "killed", resume=True, progress=False)
        assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "whole")

    def test_weights_that_are_not_finite_are_never_kept(self, toy_packs, tmp_path, monkeypatch):
        step = Optimizers.step

        def exploding(self: Optimizers, progress: float) -> float:
            rate = step(self, progress)
            if progress >= 0.8:
                self.optimizers["adamw"].param_groups[0]["params"][0].data.fill_(float("inf"))
            return rate

        monkeypatch.setattr(Optimizers, "step", exploding)
        changes = {"training.checkpoint_every": 2, "training.evaluate_every": 100}
        with pytest.raises(NonFiniteLoss, match="weights are not finite after step 8"):
            train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
        found = load_checkpoint(tmp_path / "run/checkpoints")
        assert found is not None and found[0].step == 6
        assert all(value.isfinite().all() for group in found[1].values() for value in group.values())


@pytest.mark.parametrize("step", [5, 10])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_metrics_neither_miss_nor_repeat_a_line_when_a_checkpoint_is_cut_off(
    toy_packs, tmp_path, monkeypatch, step, moment
):
    recipe = toy_recipe(toy_packs)
    save = trainer.save_checkpoint

    def dying(folder: Path, progress: TrainingState, groups) -> None:
        if progress.step == step and moment == "before":
            raise Killed
        save(folder, progress, groups)
        if progress.step == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer, "save_checkpoint", dying)
        train(recipe, tmp_path / "run", progress=False)
    train(recipe, tmp_path / "run", resume=True, progress=False)
    lines = [(line["kind"], line["step"]) for line in read_metrics(tmp_path / "run")]
    expected = [[("train", k)] + [("evaluation", k)] * (k % 5 == 0) for k in range(1, 11)]
    assert lines == [("references", 0), *(line for group in expected for line in group)]


def test_metrics_are_there_whole_while_they_are_cut_back(tmp_path, monkeypatch):
    """A kill in that moment must not cost the lines of the steps before the checkpoint."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 9)))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        MetricsFile(path, last_step=5)
    assert len(path.read_text().splitlines()) == 8


def test_a_disk_that_fills_up_stops_the_run_which_then_goes_on(toy_packs, tmp_path, full_disk):
    changes = {"training.steps": 24}
    train(toy_recipe(toy_packs, changes), tmp_path / "whole", progress=False)
    log, recipe = ((tmp_path / "whole" / name).stat().st_size for name in ("metrics.jsonl", "recipe.yaml"))
    assert recipe < log // 2
    late = {**changes, "training.evaluate_every": 100, "training.checkpoint_every": 100}  # the log is the first to fail
    with full_disk(log // 2), pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written(.|\n)*is kept"):
        train(toy_recipe(toy_packs, late), tmp_path / "run", progress=False)
    train(toy_recipe(toy_packs, changes), tmp_path / "run", resume=True, progress=False)
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole")


class TestClock:
    @pytest.mark.parametrize("jump", [-3600.0, -7.5, 0.0])
    def test_a_budget_of_minutes_survives_a_clock_that_goes_back(self, toy_packs, tmp_path, monkeypatch, jump):
        """Six seconds a step, but for one in the middle in which the clock is set back, or stands still."""
        clock = SimpleNamespace(now=5000.0, steps=0)
        step, rates = Optimizers.step, []

        def ticking(self: Optimizers, progress: float) -> float:
            clock.steps += 1
            clock.now += jump if clock.steps == 4 else 6.0
            rates.append(step(self, progress))
            return rates[-1]

        monkeypatch.setattr("time.perf_counter", lambda: clock.now)
        monkeypatch.setattr(Optimizers, "step", ticking)
        changes = {"training.steps": None, "training.minutes": 1.0, "training.optimizer.warmup": 0.0}
        train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
        lines = read_metrics(tmp_path / "run", "train", without=set())
        times = [line["time_s"] for line in lines]
        assert len(lines) == 11 and times == sorted(times) and times[-1] == pytest.approx(60.0)
        assert all(line["atoms_per_second"] >= 0 for line in lines)
        assert rates == sorted(rates, reverse=True) and rates[-1] > 0, "the schedule went back"
        assert read_metrics(tmp_path / "run")[-1]["kind"] == "evaluation"

    def test_a_clock_that_stands_still_divides_nothing_by_zero(self, toy_packs, tmp_path, monkeypatch):
        monkeypatch.setattr("time.perf_counter", lambda: 7.0)
        train(toy_recipe(toy_packs, {"training.steps": 2}), tmp_path / "run", progress=False)
        assert [line["atoms_per_second"] for line in read_metrics(tmp_path / "run", "train", without=set())] == [0, 0]
