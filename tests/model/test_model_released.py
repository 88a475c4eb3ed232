"""Models by name: shipped inside the package, or in a repository of the Hugging Face Hub, which is played here."""

import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from ase.build import molecule

import transip
from commands import call
from transip import TransIPCalculator, from_pretrained, load_model, push_to_hub
from transip.errors import InputError, InputWarning
from transip.model import released
from transip.model.card import model_card
from transip.model.files import update_metadata
from transip.model.hub import export_for_release
from transip.model.potential import Potential

METRICS = {"energy_mae_per_atom": 0.00123, "force_mae": 0.0456, "force_cosine": 0.99, "structures": 930}
CARD = {
    "level_of_theory": "toy pairs",
    "elements": ["H", "C"],
    "charges": [-1, 0],
    "spins": [1, 2],
    "data": {"structures": 8370},
    "training": {"step": 100, "forward_passes": 1600},
    "validation": METRICS | {"force_rotation_error": 0.0201, "energy_rotation_spread_per_atom": 0.001},
}


@pytest.fixture
def model(make_model) -> Potential:
    known = make_model(dtype=torch.float32)
    copy = Potential(known.settings, known.references, known.scale, CARD)
    copy.load_state_dict(known.state_dict())
    return copy.requires_grad_(False)


@pytest.fixture
def shipped(model, tmp_path, monkeypatch) -> Path:
    """A folder that stands in for the package's own, with one model, `toy-xs`."""
    monkeypatch.setattr(released, "SHIPPED", tmp_path / "shipped")
    return export_for_release(model, tmp_path / "shipped" / "toy-xs")


class Hub:
    """A Hub with a cache, both folders: what `huggingface_hub` does, as far as we use it."""

    def __init__(self, folder: Path):
        self.cache, self.remote, self.online, self.downloads = folder / "cache", folder / "remote", True, 0

    def snapshot_download(self, repository, *, revision=None, allow_patterns=(), local_files_only=False) -> str:
        name = f"{repository}@{revision or 'main'}"
        cached, remote = self.cache / name, self.remote / name
        if not cached.exists():
            if local_files_only:
                raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
            if not self.online or not remote.exists():
                raise huggingface_hub.errors.LocalEntryNotFoundError("cannot reach the Hub")
            self.downloads += 1
            cached.mkdir(parents=True)
            for file in remote.iterdir():
                if file.name in allow_patterns:
                    (cached / file.name).write_bytes(file.read_bytes())
        return str(cached)

    def HfApi(self, token=None):
        return self

    def create_repo(self, repository, *, private, exist_ok) -> str:
        if "/" not in repository:
            raise ValueError(f"{repository!r} has no owner")
        return f"https://hub/{repository}"

    def upload_folder(self, *, repo_id, folder_path, commit_message) -> None:
        target = self.remote / f"{repo_id}@main"
        target.mkdir(parents=True)
        for file in Path(folder_path).iterdir():
            (target / file.name).write_bytes(file.read_bytes())


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    played = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", played.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", played.HfApi)
    monkeypatch.chdir(tmp_path)
    return played


def assert_same(model: Potential, other: Potential) -> None:
    assert model.scale == other.scale and model.settings == other.settings
    assert model.card | {"name": ""} == other.card | {"name": ""}  # what has been published knows its name
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


class TestShipped:
    def test_is_loaded_by_name_wherever_a_model_is_asked_for(self, shipped, model, tmp_path):
        assert_same(load_model("toy-xs"), model)
        assert_same(load_model(Path("toy-xs")), model)
        assert_same(TransIPCalculator("toy-xs").model, model)
        molecule("H2O", info={"charge": 0, "spin": 1}).write(tmp_path / "water.xyz")
        assert call("info", "toy-xs") == 0
        assert call("predict", "toy-xs", tmp_path / "water.xyz", "-o", tmp_path / "out.xyz", "--unseen", "ignore") == 0

    @pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
    def test_one_flipped_bit_is_noticed(self, shipped, file):
        spoil(shipped / file)
        with pytest.raises(InputError, match=rf"toy-xs: {file}: not what sha256\.json says"):
            load_model("toy-xs")

    def test_a_near_miss_is_named(self, shipped):
        with pytest.raises(InputError, match="did you mean 'toy-xs'"):
            load_model("toy-sx")

    def test_what_is_nowhere_is_no_model(self, shipped):
        with pytest.raises(InputError, match=r"no transip model(.|\n)*or one of toy-xs"):
            load_model("something-else-altogether")

    def test_a_folder_with_a_model_comes_before_a_name(self, shipped, make_model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        other = make_model(dtype=torch.float32, seed=1)
        transip.save_model(other, "toy-xs")
        assert_same(load_model("toy-xs"), other)

    def test_are_listed(self, shipped, capsys):
        assert call("models") == 0
        text = " ".join(capsys.readouterr().out.split())
        for word in ("toy-xs", "318,804", "direct", "45.6"):
            assert word in text

    def test_none_is_no_mistake(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(released, "SHIPPED", tmp_path / "nowhere")
        assert call("models") == 0
        assert "none in this version" in capsys.readouterr().out

    def test_those_in_this_package_are_whole(self):
        for name in released.builtin_models():
            assert load_model(name).card["level_of_theory"]


class TestHub:
    def test_what_is_pushed_comes_back(self, hub, model):
        assert push_to_hub(model, "someone/toy") == "https://hub/someone/toy"
        assert_same(from_pretrained("someone/toy"), model)
        assert_same(TransIPCalculator("someone/toy").model, model)

    def test_the_cache_comes_before_the_network(self, hub, model):
        push_to_hub(model, "someone/toy")
        load_model("someone/toy")
        hub.online = False
        assert_same(load_model("someone/toy@main"), model)
        assert_same(load_model("someone/toy"), model)
        assert hub.downloads == 1

    def test_a_revision_is_another_model(self, hub, model, make_model):
        push_to_hub(model, "someone/toy")
        export_for_release(make_model(dtype=torch.float32, seed=1), hub.remote / "someone/toy@v2")
        assert_same(from_pretrained("someone/toy", revision="v2"), load_model(hub.remote / "someone/toy@v2"))
        assert_same(from_pretrained("someone/toy"), model)

    def test_without_a_network_the_message_says_so(self, hub):
        hub.online = False
        with pytest.raises(InputError, match=r"someone/toy: neither a folder(.|\n)*cannot reach(.|\n)*network"):
            load_model("someone/toy")

    def test_without_the_extra_the_message_names_it(self, hub, model, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        for ask in (lambda: load_model("someone/toy"), lambda: push_to_hub(model, "someone/toy")):
            with pytest.raises(InputError, match=r"\[hub\]"):
                ask()

    def test_a_misspelt_path_is_not_looked_for_on_the_hub(self, hub, tmp_path):
        (tmp_path / "runs").mkdir()
        with pytest.raises(InputError, match="no transip model"):
            load_model("runs/organiks")
        assert not hub.downloads

    def test_damage_is_noticed_and_a_pickle_never_fetched(self, hub, model):
        push_to_hub(model, "someone/toy")
        (hub.remote / "someone/toy@main/pytorch_model.bin").write_bytes(b"no")
        load_model("someone/toy")
        assert not (hub.cache / "someone/toy@main/pytorch_model.bin").exists()
        spoil(hub.cache / "someone/toy@main/model.safetensors")
        with pytest.raises(InputError, match=r"someone/toy: model\.safetensors: not what"):
            load_model("someone/toy")

    def test_files_that_cannot_be_checked_are_named(self, hub, model):
        push_to_hub(model, "someone/toy")
        (hub.remote / "someone/toy@main/sha256.json").unlink()
        with pytest.warns(InputWarning, match=r"no sha256\.json"):
            load_model("someone/toy")

    def test_a_repository_of_something_else_is_no_model(self, hub, model):
        push_to_hub(model, "someone/toy")
        (hub.remote / "someone/toy@main/model.safetensors").unlink()
        with pytest.raises(InputError, match=r"someone/toy: is no transip model(.|\n)*no model\.safetensors"):
            load_model("someone/toy")

    @pytest.mark.parametrize("name", ["runs/organics", "demo/model"])
    def test_a_run_that_is_not_there_is_not_asked_for(self, hub, name):
        with pytest.raises(InputError, match="no transip model"):
            load_model(name)
        assert hub.downloads == 0

    def test_what_the_hub_refuses_is_said(self, hub, model):
        with pytest.raises(InputError, match=r"nobody: cannot be published(.|\n)*no owner"):
            push_to_hub(model, "nobody")


class TestCard:
    def test_is_markdown_with_front_matter(self, model):
        _, matter, text = model_card(model).split("---\n", 2)
        assert yaml.safe_load(matter)["library_name"] == "transip"
        for word in (
            "toy pairs",
            "H, C",
            "-1, 0",
            "1.23",
            "45.6",
            "force components by 20.1 meV/Å",
            "8,370",
            "Do not use this model for",
        ):
            assert word in text

    def test_says_what_was_measured_by_domain_and_in_dynamics(self, model):
        model.card |= {
            "domains": {"elytes": METRICS, "reactivity": METRICS | {"force_mae": 0.2}},
            "conservation": {"NVE at 300 K": "0.3 meV/atom/ps"},
            "not_for": ["reaction barriers"],
        }
        text = model_card(model)
        assert "| elytes | 1.23 | 45.6 |" in text and "| reactivity | 1.23 | 200.0 |" in text
        assert "NVE at 300 K: 0.3 meV/atom/ps" in text and "- reaction barriers." in text

    def test_says_under_which_name_to_load_it(self, model, tmp_path):
        update_metadata(export_for_release(model, tmp_path / "released"), name="someone/toy")
        text = (tmp_path / "released" / "README.md").read_text(encoding="utf-8")
        assert "# someone/toy\n" in text and 'TransIPCalculator("someone/toy")' in text

    def test_says_what_errors_were_measured_on(self, model, make_model):
        assert "whose compositions were held out of training." in model_card(model)
        model.card |= {"data": {"validation_trained_on": 12}, "started_from": "another"}
        assert (
            "12 of the structures have a composition in training. The model that this one was fine-tuned from"
            in model_card(model)
        )

    def test_speaks_of_periodic_systems_where_there_is_no_cutoff(self, model, make_model):
        assert "- periodic systems" in model_card(model)
        assert "periodic" not in model_card(make_model(cutoff=4.5))

    def test_of_a_model_of_which_nothing_is_known(self, make_model):
        assert "level of theory: unknown" in model_card(make_model())


def test_evaluating_a_shipped_model_writes_beside_it_nothing(shipped, toy_packs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in shipped.iterdir()}
    assert call("evaluate", "toy-xs", toy_packs[1]) == 0
    assert {path.name for path in shipped.iterdir()} == before
    assert json.loads((tmp_path / "runs/toy-xs/evaluation.json").read_text())["overall"]["structures"] == 12
