"""ARCHITECTURE.md lists every file and the layers as they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0].split("```")[1].removeprefix("text\n")


def test_every_file_is_listed():
    folder, listed = "", []
    for line in section("Files").splitlines()[1:]:
        indent, name = re.match(r"( +)([\w.]+/?)", line).groups()
        if name.endswith("/"):
            folder = name
        else:
            listed.append(name if len(indent) == 2 else folder + name)
    source = ROOT / "src/transip"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*.py") if path.parent != source / "models"}
    packages = {name for name in files if name.endswith("/__init__.py")}
    assert sorted(listed) == sorted(files - packages)


def test_the_layers_are_those_that_are_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    names = [layer.removeprefix("transip.") for layer in contract["layers"]]
    assert re.findall(r"\w+", section("Layers")) == names
