"""What tests of whole commands need: labelled molecules that cost nothing, a one-second recipe, the command itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.calculators.emt import EMT

from transip.cli import main
from transip.data.store import write_pack
from transip.structure import Structure

NAMES = ("H2O", "NH3", "CH4", "CH3OH", "C2H6", "HCN", "C2H4", "H2CO", "C2H2", "CO2")  # closed shells


def labelled(count: int, seed: int = 0) -> Iterator[Structure]:
    """Rattled molecules of ten compositions in two domains; the level of theory is ASE's EMT."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        name = NAMES[i % len(NAMES)]
        atoms = molecule(name)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = EMT()
        yield Structure(
            numbers=atoms.numbers.astype(np.int64),
            positions=atoms.positions,
            charge=0,
            spin=1,
            energy=float(atoms.get_potential_energy()),
            forces=atoms.get_forces(),
            domain=("neutral_organics", "reactivity")[i % 2],
            source=f"{name}/{i}",
        )


def write_tiny_pack(path: Path) -> Path:
    """Pack forty labelled structures."""
    write_pack(path, labelled(40), level_of_theory="EMT")
    return path


def write_recipe(path: Path, pack: Path, **changes: object) -> Path:
    """A recipe of four steps for a model of a few thousand parameters, with the latent loss."""
    recipe = {
        "name": "tiny",
        "data": {"train": [str(pack)], "validation_fraction": 0.2},
        "model": {"width": 16, "depth": 2, "heads": 2},
        "objective": {"views": 2, "latent": {"weight": 1.0, "hidden": 8}},
        "training": {
            "steps": 4,
            "batch": {"batch_size": 4},
            "evaluate_every": 2,
            "checkpoint_every": 2,
            "log_every": 1,
        },
    }
    path.write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    return path


def call(*arguments: object) -> int:
    """Run `transip ARGUMENTS` in this process; returns the exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)
