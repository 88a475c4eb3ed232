"""Writes the table of how-to/periodic.md from benchmarks/periodic/results: none of its figures is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.records import read_results

HERE = Path(__file__).parent
PAGES, RESULT = HERE / "results", HERE.parent / "benchmarks" / "periodic" / "results.jsonl"

Result = dict[str, Any]


def write() -> None:
    """Write results/periodic-water.txt, which the page includes."""
    PAGES.mkdir(exist_ok=True)
    lines = table(read_results(RESULT)["water"])
    (PAGES / "periodic-water.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def table(found: Result) -> list[str]:
    """Errors, energy conservation and price."""
    errors, spread, seconds, runs = (found[name] for name in ("metrics", "spread_of_labels", "seconds_per_box", "nve"))
    drifts = [abs(run["drift_mev_per_atom_per_ps"]) for run in runs]
    kelvins = [run["mean_temperature_k"] for run in runs]
    broken = sum(run["broken"] for run in runs)
    return [
        f"| {found['boxes']} boxes, of a number of molecules not trained on | model | mean of all labels |",
        "|---|---|---|",
        row("energy MAE, meV/atom", 1e3 * errors["energy_mae_per_atom"], 1e3 * spread["energy_mae_per_atom"], 2),
        row("force MAE, meV/Å", 1e3 * errors["force_mae"], 1e3 * spread["force_mae"], 1),
        row("stress MAE, GPa", errors["stress_mae_gpa"], spread["stress_mae_gpa"], 3),
        f"| force rotation error, meV/Å | {1e3 * found['symmetry']['force_rotation_error']:.1f} | |",
        "",
        f"{found['parameters']:,} parameters, {found['training']['step']:,} steps. One box of {seconds['atoms']} atoms "
        f"takes {1e3 * seconds['transip']:.0f} ms with stress, with GFN2-xTB {1e3 * seconds['gfn2-xtb']:,.0f} ms. At "
        f"constant energy, {runs[0]['picoseconds']:g} ps at {min(kelvins):.0f} to {max(kelvins):.0f} K, {broken} of "
        f"{len(runs)} boxes broke a bond; the energy drifted by {max(drifts):.2g} meV/atom/ps at most.",
        "",
        f"`{found['command']}`; transip {found['versions']['transip']}, torch {found['versions']['torch']}, "
        f"{found['hardware']}.",
    ]


def row(name: str, found: float, mean: float, digits: int) -> str:
    return f"| {name} | {found:.{digits}f} | {mean:.{digits}f} |"
