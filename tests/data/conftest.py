"""Sixty molecules, and the two packs that hold them."""

import pytest
from random_molecules import real

from transip.data.store import write_pack


@pytest.fixture(scope="module")
def structures():
    return real(60)


@pytest.fixture(scope="module")
def paths(structures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    parts = {"a": structures[:35], "b": structures[35:]}
    for name, part in parts.items():
        write_pack(folder / f"{name}.pack", part, level_of_theory="test")
    return [str(folder / f"{name}.pack") for name in parts]
