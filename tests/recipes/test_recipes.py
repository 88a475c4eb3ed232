"""Every shipped recipe runs: the same settings on a thousandth of the data, steps and parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from ase.io import read

from toy import write_toy_pack
from transip.config import LabelSettings, Recipe, parse
from transip.data.store import Pack
from transip.labels import methods
from transip.labels.campaign import run_campaign
from transip.training.trainer import train

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "recipes").glob("*.yaml"))
LABELLING = [path for path in ALL if path.stem.startswith("data-")]
TRAINING = [path for path in ALL if path not in LABELLING]

TINY_MODEL = {"width": 16, "depth": 2, "heads": 2}
TINY_TRAINING = {"steps": 2, "minutes": None, "evaluate_every": 2, "checkpoint_every": 2, "log_every": 1}
TINY_TRAINING |= {"compile": False}  # the shape checks that all tests run under cannot be compiled


@pytest.fixture(scope="module")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands in for every recipe's data."""
    return write_toy_pack(tmp_path_factory.mktemp("data") / "tiny.pack", 40)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_is_short_and_explained(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    header = list(takewhile(lambda line: line.startswith("#"), lines))
    assert len(header) >= 2
    assert any(f"recipes/{path.name}" in line for line in header), "the header names the command that runs it"


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_trains(path, tiny_pack, tmp_path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["data"] |= {"train": [str(tiny_pack)], "validation": [], "validation_fraction": 0.3}
    for others in {"unlabelled", "replay"} & set(values["data"]):
        values["data"][others] = [str(tiny_pack)]
    values["model"] = values.get("model", {}) | TINY_MODEL
    values["training"] |= TINY_TRAINING
    if values.pop("init_from", None):
        before = {key: value for key, value in values.items() if key != "fine_tuning"}
        before["model"] = values["model"] | {"forces": "direct"}
        train(parse(Recipe, before, path.name), tmp_path / "before", progress=False)
        values["init_from"] = str(tmp_path / "before")
    model = train(parse(Recipe, values, path.name), tmp_path / "run", progress=False)
    card = json.loads((model / "config.json").read_text())
    assert card["training"]["step"] == 2
    assert card["validation"]["force_rotation_error"] >= 0


@pytest.mark.parametrize("path", LABELLING, ids=lambda path: path.stem)
def test_labels(path, tmp_path, monkeypatch):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if values["method"] == "wb97m-v":
        pytest.importorskip("pyscf")
        quick = replace(methods.METHODS["wb97m-v"], label=methods.gfn2_xtb)  # minutes a structure; see tests/labels
        monkeypatch.setitem(methods.METHODS, "wb97m-v", quick)
    for domain in values["domains"]:
        domain |= {"structures": 2, "conformers": 1}
    settings = parse(LabelSettings, values | {"workers": 1, "chunk": 2}, path.name)
    pack = run_campaign(settings, tmp_path / "tiny.pack", progress=False)
    assert len(pack) == 2 * len(settings.domains)
    assert set(Pack.open(tmp_path / "tiny.pack").domains) == {domain.domain for domain in settings.domains}


def test_controls_differ_from_their_method_in_the_latent_loss_alone():
    for method, control in [
        ("organics-latent", "organics-augment-2-views"),
        ("paper", "paper-augment-2-views"),
    ]:
        one, other = (yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text()) for name in (method, control))
        assert one["objective"].pop("latent")["weight"] > 0
        one.pop("name"), other.pop("name")
        assert one == other


def test_the_molecule_of_the_demo_is_of_unseen_composition():
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    from transip.labels.organics import molecules_up_to

    example = read(ROOT / "examples" / "fluorotoluene.extxyz").get_chemical_formula("hill")
    assert example not in {CalcMolFormula(bonds) for _, bonds in molecules_up_to(1000)}
