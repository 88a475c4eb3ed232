"""What the page of promises names is there; every dependency and everything that others have made is accounted for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/promises.md").read_text(encoding="utf-8")


def test_the_tests_and_benchmarks_that_are_named_exist():
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
    others = {path.name for path in carried if "models" not in path.parts} - {"report.js", "viewer.js"}
    reasons = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    assert others and all(name in reasons for name in others), others
