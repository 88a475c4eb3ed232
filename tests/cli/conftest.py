"""What the tests of the command line share: a trained run and a file of structures."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import call, write_recipe
from toy import write_toy_pack


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty labelled structures of ten compositions."""
    return write_toy_pack(tmp_path_factory.mktemp("data") / "tiny.pack", 40)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Path:
    """A finished training run; tests must not write into it."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder / "tiny.yaml", tiny_pack)
    assert call("train", recipe, "-o", folder / "tiny") == 0
    return folder / "tiny"


@pytest.fixture
def water(tmp_path: Path) -> Path:
    """Two frames of water."""
    frame = (
        '3\nProperties=species:S:1:pos:R:3 charge=0 spin=1 source=w{0} pbc="F F F"\n'
        "O 0.0 0.0 0.12\nH 0.0 0.76 -0.48\nH 0.0 -0.76 -0.4{0}\n"
    )
    path = tmp_path / "water.extxyz"
    path.write_text(frame.format(7) + frame.format(8), encoding="utf-8")
    return path
