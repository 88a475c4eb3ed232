"""Random molecules and small random models, the material of most tests."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import write_toy_pack, write_toy_pool
from transip.config import ModelSettings
from transip.model.potential import Potential
from transip.structure import Structure

MakeStructure = Callable[..., Structure]
MakeModel = Callable[..., Potential]


@pytest.fixture(scope="session")
def make_structure() -> MakeStructure:
    """A molecule of `atoms` atoms: positions from a random walk with steps of 1 to 1.5 Å, no two closer than 0.8 Å."""

    def build(atoms: int, seed: int = 0, charge: int = 0, **fields: object) -> Structure:
        generator = np.random.default_rng((atoms, seed))
        positions = [np.zeros(3)]
        while len(positions) < atoms:
            step = generator.normal(size=3)
            place = positions[generator.integers(len(positions))] + step / np.linalg.norm(step) * generator.uniform(
                1, 1.5
            )
            if min(np.linalg.norm(place - other) for other in positions) > 0.8:
                positions.append(place)
        numbers = generator.choice([1, 6, 7, 8, 16], size=atoms)
        spin = 1 + int(numbers.sum() - charge) % 2
        return Structure(numbers.astype(np.int64), np.array(positions), charge, fields.pop("spin", spin), **fields)

    return build


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A model as wide as size XS and twice as deep, random weights also where training starts from zero; cached."""

    @cache
    def build(
        preset: str = "default",
        forces: str = "direct",
        dtype: torch.dtype = torch.float64,
        scale: float = 1.0,
        seed: int = 0,
        cutoff: float | None = None,
    ) -> Potential:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            references = -1000 * torch.arange(87, dtype=torch.float64)
            given = {"preset": preset, "size": "XS", "depth": 4, "forces": forces, "cutoff": cutoff}
            settings = ModelSettings.model_validate(given)
            charge_spin_references = torch.tensor([9.0, 2.5, 3.0], dtype=torch.float64)
            model = Potential(settings, references, scale, charge_spin_references=charge_spin_references)
            for parameter in model.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
        return model.to(dtype).eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def charged_model() -> Potential:
    """A random model with gradient forces, charges, spin populations and dipoles."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = ModelSettings(size="XS", forces="conservative", cutoff=5.0, charges="output")
        model = Potential(settings, torch.zeros(87, dtype=torch.float64), 0.1)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def toy_packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Labelled packs (training, validation) with an analytic pair potential; see `toy.py`."""
    folder = tmp_path_factory.mktemp("toy")
    return write_toy_pack(folder / "train.pack", 43), write_toy_pack(folder / "validation.pack", 12, seed=1)


@pytest.fixture(scope="session")
def toy_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of 18 unlabelled molecules whose compositions are in neither of `toy_packs`."""
    return write_toy_pool(tmp_path_factory.mktemp("pool") / "pool.pack", 18)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are fastest on one thread, and sums then have one order."""
    torch.set_num_threads(1)
