"""Going on from a trained model: what is frozen, adapted, replayed, re-fitted, and what a killed run makes of it."""

import json
from dataclasses import replace
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_training_processes import launch
from test_training_resume import killed_and_resumed

from toy import TINY, pair_energy, read_metrics, toy_recipe, toy_settings, toy_structure
from transip.batch import Batch
from transip.config import FineTuningSettings
from transip.data.dataset import Dataset
from transip.data.split import load_replay, load_splits
from transip.data.store import write_pack
from transip.errors import InputError, InputWarning
from transip.model import released
from transip.model.files import load_model
from transip.model.hub import export_for_release
from transip.model.potential import Potential
from transip.structure import ELEMENTS, Structure
from transip.training.adapters import LowRank, NewSpecies, TrainableRows, apply_adapters, merge_adapters
from transip.training.trainer import train
from transip.training.view_sampler import ViewSampler

pytestmark = pytest.mark.filterwarnings("ignore:.*composition")

FAMILY = ("SiH4", "Si2H6", "SH2", "CH3SH")
SILICON, SULPHUR = 14, 16


def family(number: int, shift: float = 0.0) -> Structure:
    """Molecules with an element (Si) that the toy data do not have; `shift` eV an atom, times its atomic number."""
    generator = np.random.default_rng((11, number))
    atoms = ase.build.molecule(FAMILY[number % len(FAMILY)])
    positions = atoms.positions + generator.normal(scale=0.08, size=(len(atoms), 3))
    energy, forces = pair_energy(atoms.numbers, positions)
    energy -= (13.6 + shift) * float(atoms.numbers.sum())
    known = {"energy": energy, "forces": forces, "domain": "family", "source": f"family-{number}"}
    return Structure(atoms.numbers.astype(np.int64), positions, 0, 1, **known)


@pytest.fixture(scope="module")
def start(toy_packs, tmp_path_factory) -> Path:
    """A trained model."""
    folder = tmp_path_factory.mktemp("start") / "run"
    train(toy_recipe(toy_packs, {"training.steps": 20}), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> tuple[Path, Path]:
    """The family, at the level of theory of the toy data and at another one."""
    folder = tmp_path_factory.mktemp("family")
    write_pack(folder / "same.pack", map(family, range(24)), level_of_theory="toy pairs")
    write_pack(folder / "other.pack", (family(i, shift=100.0) for i in range(24)), level_of_theory="other")
    return folder / "same.pack", folder / "other.pack"


def changes(start: Path, pack: Path, **more) -> dict:
    """Fine-tuning on a pack of the family, as changes of the toy recipe."""
    data = {"train": [str(pack)], "validation_fraction": 0.25}
    return {"init_from": str(start), "data": data, "model": {}} | more


def tune(start: Path, pack: Path, toy_packs, folder: Path, **more) -> Path:
    return train(toy_recipe(toy_packs, changes(start, pack, **more)), folder, progress=False)


def batch_of(limits: dict[str, int]) -> dict:
    return {f"training.batch.{name}": value for name, value in limits.items()}


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


class TestParametrisations:
    def test_low_rank_begins_as_the_matrix_itself(self):
        weight = torch.randn(6, 5)
        adapter = LowRank(weight, rank=2)
        assert torch.equal(adapter(weight), weight)
        torch.nn.init.normal_(adapter.up)
        change = adapter(weight) - weight
        torch.testing.assert_close(change, 4.0 * adapter.up @ adapter.down)
        assert torch.linalg.matrix_rank(change) == 2

    def test_new_rows_alone_are_learned(self):
        table = torch.randn(6, 4)
        rows = TrainableRows(table, [1, 4])
        assert torch.equal(rows(table), table)
        torch.nn.init.zeros_(rows.values)
        assert torch.equal(rows(table)[[0, 2, 3, 5]], table[[0, 2, 3, 5]]) and not rows(table)[[1, 4]].any()

    @pytest.mark.parametrize("forces", ["direct", "conservative"])
    def test_neither_changes_predictions_and_merging_keeps_them(self, make_model, make_structure, forces):
        model = make_model(forces=forces)
        batch = Batch.collate([make_structure(7), make_structure(5, charge=1)], torch.float64)
        before = model(batch)
        tuned = Potential(model.settings, model.references, model.scale).double()
        assert model.charge_spin_references.any()
        tuned.load_state_dict(model.state_dict())
        apply_adapters(
            tuned, FineTuningSettings(frozen_blocks=1, lora_rank=3), NewSpecies(elements=[8], charges=[1], spins=[2])
        )
        same = tuned(batch)
        assert torch.equal(same.energy, before.energy) and torch.equal(same.forces, before.forces)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        found, expected = merge_adapters(tuned)(batch), tuned(batch)
        assert (expected.energy - before.energy).abs().min() > 1e-3
        assert torch.equal(found.energy, expected.energy) and torch.equal(found.forces, expected.forces)
        assert merge_adapters(tuned).state_dict().keys() == model.state_dict().keys()
        assert merge_adapters(model) is model


class TestWhatIsKept:
    def test_frozen_blocks_and_embedding_but_for_what_is_new(self, start, packs, toy_packs, tmp_path):
        model = tune(start, packs[0], toy_packs, tmp_path / "run", fine_tuning={"frozen_blocks": 1})
        old, new = weights(start / "model"), weights(model)
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        assert not [name for name in changed if "blocks.0." in name]
        assert [name for name in changed if "blocks.1." in name] and "energy_head.mlp.2.weight" in changed
        rows = (
            (old["backbone.embedding.element.weight"] != new["backbone.embedding.element.weight"])
            .any(1)
            .nonzero()
            .flatten()
            .tolist()
        )
        seen = json.loads((start / "model/config.json").read_text())["elements"]
        assert rows == [z for z in (SILICON, SULPHUR) if ELEMENTS[z] not in seen] and rows
        assert "backbone.embedding.charge.weight" not in changed

    def test_adapters_change_matrices_of_attention_and_mlp_by_a_low_rank(self, start, packs, toy_packs, tmp_path):
        rank = {"lora_rank": 2, "frozen_blocks": 1}
        model = tune(start, packs[0], toy_packs, tmp_path / "run", fine_tuning=rank)
        old, new = weights(start / "model"), weights(model)
        assert old.keys() == new.keys()
        changed = {
            name: new[name].double() - old[name].double() for name in old if not torch.equal(old[name], new[name])
        }
        matrices = {name: change for name, change in changed.items() if "blocks." in name}
        kinds = ("query", "key", "value", "output", "gate", "up", "down")
        parts = {name.split(".")[-2] for name in matrices}
        assert parts == set(kinds) and all("blocks.1." in name for name in matrices)
        for change in matrices.values():
            values = torch.linalg.svdvals(change)
            assert values[1] > 1e-5 and values[2] < 1e-5 * max(values[0], 1e-2)
        assert "energy_head.mlp.2.weight" in changed
        assert load_model(model).num_parameters == load_model(start).num_parameters

    def test_the_model_is_that_of_the_start_unless_said(self, start, packs, toy_packs, tmp_path):
        model = tune(start, packs[0], toy_packs, tmp_path / "run", model={"forces": "conservative"})
        found, old = load_model(model), load_model(start)
        assert found.settings == old.settings.model_copy(update={"forces": "conservative"})
        assert found.settings.width == TINY["width"] and found.scale == old.scale

    def test_a_start_by_name(self, start, packs, toy_packs, tmp_path, monkeypatch):
        monkeypatch.setattr(released, "SHIPPED", tmp_path / "shipped")
        export_for_release(start, tmp_path / "shipped/toy-xs")
        model = tune(Path("toy-xs"), packs[0], toy_packs, tmp_path / "run")
        assert load_model(model).card["started_from"] == "toy-xs"


class TestTheStartIsMeasured:
    def test_as_step_0_of_the_log(self, start, toy_packs, tmp_path):
        """Fine-tuning on the data of the start: its errors are those of the start's last evaluation."""
        changes = {"init_from": str(start), "model": {}, "training.steps": 2}
        train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)
        first, best = read_metrics(tmp_path / "run", "evaluation")[0], load_model(start).card["validation"]
        assert (first["kind"], first["step"], first["forward_passes"]) == ("evaluation", 0, 0)
        assert first["force_mae"] == pytest.approx(best["force_mae"], rel=1e-6)

    def test_and_a_run_that_makes_it_worse_is_warned_of(self, start, toy_packs, tmp_path):
        changes = {"init_from": str(start), "model": {}, "training.steps": 4, "training.optimizer.learning_rate": 0.3}
        with pytest.warns(InputWarning, match=r"the best model has a force MAE of .* from which training began, has"):
            train(toy_recipe(toy_packs, changes), tmp_path / "run", progress=False)


class TestReferences:
    def test_of_the_same_level_are_kept_and_new_elements_fitted(self, start, packs, toy_packs, tmp_path):
        model = tune(start, packs[0], toy_packs, tmp_path / "run", **{"training.steps": 1})
        old, new = load_model(start), load_model(model)
        changed = (old.references != new.references).nonzero().flatten().tolist()
        seen = set(old.card["elements"])
        assert changed == [z for z in (SILICON, SULPHUR) if ELEMENTS[z] not in seen] and SILICON in changed
        assert new.references[SILICON] == pytest.approx(-13.6 * SILICON, abs=5)

    def test_of_another_level_are_fitted_to_what_the_model_leaves(self, start, packs, toy_packs, tmp_path):
        """Hydrogen, carbon, silicon and sulphur occur in the family in independent proportions."""
        model = load_model(start)
        structures = list(map(family, range(24)))
        predicted = model(Batch.collate(structures)).energy.tolist()
        shift = {1: -3.0, 6: -1000.0, SILICON: -7000.0, SULPHUR: -9000.0}
        moved = [
            Structure(**(vars(s) | {"energy": e + sum(shift[int(z)] for z in s.numbers)}))
            for s, e in zip(structures, predicted, strict=True)
        ]
        write_pack(tmp_path / "moved.pack", moved, level_of_theory="another")
        with pytest.warns(InputWarning, match=r"O.* do not occur in the new data(.|\n)*not of another"):
            data = {"train": [str(tmp_path / "moved.pack")], "validation": [str(tmp_path / "moved.pack")]}
            tuned = tune(start, packs[1], toy_packs, tmp_path / "run", **{"data": data, "training.steps": 1})
        change = load_model(tuned).references - model.references
        for z, value in shift.items():
            assert change[z] == pytest.approx(value, abs=1e-3)
        assert change[8] == 0 and load_model(tuned).scale == model.scale

    def test_are_fitted_where_nobody_said_what_the_level_is(self, toy_packs, tmp_path):
        """Two levels of which nothing is known need not be the same one."""
        data = {}
        for name, shift in (("start", 0.0), ("mine", 100.0)):
            path = str(tmp_path / f"{name}.pack")
            write_pack(path, (family(i, shift) for i in range(24)), level_of_theory="unknown")
            data[name] = {"data": {"train": [path], "validation": [path]}, "training.steps": 1}
        start = train(toy_recipe(toy_packs, data["start"]), tmp_path / "start", progress=False)
        tuned = tune(start, Path("mine.pack"), toy_packs, tmp_path / "run", **data["mine"])
        change = load_model(tuned).references - load_model(start).references
        assert change[SILICON] == pytest.approx(-100 * SILICON, rel=0.05)

    def test_of_charge_and_spin_are_fitted_to_what_the_model_leaves(self, start, toy_packs, tmp_path):
        """At another level, a cation (a doublet in the toy data) costs 5 eV more than the trained model says."""
        old, structures = load_model(start), [toy_structure(number) for number in range(43)]
        assert old.charge_spin_references[0] == pytest.approx(3, abs=1)  # eV a charge, as in the toy data
        predicted = old(Batch.collate(structures)).energy.tolist()
        moved = [replace(s, energy=e + 5.0 * s.charge) for s, e in zip(structures, predicted, strict=True)]
        write_pack(tmp_path / "moved.pack", moved, level_of_theory="another")
        data = {"train": [str(tmp_path / "moved.pack")], "validation": [str(tmp_path / "moved.pack")]}
        for terms, expected in ((["charge", "unpaired_electrons"], 5.0), ([], 0.0)):
            more = {"data": data, "training.steps": 1, "references": {"terms": terms}}
            new = load_model(tune(start, toy_packs[0], toy_packs, tmp_path / f"{len(terms)} terms", **more))
            change = new.charge_spin_references - old.charge_spin_references
            assert change.tolist() == pytest.approx([expected, 0, 0], abs=1e-4)
            assert expected == 0 or torch.allclose(new.references, old.references, rtol=0, atol=1e-4)

    def test_of_charge_are_fitted_when_the_start_knew_only_neutral_molecules(self, start, toy_packs, tmp_path):
        structures = [toy_structure(number) for number in range(43)]
        write_pack(tmp_path / "neutral.pack", [s for s in structures if not s.charge], level_of_theory="toy pairs")
        data = {"train": [str(tmp_path / "neutral.pack")], "validation": [str(tmp_path / "neutral.pack")]}
        neutral = train(
            toy_recipe(toy_packs, {"data": data, "training.steps": 1}), tmp_path / "neutral", progress=False
        )
        more = {"init_from": str(neutral), "model": {}, "training.steps": 1}
        old, new = load_model(neutral), load_model(train(toy_recipe(toy_packs, more), tmp_path / "run", progress=False))
        assert not old.charge_spin_references.any() and torch.equal(old.references, new.references)
        assert new.charge_spin_references[0].abs() > 0.1 and not new.charge_spin_references[1:].any()

    def test_are_kept_when_told_so(self, start, packs, toy_packs, tmp_path):
        more = {"fine_tuning": {"references": "keep"}, "training.steps": 1}
        model = tune(start, packs[1], toy_packs, tmp_path / "run", **more)
        assert torch.equal(load_model(model).references[1:9], load_model(start).references[1:9])
        assert torch.equal(load_model(model).charge_spin_references, load_model(start).charge_spin_references)


class TestReplay:
    @pytest.fixture
    def recipe(self, start, packs, toy_packs):
        more = {"training.batch.batch_size": 3, "training.batch.replay": 5, "objective.views": 2}
        data = {"train": [str(packs[0])], "validation": [str(packs[0])], "replay": [str(toy_packs[0])]}
        return toy_recipe(toy_packs, {**changes(start, packs[0]), **more, "data": data, "model": dict(TINY)})

    def sampler(self, recipe, num_processes: int = 1) -> ViewSampler:
        replay = load_replay(recipe.data)
        return ViewSampler(recipe, Dataset.open(recipe.data.train), replay=replay, num_processes=num_processes)

    def test_each_batch_has_some_and_each_structure_counts_the_same(self, recipe):
        sampler = self.sampler(recipe)
        replayed = []
        for _, drawn in zip(range(16), sampler.batches(), strict=False):
            data, replay = drawn.labelled
            epoch = len(replay.dataset)
            normalizer = sampler.normalizer([drawn])
            batch = drawn.collate(normalizer, torch.device("cpu"))
            assert len(data.indices) == 3 and len(replay.indices) in (5, epoch % 5)
            assert (
                len(batch.labelled.batch)
                == len(data.indices) + len(replay.indices)
                == batch.labelled.rotations.shape[1]
            )
            assert normalizer.structures == drawn.num_passes == 2 * len(batch.labelled.batch)
            assert normalizer.atoms == drawn.num_atoms == 2 * batch.labelled.batch.num_atoms
            replayed += replay.indices.tolist()
        assert sorted(replayed[:epoch]) == list(range(epoch)) != replayed[:epoch]  # an epoch of its own

    def test_two_processes_fine_tune_as_one(self, start, packs, toy_packs, tmp_path):
        more = {
            "fine_tuning": {"lora_rank": 2},
            "training.steps": 4,
            "training.evaluate_every": 4,
            "training.optimizer": {"name": "adamw", "learning_rate": 1e-4},
            "objective.energy_weight": 0,
        }
        of_two, of_one = {"batch_size": 2, "replay": 3}, {"batch_size": 4, "replay": 6}
        settings = changes(start, packs[0], **more)
        settings["data"] |= {"replay": [str(toy_packs[0])]}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(toy_settings(toy_packs, settings | batch_of(of_two))))
        finished = launch(tmp_path / "recipe.yaml", tmp_path / "two")
        assert finished.returncode == 0, finished.stderr
        train(toy_recipe(toy_packs, settings | batch_of(of_one)), tmp_path / "one", progress=False)
        two, one = (read_metrics(tmp_path / name) for name in ("two", "one"))
        assert [line["step"] for line in two] == [0, 0, 1, 2, 3, 4, 4]
        for found, expected in zip(two, one, strict=True):
            assert found.pop("kind") == expected.pop("kind")
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)

    def test_what_is_held_out_is_not_replayed(self, recipe, toy_packs):
        changes = {"train": (str(toy_packs[0]),), "validation": (), "validation_fraction": 0.3, "max_val_structures": 1}
        settings = recipe.data.model_copy(update=changes)
        trained = load_splits(settings)[0]  # what validation is cut to does not matter
        assert set(load_replay(settings).composition_hashes()) == set(trained.composition_hashes())
        with pytest.raises(InputError, match="have a composition that is held out"):
            load_replay(settings.model_copy(update={"validation": settings.train}))

    def test_another_level_of_theory_is_refused(self, start, packs, toy_packs, tmp_path):
        more = {"training.batch.replay": 4}
        wrong = changes(start, packs[1], **more)
        wrong["data"]["replay"] = [str(toy_packs[0])]
        with pytest.raises(InputError, match="levels of theory cannot be mixed"):
            train(toy_recipe(toy_packs, wrong), tmp_path / "run", progress=False)

    def test_the_card_knows_what_was_replayed(self, start, packs, toy_packs, tmp_path):
        more = changes(start, packs[0], **{"training.batch.replay": 4, "training.steps": 2})
        more["data"]["replay"] = [str(toy_packs[0])]
        card = load_model(train(toy_recipe(toy_packs, more), tmp_path / "run", progress=False)).card
        assert {"Si", "O", "N"} <= set(card["elements"]) and card["charges"] == [0, 1]
        assert card["data"]["replayed"] == 43


RUNS = {
    "frozen blocks": {"fine_tuning": {"frozen_blocks": 1}},
    "adapters": {"fine_tuning": {"lora_rank": 2}},
    "adapters and conservative forces, adamw": {
        "fine_tuning": {"lora_rank": 2, "frozen_blocks": 1},
        "model": {"forces": "conservative"},
        "training.optimizer.name": "adamw",
    },
    "replay": {
        "training.batch.batch_size": 4,
        "training.batch.replay": 5,
        "training.grad_accumulation": 2,
        "objective.views": 2,
    },
    "all together": {
        "fine_tuning": {"lora_rank": 2},
        "training.batch.batch_size": 4,
        "training.batch.replay": 3,
        "training.batch.unlabelled": 2,
        "objective.latent": {"weight": 1.0, "hidden": 16},
    },
}


@pytest.mark.parametrize("more", RUNS.values(), ids=RUNS.keys())
def test_five_steps_and_five_more_are_ten_bit_for_bit(start, packs, toy_packs, toy_pool, tmp_path, monkeypatch, more):
    settings = changes(start, packs[0], **more)
    if "training.batch.replay" in more:
        settings["data"]["replay"] = [str(toy_packs[0])]
    if "training.batch.unlabelled" in more:
        settings["data"]["unlabelled"] = [str(toy_pool)]
    killed_and_resumed(toy_recipe(toy_packs, settings), tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:.*do not occur")
def test_references_that_were_fitted_again_survive_a_kill(start, packs, toy_packs, tmp_path, monkeypatch):
    killed_and_resumed(toy_recipe(toy_packs, changes(start, packs[1])), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fine_tuning": {"lora_rank": 2}}, "give init_from"),
        ({"init_from": "x", "references": {"kind": "omol25"}}, r"see fine_tuning\.references"),
        ({"init_from": "x", "model": {}, "training.batch.replay": 2}, "go together"),
        ({"init_from": "x", "data.replay": ["x.pack"]}, "go together"),
    ],
)
def test_settings_that_make_no_sense_are_refused(toy_packs, wrong, message):
    with pytest.raises(InputError, match=message):
        toy_recipe(toy_packs, wrong)


def test_settings_that_do_not_fit_the_start_are_refused(start, packs, toy_packs, tmp_path):
    with pytest.raises(InputError, match=r"frozen_blocks 3 exceeds the model's depth 2"):
        tune(start, packs[0], toy_packs, tmp_path / "run", fine_tuning={"frozen_blocks": 3})
    with pytest.raises(InputError, match="another architecture"):
        tune(start, packs[0], toy_packs, tmp_path / "run", model={"size": "M"})
    assert not (tmp_path / "run" / "recipe.yaml").exists()
