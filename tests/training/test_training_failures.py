"""Runs that cannot start leave nothing behind; runs that fail say on what, and keep what they have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from toy import read_metrics, toy_recipe, toy_settings, toy_structure
from transip.batch import Batch
from transip.cli import main
from transip.data.dataset import Dataset
from transip.data.store import write_pack
from transip.errors import InputError, NonFiniteLoss
from transip.model.files import load_model
from transip.training.checkpoint import load_checkpoint
from transip.training.nonfinite import nonfinite_loss
from transip.training.run_folder import RunFolder
from transip.training.trainer import Trainer, train

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data.train": ["nowhere.pack"]}, r"nowhere\.pack: does not exist"),
            ({"data.validation": [], "data.validation_fraction": 1.0}, "no structures are left for training"),
            ({"training.batch.max_atoms": 4}, r"more than a batch may hold \(4 atoms\)"),
            ({"references": {"kind": "given", "values": {"H": -13.6}}}, "no reference energy for C, N, O, S"),
            ({"references": {"kind": "given", "values": {"Xx": 1.0}}}, "Xx"),
        ],
    )
    def test_by_data_that_do_not_fit(self, toy_packs, tmp_path, changes, message):
        with pytest.raises(InputError, match=message):
            train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
        assert list(tmp_path.iterdir()) == []

    def test_by_unlabelled_structures_that_do_not_fit(self, toy_packs, toy_pool, tmp_path):
        pool = {"data.unlabelled": [str(toy_pool)], "training.batch.unlabelled": 2, "objective.latent": {"weight": 1.0}}
        for changes, message in [
            ({"training.batch.max_atoms": 8}, r"pool\.pack, structure 1 \(C2H6O, source pool-1\): has 9 atoms"),
            ({"data.unlabelled": [str(toy_packs[0])]}, r"train\.pack: all 43 structures have a composition"),
        ]:
            with pytest.raises(InputError, match=message):
                train(toy_recipe(toy_packs, {**pool, **changes}), tmp_path / "run", progress=False)
        assert list(tmp_path.iterdir()) == []

    def test_by_data_without_labels(self, toy_packs, tmp_path):
        structures = [replace(toy_structure(i), energy=None, forces=None) for i in range(20)]
        write_pack(tmp_path / "bare.pack", structures, level_of_theory="none")
        recipe = toy_recipe(toy_packs, {"data.train": [str(tmp_path / "bare.pack")], "data.validation": []})
        with pytest.raises(InputError, match="has no energies and forces"):
            train(recipe, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()

    def test_by_a_recipe_that_is_wrong(self, toy_packs, tmp_path, capsys):
        settings = toy_settings(toy_packs, {"training.stesp": 5})
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        with pytest.raises(SystemExit) as ended:
            main(["train", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run")])
        assert ended.value.code == 2
        assert "did you mean 'steps'?" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def poison(monkeypatch: pytest.MonkeyPatch, source: str, value: float) -> None:
    """Let the energy of one structure be `value` from the eighth time on that it is read: in the second epoch or so."""
    batch_of = Dataset.get_batch
    reads = 0

    def poisoned(self: Dataset, indices) -> Batch:
        nonlocal reads
        batch = batch_of(self, indices)
        for place, i in enumerate(batch.index.tolist()):
            if self[i].source == source:
                reads += 1
                if reads > 7:
                    batch.energy[place] = value
        return batch

    monkeypatch.setattr(Dataset, "get_batch", poisoned)


CHANGES = {"training.steps": 30, "training.checkpoint_every": 5}


class TestNonFiniteLoss:
    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_names_the_structure_and_keeps_the_last_checkpoint(self, toy_packs, tmp_path, monkeypatch, value):
        poison(monkeypatch, "toy-17", value)
        message = r"not finite at step \d+, on train\.pack, structure 17 \(CH4S, source toy-17\)\n"
        with pytest.raises(NonFiniteLoss, match=message) as raised:
            train(toy_recipe(toy_packs, CHANGES), tmp_path / "run", progress=False)
        assert str(tmp_path / "run" / "checkpoints") in raised.value.remedy
        self.assert_intact(tmp_path / "run")
        monkeypatch.undo()
        train(toy_recipe(toy_packs, CHANGES), tmp_path / "run", resume=True, progress=False)
        assert read_metrics(tmp_path / "run")[-1]["step"] == 30

    def test_with_an_exploding_learning_rate_names_the_batch(self, toy_packs, tmp_path):
        optimizer = {"name": "adamw", "learning_rate": 1e25, "warmup": 0.5}
        recipe = toy_recipe(toy_packs, {**CHANGES, "training.optimizer": optimizer})
        with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
            train(recipe, tmp_path / "run", progress=False)

    def test_of_several_processes_each_names_only_its_own_structures(self, toy_packs, tmp_path, monkeypatch):
        poison(monkeypatch, "toy-17", float("inf"))
        trainer = Trainer(toy_recipe(toy_packs, CHANGES), RunFolder(tmp_path / "run"))
        drawn = trainer.sampler.batch(0)
        drawn = replace(drawn, labelled=(replace(drawn.labelled[0], indices=np.arange(14, 20)),))
        messages = []
        for rank in (0, 1):  # structures 14, 16, 18 and 15, 17, 19
            for _ in range(6):
                shards = [drawn.shard(rank, 2)]
                error = nonfinite_loss(trainer.objective.potential, shards, 1, tmp_path / "run", rank, 2)
            messages.append(error.problem)
        assert "on structures of another process than 0" in messages[0] and "source toy" not in messages[0]
        assert "source toy-17" in messages[1] and messages[1].count("source") == 1

    def test_names_an_unlabelled_structure_too(self, toy_packs, toy_pool, tmp_path, monkeypatch):
        batch_of = Dataset.get_batch

        def poisoned(self: Dataset, indices) -> Batch:
            batch = batch_of(self, indices)
            for place, i in enumerate(batch.index.tolist()):
                if self[i].source == "pool-7":
                    batch.positions[batch.structure_index == place] = torch.nan
            return batch

        monkeypatch.setattr(Dataset, "get_batch", poisoned)
        pool = {"data.unlabelled": [str(toy_pool)], "training.batch.unlabelled": 4, "objective.latent": {"weight": 1.0}}
        message = r"not finite at step \d+, on pool\.pack, structure 7 \(C2H6O, source pool-7\)\n"
        with pytest.raises(NonFiniteLoss, match=message):
            train(toy_recipe(toy_packs, {**CHANGES, **pool}), tmp_path / "run", progress=False)

    def test_ends_the_command_line_with_exit_code_2(self, toy_packs, tmp_path, monkeypatch, capsys):
        poison(monkeypatch, "toy-17", float("inf"))
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(toy_settings(toy_packs, CHANGES)))
        with pytest.raises(SystemExit) as ended:
            main(["train", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run")])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "error: " in said and "structure 17 (CH4S, source toy-17)" in said and "Traceback" not in said
        self.assert_intact(tmp_path / "run")

    def assert_intact(self, folder: Path) -> None:
        found = load_checkpoint(folder / "checkpoints")
        assert found is not None and found[0].step > 0
        for group in found[1].values():
            assert all(torch.isfinite(value).all() for value in group.values())
        model = load_model(folder)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert not list(folder.rglob("*.partial"))
