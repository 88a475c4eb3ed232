"""Writes results/models.md: the models in the package, from benchmarks/released and benchmarks/simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.records import read_results

HERE = Path(__file__).parent
PAGES, BENCHMARKS = HERE / "results", HERE.parent / "benchmarks"
SIMULATIONS = BENCHMARKS / "simulation" / "results.jsonl"

Result = dict[str, Any]

INTRODUCTION = """# The models in the package

Trained on GFN2-xTB energies and forces, hence at best as good as GFN2-xTB, on one CPU core; `recipes/gfn2-s.yaml` and
its likes say how, and on which data. They are there to begin with at once, to try programs with, and to be fine-tuned:

```pycon
>>> from transip import TransIPCalculator
>>> atoms.calc = TransIPCalculator("{first}")
```

Which one? For geometries, dynamics and vibrations `transip-s-gfn2`, or `transip-xs-gfn2` where speed counts more.
`transip-s-gfn2-direct` costs half and is closer to GFN2-xTB's forces on metal complexes and electrolytes, but its
forces are no gradient: for single points. All three were trained without the latent loss, on one random orientation a
step.

`transip models` lists them; each has a card, in the package beside its weights, that says what it is not for.
Errors are those on compositions that were held out of training. *Neutral organics at 300 K* were drawn apart from the
training data, less compositions that these have. The cost is that of energies and forces of one molecule in Python on
one core, beside GFN2-xTB's own.
"""
COLUMNS = {
    "structures": ("structures", 1, 0),
    "force MAE, meV/Å": ("force_mae", 1e3, 1),
    "force cosine": ("force_cosine", 1, 3),
    "energy MAE, meV/atom": ("energy_mae_per_atom", 1e3, 2),
}


def write() -> None:
    """Write the page."""
    PAGES.mkdir(exist_ok=True)
    models = list(read_results(BENCHMARKS / "released" / "results.jsonl").values())
    if not models:
        (PAGES / "models.md").write_text("# The models in the package\n\nThere is none yet.\n", encoding="utf-8")
        return
    lines = [INTRODUCTION.format(first=models[0]["model"])]
    for model in models:
        lines += section(model)
    lines += conservation() + vibrations()
    (PAGES / "models.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def section(model: Result) -> list[str]:
    """What was measured of one model."""
    cost, training = model["cost"], model["training"]
    turned = [f"{1e3 * found['force_rotation_error']:.1f} meV/Å ({name})" for name, found in model["symmetry"].items()]
    return [
        f"## {model['model']}",
        "",
        f"{model['parameters']:,} parameters, {model['megabytes']:.1f} MB; {model['elements']} elements, "
        f"{model['train_structures']:,} training structures, {training['step']:,} steps, "
        f"{training['forward_passes']:,.0f} forward passes. Forces change by {', '.join(turned)} when a molecule is "
        f"turned. A molecule of {cost['atoms']} atoms takes {cost['one_milliseconds']:.1f} ms, "
        f"{cost['one_of_64_milliseconds']:.2f} ms as one of 64, and {cost['gfn2_milliseconds']:.0f} ms with GFN2-xTB.",
        "",
        f"| domain | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
        *(f"| {name} | {' | '.join(cells(metrics))} |" for name, metrics in model["domains"].items()),
        "",
        "```console",
        f"$ {model['command']}",
        "```",
        "",
    ]


def cells(metrics: Result) -> list[str]:
    return [f"{metrics[key] * factor:,.{digits}f}" for key, factor, digits in COLUMNS.values()]


def conservation() -> list[str]:
    """Dynamics at constant energy."""
    found = [result for name, result in read_results(SIMULATIONS).items() if name.startswith("conservation/")]
    rows = [
        f"| {Path(row['model']).name} | {row['forces']} | {row['picoseconds']:g} | {row['broken']} of "
        f"{len(row['molecules'])} | {number(row['mean_drift_mev_per_atom_per_ps'])} | "
        f"{number(row['largest_drift_mev_per_atom_per_ps'])} | {row['steps_per_second']:.0f} |"
        for row in found
    ]
    return [
        "## Conservation of energy",
        "",
        "Molecules of unseen composition, relaxed, at "
        f"{found[0]['temperature_k']:g} K and constant energy, in steps of "
        f"{found[0]['timestep_fs']:g} fs, those of like size as one batch. Broken: a bond longer than 1.5 times its "
        "relaxed length.",
        "",
        "| model | forces | ps | broken | mean drift, meV/atom/ps | largest | steps/s |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "```console",
        *(f"$ {row['command']}" for row in found),
        "```",
        "",
    ]


def vibrations() -> list[str]:
    """Frequencies against those of GFN2-xTB."""
    found = read_results(SIMULATIONS)["vibrations"]
    return [
        "## Vibrations",
        "",
        f"Frequencies of {len(found['molecules'])} molecules of unseen composition, each method at its own minimum: "
        f"mean absolute difference from GFN2-xTB {found['frequency_mae_cm-1']:.0f} cm⁻¹, of zero-point energies "
        f"{found['zero_point_energy_mae_mev']:.0f} meV ({Path(found['model']).name}, {found['forces']} forces).",
        "",
        "```console",
        f"$ {found['command']}",
        "```",
        "",
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
