"""A toy world: shaken molecules in fixed orientations, labelled with an analytic pair potential, and runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.build
import numpy as np

from transip import config
from transip.config import Recipe
from transip.data.store import write_pack
from transip.structure import Structure

MOLECULES = ("H2O", "CH4", "NH3", "CH3OH", "HCN", "C2H4", "CO2", "CH3SH", "H2CO", "C2H2")
OTHERS = ("C2H6", "CH3CH2OH", "H2O2", "N2H4", "HCOOH", "SH2")  # of other compositions
# As small as a model can be and still have every part twice; direct forces are learned in half the time.
TINY = {"width": 32, "depth": 2, "heads": 4, "forces": "direct"}
TIMES = {"time_s", "atoms_per_second", "memory_mb"}  # what two equal runs may differ in


def pair_energy(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/Å) of Morse bonds between all atoms, deeper and longer for heavier pairs."""
    separation = positions[:, None] - positions[None]
    distance = np.linalg.norm(separation, axis=-1) + np.eye(len(positions))
    size = np.log1p(numbers)
    depth = 0.4 * size[:, None] * size[None] * (1 - np.eye(len(numbers)))
    decay = np.exp(-1.5 * (distance - 0.35 * (size[:, None] + size[None])))
    energy = 0.5 * (depth * ((1 - decay) ** 2 - 1)).sum()
    slope = depth * 3 * (1 - decay) * decay / distance
    return float(energy), -(slope[..., None] * separation).sum(1)


def toy_structure(number: int, seed: int = 0, kinds: int = len(MOLECULES)) -> Structure:
    """Molecule `number` of an endless row of `kinds` different ones, every seventh of them a cation."""
    generator = np.random.default_rng((seed, number))
    atoms = ase.build.molecule(MOLECULES[number % kinds])
    positions = atoms.positions + generator.normal(scale=0.08, size=(len(atoms), 3))
    charge = int(number % 7 == 6)
    energy, forces = pair_energy(atoms.numbers, positions)
    return Structure(
        numbers=atoms.numbers.astype(np.int64),
        positions=positions,
        charge=charge,
        spin=1 + charge,
        energy=energy + 3.0 * charge - 13.6 * float(atoms.numbers.sum()),
        forces=forces,
        domain=("neutral_organics", "elytes")[charge],
        source=f"toy-{number}",
    )


def toy_crystal(number: int) -> Structure:
    """Cell `number` of two shaken molecules in a skewed box, of which every third is open along one direction.

    The labels are numbers and no more: nothing has been calculated.
    """
    generator = np.random.default_rng((7, number))
    one, other = toy_structure(number % 6), toy_structure(number % 5)
    cell = 4.5 * np.diag([1.0, 1.1, 2.0]) + generator.uniform(-0.3, 0.3, size=(3, 3))
    open_end = number % 3 == 2
    return Structure(
        numbers=np.concatenate([one.numbers, other.numbers]),
        positions=np.concatenate([one.positions, other.positions + cell[2] / 2]),
        charge=one.charge + other.charge,
        spin=one.spin,
        energy=-13.6 * float(one.numbers.sum() + other.numbers.sum()),
        forces=generator.normal(size=(len(one) + len(other), 3)),
        cell=cell * np.array([[1.0], [1.0], [0.0 if open_end else 1.0]]),
        stress=None if open_end else 0.01 * (cell + cell.T),
        domain="crystals",
        source=f"crystal-{number}",
    )


def write_toy_pack(path: Path, structures: int, seed: int = 0, kinds: int = len(MOLECULES)) -> Path:
    """A pack of `structures` toy structures."""
    write_pack(path, [toy_structure(i, seed, kinds) for i in range(structures)], level_of_theory="toy pairs")
    return path


def write_toy_pool(path: Path, structures: int) -> Path:
    """A pack of unlabelled shaken molecules of other compositions."""
    generator, pool = np.random.default_rng(5), []
    for i in range(structures):
        atoms = ase.build.molecule(OTHERS[i % len(OTHERS)])
        positions = atoms.positions + generator.normal(scale=0.08, size=(len(atoms), 3))
        pool.append(Structure(atoms.numbers.astype(np.int64), positions, 0, 1, source=f"pool-{i}"))
    write_pack(path, pool, level_of_theory="none")
    return path


def toy_settings(packs: tuple[Path, Path], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a quick run; `changes` are written as for `--set`: ``{"training.steps": 5}``."""
    settings: dict[str, Any] = {
        "name": "toy",
        "data": {"train": [str(packs[0])], "validation": [str(packs[1])]},
        "model": dict(TINY),
        "training": {
            "batch": {"batch_size": 8, "bucket_window": 1},
            "evaluate_every": 5,
            "checkpoint_every": 5,
            "log_every": 1,
        },
    }
    for path, value in {"training.steps": 10, **changes}.items():
        *parents, last = path.split(".")
        group = settings
        for parent in parents:
            group = group.setdefault(parent, {})
        group[last] = value
    return settings


def toy_recipe(packs: tuple[Path, Path], changes: dict[str, Any] | None = None) -> Recipe:
    """`toy_settings` as a recipe."""
    return config.parse(Recipe, toy_settings(packs, changes or {}), "toy")


def read_metrics(folder: Path, kind: str = "", *, without: set[str] = TIMES) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of one kind (all: ""), without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    chosen = [line for line in lines if kind in ("", line["kind"])]
    return [{key: value for key, value in line.items() if key not in without} for line in chosen]
