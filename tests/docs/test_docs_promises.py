"""The page of promises: its figures are those of the benchmarks, all of which went well; what it names is there."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/robustness/results"
PAGE = (ROOT / "docs/explanation/promises.md").read_text(encoding="utf-8")
COMMANDS = ["data build", "data pack", "md", "predict", "relax", "train"]
FORMATS = ["aselmdb", "db", "extxyz", "json", "model", "pack", "recipe"]


@pytest.fixture(scope="module")
def page():
    sys.path.insert(0, str(ROOT / "docs"))
    import robustness_page

    return robustness_page


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_every_kill_was_survived(page):
    found = result("kill")
    assert sorted(found) == COMMANDS
    for command in found.values():
        beside = command["kills"]["before a rename or removal"], command["kills"]["after"]
        assert beside == (command["renames_and_removals"],) * 2 and command["kills"]["at a random moment"] >= 25
        assert command["failures"] == [] and command["survived"] == sum(command["kills"].values())
    survived = sum(command["survived"] for command in found.values())
    assert f"**{survived:,} of {survived:,}**" in "\n".join(page.tables()["kill"])


def test_no_damaged_input_found_anything(page):
    runs = result("fuzz")
    for run in runs:
        assert sorted(run["formats"]) == FORMATS
        for form in run["formats"].values():
            assert form["findings"] == [] and set(form["outcomes"]) == {"ok", "refused"}
            assert sum(form["outcomes"].values()) == form["inputs"]
        assert run["inputs"] == sum(form["inputs"] for form in run["formats"].values())
    total = sum(run["inputs"] for run in runs)
    assert total >= 100_000
    assert f"| all | **{total:,}** |" in "\n".join(page.tables()["fuzz"])


def test_long_runs_lost_nothing(page):
    if not (RESULTS / "soak.json").exists():
        assert page.tables()["soak"] == ["Not measured yet."]
        return
    found = result("soak")
    train, md = found["train"], found["md"]
    assert train["missing_lines"] == train["doubled_lines"] == train["numbers_not_finite"] == 0
    assert train["times_ascend"] and md["times_ascend"] and md["frames"] == md["frames_expected"]
    table = "\n".join(page.tables()["soak"])
    assert f"{train['minutes']:g} minutes, {train['steps']:,} steps" in table and f"{md['steps']:,} steps" in table
    flat = all(process["flat"] for run in (train, md) for process in run["memory"])
    assert ("**no**" in table) != flat


def test_the_page_holds_these_tables_and_names_what_there_is():
    assert re.findall(r"\{include\} \.\./results/robustness-(\w+)\.txt", PAGE) == ["kill", "soak", "fuzz"]
    named = {name for name in re.findall(r"`([\w/.-]+)`", PAGE) if re.match(r"(tests|benchmarks)/|test_\w+\.py", name)}
    assert len(named) > 12
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "tests/robustness" / name).exists(), name


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    reasons = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    assert 10 < len(project["dependencies"]) <= 13
    extras = project["optional-dependencies"]
    for entry in [*project["dependencies"], *(entry for entries in extras.values() for entry in entries)]:
        name = re.match(r"[\w-]+", entry)[0]
        assert name == "transip-potentials" or f"`{name}`" in reasons or f"`{name}[" in reasons, entry
    for extra in extras:
        assert f"`{extra}`" in reasons, extra


def test_what_others_have_made_comes_with_its_licence():
    for licence in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license-files"]:
        assert len((ROOT / licence).read_text(encoding="utf-8")) > 200, licence
    carried = [path for path in (ROOT / "src/transip").rglob("*") if path.suffix in (".json", ".js")]
    others = {path.name for path in carried if "models" not in path.parts} - {"report.js"}
    reasons = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    assert others and all(name in reasons for name in others), others
