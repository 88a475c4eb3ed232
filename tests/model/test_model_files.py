"""Model folders: written whole, read back bit for bit, and refused in words when they cannot be used."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from transip.batch import Batch, charge_spin_terms
from transip.errors import InputError
from transip.model.files import CONFIG, FORMAT, WEIGHTS, load_model, load_tensors, save_model, save_tensors
from transip.model.potential import REFERENCES


@pytest.fixture
def folder(tmp_path, make_model) -> Path:
    save_model(make_model(dtype=torch.float32), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_a_model_comes_back_bit_for_bit(tmp_path, make_model, make_structure, preset, forces):
    model = make_model(preset, forces, torch.float32, scale=1.7)
    model.card.update(level_of_theory="test", elements=["H", "C"], charges=[0], spins=[1, 2])
    save_model(model, tmp_path)
    back = load_model(tmp_path)
    assert back.settings == model.settings and back.card == model.card and back.scale == model.scale
    for name, tensor in model.state_dict().items():
        assert back.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(back.state_dict()[name], tensor), name
    assert not back.training and not any(p.requires_grad for p in back.parameters())
    batch = Batch.collate([make_structure(7), make_structure(3)])
    with torch.no_grad():
        assert torch.equal(back(batch).energy, model(batch).energy)
        assert torch.equal(back(batch).forces, model(batch).forces)


@pytest.mark.parametrize("cast", ["float", "half", "double", "bfloat16"])
def test_references_stay_float64_whatever_the_network_is(folder, cast):
    model = load_model(folder)
    before = {name: getattr(model, name).clone() for name in REFERENCES}
    getattr(model, cast)()
    for name, values in before.items():
        assert getattr(model, name).dtype == torch.float64
        assert torch.equal(getattr(model, name), values) and values.any()
        assert name in dict(model.named_buffers())


def test_a_model_from_before_there_were_references_of_charge_and_spin_has_none(folder, make_structure):
    model, tensors = load_model(folder), load_tensors(folder / WEIGHTS)
    del tensors["charge_spin_references"]
    save_tensors(tensors, folder / WEIGHTS)
    old, batch = load_model(folder), Batch.collate([make_structure(4), make_structure(4, charge=2)])
    assert not old.charge_spin_references.any()
    with torch.no_grad():
        difference = model(batch).energy - old(batch).energy
    expected = (charge_spin_terms(batch) * model.charge_spin_references).sum(1)
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["", WEIGHTS, CONFIG])
def test_the_folder_or_a_file_in_it_names_the_model(folder, name):
    assert load_model(folder / name).num_parameters == 318_804


def test_a_run_folder_names_its_model(folder):
    assert load_model(folder.parent).num_parameters == 318_804


def test_the_card_says_what_the_model_is(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "318,804 parameters" in text and "direct forces" in text


@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_networks_come_back_at_least_in_float32(folder, saved):
    model = load_model(folder).to(saved)
    save_model(model, folder)
    found = load_model(folder)
    assert {p.dtype for p in found.parameters()} == {torch.promote_types(saved, torch.float32)}
    torch.testing.assert_close(
        found.backbone.embedding.element.weight,
        model.backbone.embedding.element.weight.to(torch.promote_types(saved, torch.float32)),
    )


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(path)
    for word in (*words, str(path.name)):
        assert word in str(caught.value)


def test_nothing_there(tmp_path):
    refused(tmp_path / "nowhere", "not found")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".bin", ".model"])
def test_a_pickled_checkpoint_is_refused_unread(tmp_path, suffix):
    class Bomb:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "exploded", "boom"))

    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "pickled", "refused")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_under_the_name_of_the_weights_is_refused_unread(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"references": [0.0]}))
    refused(folder, WEIGHTS, "corrupt")


def test_a_newer_format_is_refused(folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"format": FORMAT + 1}))
    refused(folder, f"format {FORMAT + 1}", "upgrade")


@pytest.mark.parametrize("keep", [0, 5, 1000, -1000])
def test_truncated_weights(folder, keep):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    refused(folder, WEIGHTS, "truncated or corrupt")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": {"size": "XS", "wdith": 64}}, "width"),
        ({"model": {"size": "S"}}, "does not fit the architecture"),
        ({"scale": "large"}, "lacks or misstates"),
        ({"format": None}, "no valid format number"),
    ],
)
def test_a_config_that_does_not_fit(folder, change, word):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    refused(folder, word)


def test_a_truncated_config(folder):
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text[: len(text) // 2])
    refused(folder, "not valid JSON")


def test_missing_weights(folder):
    (folder / WEIGHTS).unlink()
    refused(folder, WEIGHTS, "not found")


def test_a_full_disk_leaves_the_old_model(folder, make_model, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transip.model.files.save_file", full)
    with pytest.raises(InputError, match="No space left"):
        save_model(make_model(seed=1), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
