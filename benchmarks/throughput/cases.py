"""The structures that are timed: molecules of 20 atoms, and clusters of them."""

from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from transip.data.dataset import Dataset
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


def export() -> None:
    """Write `FILE`: 64 organic molecules of 20 atoms, one of them alone, clusters of 200 and 1,000 atoms."""
    data = Dataset.open(["data/organics.pack"])
    alike = [data[int(i)] for i in np.flatnonzero(data.atom_counts == 20)[:64]]
    chosen = {
        "batch64x20": alike,
        "single20": alike[:1],
        "single200": [cluster(alike, 200)],
        "single1000": [cluster(alike, 1000)],
        "train": alike[:16],
    }
    arrays: dict[str, np.ndarray] = {}
    for case, structures in chosen.items():
        arrays[f"{case}_numbers"] = np.concatenate([s.numbers for s in structures])
        arrays[f"{case}_positions"] = np.concatenate([s.positions for s in structures])
        arrays[f"{case}_counts"] = np.array([len(s) for s in structures])
    np.savez(FILE, **arrays)


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


def structures_of(case: str, atoms: int = 0) -> list[Structure]:
    """The structures of a case; of `growth`, one cluster of `atoms` atoms."""
    if case == "growth":
        return [cluster(structures_of("batch64x20"), atoms)]
    arrays, case = np.load(FILE), SAME.get(case, case)
    counts = arrays[f"{case}_counts"]
    numbers, positions = (np.split(arrays[f"{case}_{name}"], counts.cumsum()[:-1]) for name in ("numbers", "positions"))
    return [neutral(z, x) for z, x in zip(numbers, positions, strict=True)]


def neutral(numbers: np.ndarray, positions: np.ndarray) -> Structure:
    """A structure without charge, in a singlet if it can be one."""
    return Structure(numbers, positions, 0, 1 + int(numbers.sum()) % 2)
