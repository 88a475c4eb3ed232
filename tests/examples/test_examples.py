"""The numbered examples run, at a small size; those of simulation programs are run by tests/engines."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
ARGUMENTS = {"06_screen_and_relax_conformers": ["4"]}


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSIP_SHORT", "1")
    monkeypatch.setattr(sys, "argv", [path.name, *ARGUMENTS.get(path.stem, [])])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_explains_itself(path):
    text = path.read_text(encoding="utf-8")
    title, underline = text.splitlines()[1:3]
    assert len(title) == len(underline) and set(underline) == {"="}
    assert len(re.findall(r"^# %%$", text, re.MULTILINE)) >= 3
