"""A small labelled dataset."""

import pytest

from toy_runs import make_dataset
from transip.data.dataset import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "molecules.pack", 40)
