"""The README, the tutorial and the how-to guides do what they say: their Python and bash blocks are run in order.

A yaml block that starts with ``# file: NAME`` is written to NAME. ``bash`` blocks hold `transip` commands, which run
in this process; ``console`` and ``sh`` blocks are for machines that a test does not have.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ase.md.md import MolecularDynamics

from commands import call, write_recipe
from toy import write_toy_pack

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    *(path for path in sorted((ROOT / "docs" / "how-to").glob("*.md")) if "```python" in path.read_text("utf-8")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = re.compile(r"[^/]+\.md|docs/(?!results/).*\.md")  # results quote commands as they were run
PATH = re.compile(r"(?<![\w/])((?:recipes|examples|benchmarks|docs)/[\w./-]+\.\w+)")
FILE = re.compile(r"# file: (\S+)\n")
SMALL = ["training.minutes=null", "training.steps=2", "model.width=16", "model.depth=2", "model.heads=2"]
FEW = 20  # structures to label, steps of dynamics


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stands in for those that the pages have trained before."""
    folder = tmp_path_factory.mktemp("docs")
    recipe = write_recipe(folder / "tiny.yaml", write_toy_pack(folder / "tiny.pack", 40))
    assert call("train", recipe, "-o", folder / "run") == 0
    return folder / "run"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_snippets_run(page, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    if "transip train" not in "".join(body for kind, body in BLOCK.findall(text) if kind == "bash"):
        for path in ("demo/model", "runs/latent"):
            shutil.copytree(trained, tmp_path / path)
    run = MolecularDynamics.run
    monkeypatch.setattr(MolecularDynamics, "run", lambda self, steps: run(self, min(steps, FEW)))
    names: dict[str, object] = {}
    ran = 0
    for kind, body in BLOCK.findall(text):
        if kind == "yaml" and (found := FILE.match(body)):
            Path(found[1]).write_text(re.sub(r"structures: \d+", f"structures: {FEW}", body), encoding="utf-8")
        elif kind == "python":
            exec(compile(body, f"{page.name}: {body.splitlines()[0]}", "exec"), names)
            ran += 1
        elif kind == "bash":
            ran += sum(run_command(line) for line in body.splitlines())
    assert ran


def run_command(line: str) -> int:
    """Run `transip …` on a part of what the line asks for; other commands are not run."""
    program, *arguments = shlex.split(line, comments=True) or [""]
    if program != "transip":
        return 0
    if arguments[0] == "train":
        arguments += [part for override in SMALL for part in ("--set", override)]
    elif arguments[0] == "md":
        arguments += ["--steps", str(FEW)]
    assert call(*arguments) == 0, line
    return 1


def test_recipes_and_files_that_are_named_exist():
    """Every path that a page names is in the repository, or is one that a target makes (.gitignore lists those).

    Git is asked what belongs to the repository: the answer is the same on a fresh clone and after `make docs demo`.
    """
    tracked = set(git("ls-files", "--cached", "--others", "--exclude-standard").splitlines())
    pages = {page: (ROOT / page).read_text(encoding="utf-8") for page in tracked if PROSE.fullmatch(page)}
    assert {"README.md", "docs/tutorial.md"} <= pages.keys()
    named = {(page, path) for page, text in pages.items() for path in PATH.findall(text)}
    missing = {(page, path) for page, path in named if path not in tracked}
    generated = set(git("check-ignore", "--", *{path for _, path in missing}).splitlines()) if missing else set()
    assert sorted((page, path) for page, path in missing if path not in generated) == []


def git(*arguments: str) -> str:
    """What git says of this checkout; the test is skipped in a copy without its history."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository's history")
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: none of the paths is ignored
        pytest.fail(done.stderr)
    return done.stdout
