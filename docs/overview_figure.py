"""Draws docs/images/overview.png, the figure of the README: `python docs/overview_figure.py`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from tblite.ase import TBLite

from transip import TransIPCalculator

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "speedrun" / "results.jsonl"
RUNS = {
    "transip": ("organics-compiled-seed", "C0"),
    "eSEN": ("esen-seed", "C1"),
    "PaiNN": ("painn-64-features-seed", "C2"),
}


def draw_learning_curves(axes: Axes) -> None:
    """Force error on unseen molecules against minutes of training, one line for each seed."""
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for name, (prefix, colour) in RUNS.items():
        for number, run in enumerate(run for run in records if run["name"].startswith(prefix)):
            seconds, errors = zip(*run["curve"], strict=True)
            axes.plot(np.array(seconds) / 60, errors, "-", color=colour, label=None if number else name, lw=1.5)
            # During training the baselines are measured on a part of the held-out structures, at the end on all.
            axes.plot(run["budget_minutes"], run["force_mae_mev_per_angstrom"], "o", color=colour, ms=5)
    axes.set(xlabel="minutes of training on one CPU core", ylabel="force MAE on unseen molecules, meV/Å", yscale="log")
    axes.set_yticks([50, 70, 100, 150, 200], labels=["50", "70", "100", "150", "200"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_forces(axes: Axes) -> None:
    """Predicted forces on a distorted molecule as arrows, those of GFN2-xTB as wider ones below."""
    atoms = molecule("C5H5N")
    atoms.rattle(0.03, seed=0)
    atoms.info |= {"charge": 0, "spin": 1}
    forces = {}
    for name, calculator in (
        ("GFN2-xTB", TBLite(method="GFN2-xTB", verbosity=0)),
        ("transip-s-gfn2", TransIPCalculator("transip-s-gfn2")),
    ):
        atoms.calc = calculator
        forces[name] = atoms.get_forces()
    x, y = atoms.positions[:, 1], atoms.positions[:, 2]
    for i in range(len(atoms)):
        for j in range(i):
            if atoms.get_distance(i, j) < 1.25 * covalent_radii[atoms.numbers[[i, j]]].sum():
                axes.plot(x[[i, j]], y[[i, j]], color="0.6", lw=5, zorder=1, solid_capstyle="round")
    sizes = 900 * covalent_radii[atoms.numbers]
    axes.scatter(x, y, sizes, jmol_colors[atoms.numbers], edgecolors="0.3", zorder=2)
    for (name, force), colour, width in zip(forces.items(), ("0.55", "C3"), (0.02, 0.008), strict=True):
        arrows = dict(angles="xy", scale_units="xy", scale=3.0, color=colour, width=width, zorder=3)
        axes.quiver(x, y, force[:, 1], force[:, 2], label=name, **arrows)
    error = 1000 * np.abs(forces["transip-s-gfn2"] - forces["GFN2-xTB"]).mean()
    axes.set_title(f"pyridine, distorted: force MAE {error:.0f} meV/Å", fontsize=10)
    axes.legend(frameon=False, loc="lower right")
    axes.set_aspect("equal")
    axes.margins(0.3)
    axes.axis("off")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(1.15, 1))
    draw_learning_curves(left)
    draw_forces(right)
    figure.tight_layout()
    target = ROOT / "docs" / "images" / "overview.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=130)
