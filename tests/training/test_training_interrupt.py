"""Ctrl-C and SIGTERM: the step is finished and kept, one line says how to continue."""

import os
import signal

import pytest
import yaml
from test_training_resume import assert_same, state

from toy import read_metrics, toy_recipe, toy_settings
from transip.cli import main
from transip.training.callbacks import Callback
from transip.training.interrupt import Interrupted
from transip.training.trainer import Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


class Interrupt(Callback):
    """Sends this process a signal at an evaluation."""

    def __init__(self, step: int, number: signal.Signals, times: int = 1):
        self.step, self.number, self.times = step, number, times

    def on_evaluation(self, trainer: Trainer, record: dict) -> None:
        for _ in range(self.times if record["step"] == self.step else 0):
            os.kill(os.getpid(), self.number)


EVERY_THREE = {"training.evaluate_every": 3}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_lost(toy_packs, tmp_path, number):
    recipe, handlers = (
        toy_recipe(toy_packs, EVERY_THREE),
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    )
    train(recipe, tmp_path / "whole", progress=False)
    message = "stopped at step 6; the last checkpoint is of step 6; continue with --resume"
    with pytest.raises(Interrupted, match=message):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Interrupt(6, number)])
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert read_metrics(tmp_path / "run")[-1]["step"] == 6
    train(recipe, tmp_path / "run", resume=True, progress=False)
    assert_same(state(tmp_path / "run"), state(tmp_path / "whole"))


def test_a_second_ctrl_c_ends_at_once(toy_packs, tmp_path):
    with pytest.raises(Interrupted, match="stopped at step 6; the last checkpoint is of step 5; continue"):
        recipe = toy_recipe(toy_packs, EVERY_THREE)
        train(recipe, tmp_path / "run", progress=False, callbacks=[Interrupt(6, signal.SIGINT, times=2)])


def test_the_command_says_it_in_one_line_and_exits_with_130(toy_packs, tmp_path, monkeypatch, capsys):
    evaluate, interrupt = Trainer.evaluate, Interrupt(3, signal.SIGINT)

    def interrupted(self: Trainer) -> dict:
        record = evaluate(self)
        interrupt.on_evaluation(self, record)
        return record

    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(toy_settings(toy_packs, EVERY_THREE)))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run")])
    assert ended.value.code == 130
    assert "stopped at step 3; the last checkpoint is of step 3; continue with --resume" in capsys.readouterr().err
