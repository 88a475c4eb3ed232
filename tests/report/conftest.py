"""A small labelled dataset and runs on it."""

from pathlib import Path

import pytest

from toy_runs import make_dataset, make_run
from transip.data.dataset import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "molecules.pack", 40)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> list[Path]:
    """The method, its two-view control, and a run that has not been evaluated yet."""
    folder = tmp_path_factory.mktemp("runs")
    latent = {"views": 2, "latent": {"weight": 1.0}}
    return [
        make_run(folder / "latent", dataset, 0.08, latent),
        make_run(folder / "two-views", dataset, 0.1, {"views": 2}),
        make_run(folder / "one-view-unfinished", None, 0.12, {}, passes=12),
    ]
