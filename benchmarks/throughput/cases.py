"""The structures that are timed: molecules of 20 atoms, clusters of them, and liquid water of up to 20,000 atoms."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase.units import kg, m
from scipy.spatial import KDTree

from transip.config.labels import DomainSettings
from transip.data.dataset import Dataset
from transip.labels.liquids import MOLECULE_MASS, water_box
from transip.structure import Structure

FILE = Path("data/throughput.npz")
CASES = ("batch64x20", "single20", "single200", "single1000", "train", "train64", "train-bf16", "train64-bf16")
SAME = {  # cases with the structures of another
    "train64": "batch64x20",
    "train-bf16": "train",
    "train64-bf16": "batch64x20",
    "calculator20": "single20",
}
CONTACT = 2.5  # Å, at least, between the atoms of two molecules of a cluster

MOLECULES, DENSITY, TEMPERATURE = 42, 997.0, 300.0  # of a small periodic box of water; kg/m³; K
REPEATS = {1000: (2, 2, 2), 2000: (2, 2, 4), 5000: (2, 4, 5), 10000: (4, 4, 5), 20000: (4, 5, 8)}  # atoms, about
SHAPES = ("liquid", "droplet")  # a periodic box, and a ball of the same liquid in vacuum
LIQUIDS = tuple(f"{shape}{atoms}" for atoms in REPEATS for shape in SHAPES)


def export() -> None:
    """Write `FILE`: 64 organic molecules of 20 atoms, one of them alone, clusters of 200 and 1,000 atoms, `LIQUIDS`."""
    data = Dataset.open(["data/organics.pack"])
    alike = [data[int(i)] for i in np.flatnonzero(data.atom_counts == 20)[:64]]
    chosen = {
        "batch64x20": alike,
        "single20": alike[:1],
        "single200": [cluster(alike, 200)],
        "single1000": [cluster(alike, 1000)],
        "train": alike[:16],
    }
    save(FILE, chosen | {case: [structure] for case, structure in liquids().items()})


def save(file: Path, cases: Mapping[str, list[Structure]]) -> None:
    """Write structures as `structures_of` and the peers read them."""
    arrays: dict[str, np.ndarray] = {}
    for case, structures in cases.items():
        arrays[f"{case}_numbers"] = np.concatenate([s.numbers for s in structures])
        arrays[f"{case}_positions"] = np.concatenate([s.positions for s in structures])
        arrays[f"{case}_counts"] = np.array([len(s) for s in structures])
        if structures[0].cell is not None:
            arrays[f"{case}_cell"] = structures[0].cell
    np.savez(file, **arrays)


def cluster(molecules: list[Structure], atoms: int) -> Structure:
    """Molecules of 20 atoms packed into a ball, each as near to its middle as there is room; the last one cut off."""
    copies = -(-atoms // 20)
    reach = int(4 + 1.75 * (20 * copies) ** (1 / 3))  # Å; the balls have a radius of 1.55 cbrt(atoms)
    grid = np.stack(np.meshgrid(*3 * [np.arange(-reach, reach + 1.0)], indexing="ij"), -1).reshape(-1, 3)
    places = iter(grid[np.argsort((grid**2).sum(1), kind="stable")])
    chosen = [molecules[k % len(molecules)] for k in range(copies)]
    placed = np.empty((0, 3))
    for molecule in chosen:
        there = KDTree(placed)
        shape = molecule.positions - molecule.positions.mean(0)
        at = next(place for place in places if there.query(shape + place)[0].min() > CONTACT)
        placed = np.concatenate([placed, shape + at])
    return neutral(np.concatenate([m.numbers for m in chosen])[:atoms], placed[:atoms])


def liquids() -> dict[str, Structure]:
    """Water at 300 K, mixed in a small box by molecular dynamics and repeated: `LIQUIDS`, name → structure."""
    rng = np.random.default_rng(0)
    cell = np.eye(3) * np.cbrt(MOLECULES * MOLECULE_MASS / (DENSITY * kg / m**3))
    settings = DomainSettings(domain="liquids", structures=1, conformers=1, temperatures=(TEMPERATURE,))
    small = next(water_box(MOLECULES, cell, rng).geometries(settings, rng))
    found: dict[str, Structure] = {}
    for atoms, repeats in REPEATS.items():
        found[f"liquid{atoms}"] = repeated(small, repeats)
        width = 2 * np.cbrt(3 / (4 * np.pi) * atoms * np.linalg.det(cell) / len(small))  # Å, of the ball
        around = repeated(small, 3 * (int(np.ceil(width / cell[0, 0])) + 1,))
        molecules = around.positions.reshape(-1, 3, 3)
        distances = np.linalg.norm(molecules[:, 0] - molecules[:, 0].mean(0), axis=1)
        nearest = np.sort(np.argsort(distances, kind="stable")[: atoms // 3])
        found[f"droplet{atoms}"] = neutral(np.tile([8, 1, 1], len(nearest)), molecules[nearest].reshape(-1, 3))
    return found


def repeated(box: Structure, repeats: tuple[int, int, int]) -> Structure:
    """So many copies of a periodic box along each of its lattice vectors, as one box."""
    assert box.cell is not None
    steps = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (box.positions + steps @ box.cell).reshape(-1, 3)
    return neutral(np.tile(box.numbers, len(steps)), positions, box.cell * np.array(repeats)[:, None])


def structures_of(case: str) -> list[Structure]:
    """The structures of a case."""
    arrays, case = np.load(FILE), SAME.get(case, case)
    counts = arrays[f"{case}_counts"]
    numbers, positions = (np.split(arrays[f"{case}_{name}"], counts.cumsum()[:-1]) for name in ("numbers", "positions"))
    cell = arrays.get(f"{case}_cell")
    return [neutral(z, x, cell) for z, x in zip(numbers, positions, strict=True)]


def neutral(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None = None) -> Structure:
    """A structure without charge, in a singlet if it can be one."""
    return Structure(numbers, positions, 0, 1 + int(numbers.sum()) % 2, cell=cell)
