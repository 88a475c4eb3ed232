"""Writes results/study.md and its figures from benchmarks/study/results: nothing in them is typed by hand."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_pages import exponent, spread
from scipy.stats import t as student

from benchmarks.common.records import read_results
from transip.files import atomic_path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
RESULTS, AVERAGING = BENCHMARKS / "study" / "results.jsonl", BENCHMARKS / "averaging" / "results.jsonl"
PEER = BENCHMARKS / "speedrun" / "results.jsonl"  # eSEN, the strongest peer, of several widths
PAGES = HERE / "results"

Run = dict[str, Any]
Runs = dict[str, dict[int, Run]]  # entry → seed → result

INTRODUCTION = """# The study of learned symmetry

What a loss that teaches symmetry is worth, against every control, on the same forward passes. The task is the
speedrun's: neutral organic molecules of at most 26 atoms with GFN2-xTB energies and forces, errors on 930 structures
of unseen composition. Unless a section says otherwise a run makes 1,000 steps of 16 forward passes on the default
model at size XS, with direct forces and without the angles that convolutions have shown since
(`model.angular_channels: 0`, `model.num_rbf: 32`); second views, and views of structures without labels, count as
passes. The controls are augmentation with one view of 16 structures a step and with two views of 8; where there is a
third, `raw`, structures are never turned.

Mean over seeds ± their standard deviation. A ratio is taken seed by seed, error / error of the control; below 1 is
better than the control. What the sentences say is worked out from the numbers: a ratio of which 1 lies within the 95 %
interval (Student's t, of the seeds) is marked as possibly chance; the lowest of many entries is lower than it would be
again. Seeds are of weights, batches and rotations: which structures are held out, or are the 250, is the same in all.
Errors are those of the last step, whether or not an earlier one was better, on all 930 structures; rotation errors are
of 64 of them. Processor time is not compared, since the runs are of several machines and days. They are of several
states of the source code, too: the same run with a later one differs by up to 1.3 % in forces and 7 % in energy.
"""

TITLES = {  # of the groups, in the order of the page, and what they are
    "objective": ("Objective", "Which loss, at which weight, on how many second views."),
    "plain-backbone": (
        "Plain backbone",
        "The same question without our convolutions and pair forces, on absolute coordinates: the paper's backbone, "
        "with rotated values and a distance bias, without which it does not start to learn forces in this budget.",
    ),
    "paper-comparison": (
        "The paper's own comparison",
        "Equal epochs on the plain backbone: two views of 16 structures a step cost **twice** the passes of one view. "
        "`augment-1-view-twice` is one view of 32: as many passes, twice the epochs.",
    ),
    "paper-backbone": (
        "From the paper's backbone to the plain one",
        "What rotated values and the distance bias are worth to it; one view. Predicting no force at all has an error "
        "of about 1,320 meV/Å.",
    ),
    "few-labels": (
        "Few labels",
        "Part of the training data has labels. `-pool` entries also see the geometries of the rest, two views of each, "
        "for which they learn from half as many labels a step: so does `augment-1-view-half`, one view of 8 "
        "structures and nothing else.",
    ),
    "ingredients": ("Ingredients", "The study's model with one ingredient added, left out or set otherwise; one view."),
    "forces": ("Forces", "Direct, or the gradient of the energy, or that with a penalty on the net torque."),
    "infinitesimal": (
        "Infinitesimal rotations",
        "No second view: embeddings are differentiated along a rotation (forward mode), and a network linear in its "
        "axis predicts that (`benchmarks/study/terms.py`), which takes twice the time of two views. Labels are "
        "learned from 8 structures in one view; so are they in `augment-1-view-half`, which does nothing else.",
    ),
    "data-size": (
        "Data size",
        "The default model as it is now, but with direct forces: two blocks, angles, size XS. 1,000 steps see 8,370 "
        "structures twice and 250 structures sixty times: from 1,000 structures on what limits errors is the number "
        "of steps, and exponents describe this budget, not a law.",
    ),
    "model-size": (
        "Model size",
        "The same model, width 32, 64 (XS), 128 (S) and 192, all with the learning rates of XS.",
    ),
    "long": (
        "Long training on few structures",
        "250 structures, 3,200 steps, width 32, 64 and 128 of the same model: does the validation error rise again, "
        "and what moves it?",
    ),
    "second-backbone": (
        "A second backbone",
        "Plain message passing on displacement vectors (`benchmarks/study/backbone.py`), the same loss and loop.",
    ),
}
CONTROLS = ("augment-1-view", "augment-2-views")
NEVER_TURNED = "raw"  # a control, too, but not one that ratios refer to
HALF = "augment-1-view-half"
TWINS = {  # what an entry would be without its loss
    "fixed-representation": "fixed-representation-no-loss",
    "quarter-second-view": "quarter-second-view-no-loss",
    "atoms-latent-pool": HALF,
    "consistency-pool": HALF,
    "generator-0.05": HALF,
    "generator-0.5": HALF,
}
# What has no loss between views, though ratios do not refer to it.
LOSSLESS = (NEVER_TURNED, "no-pair-forces-2-views", *TWINS.values())
# What ratios refer to, where it is not the controls.
REFERENCES = {
    "ingredients": ("default",),
    "forces": ("direct",),
    "paper-backbone": ("paper",),
    "paper-comparison": (*CONTROLS, "augment-1-view-twice"),
}
SIZES = {  # what WHAT@SIZE varies: the result's field, the axis
    "few-labels": ("train_structures", "labelled structures"),
    "data-size": ("train_structures", "structures"),
    "paper-comparison": ("train_structures", "structures"),
    "model-size": ("parameters", "parameters"),
    "long": ("parameters", "parameters"),
}
FORCES, TURNED = "force_mae_mev_per_angstrom", "force_mae_turned_mev_per_angstrom"
ALONE = ("ingredients", "forces", "paper-backbone")  # groups that are not about losses between views


def write() -> None:
    """Write the page and its figures."""
    groups = read()
    lines = [INTRODUCTION]
    for group, (title, about) in TITLES.items():
        if group in groups:
            lines += [f"## {title}", "", about, "", *section(group, groups[group]), ""]
        if group == "objective" and group in groups:
            lines += [*where_symmetry_lives(groups[group]), ""]
    PAGES.mkdir(exist_ok=True)
    lines += averaging() + distillation()
    (PAGES / "study.md").write_text("\n".join([*lines, *provenance(groups)]) + "\n", encoding="utf-8")


def read() -> dict[str, Runs]:
    """All results: group → entry → seed."""
    groups: dict[str, Runs] = defaultdict(lambda: defaultdict(dict))
    for run in read_results(RESULTS).values():
        groups[run["group"]][run["entry"]][run["seed"]] = run
    return groups


def section(group: str, runs: Runs) -> list[str]:
    """What the numbers say, the table, the figures and the command of one group."""
    lines = [*(f"- {sentence}" for sentence in sentences(group, runs)), "", *table(group, runs), ""]
    for name, drawing in figures(group, runs):
        with matplotlib.rc_context({"svg.hashsalt": name}), atomic_path(PAGES / f"{name}.svg") as partial:
            drawing.savefig(partial, format="svg", metadata={"Date": None})  # the same numbers, the same file
        lines += [f"```{{image}} {name}.svg", "```", ""]
    seeds = sorted({seed for of_entry in runs.values() for seed in of_entry})
    command = f"$ python -m benchmarks.study.run {group} --seeds {' '.join(map(str, seeds))}"
    return [*lines, "```console", command, "```", *(peer() if group == "model-size" else [])]


def peer() -> list[str]:
    """How the strongest peer's error falls with its size."""
    found = [run for name, run in read_results(PEER).items() if re.match(r"esen-w\d+-1000-steps", name)]
    found.sort(key=lambda run: (run["width"], run["seed"]))
    alpha = exponent([run["parameters"] for run in found], [run[FORCES] for run in found])
    return [
        "",
        "### The strongest peer",
        "",
        "eSEN on as many passes, 1,000 steps of 16, direct forces, the energy's weight 8, one rate for all widths, one "
        f"seed. Fitted: force error ∝ (parameters)^{alpha:.2f}. On equal passes it is ahead of ours; a pass costs it "
        "several times as much.",
        "",
        "| eSEN of width | parameters | peak rate | forces, meV/Å | energy, meV/atom |",
        "|---|---|---|---|---|",
        *(
            f"| {run['width']} | {run['parameters']:,} | {run['learning_rate']:g} | {run[FORCES]:.1f} | "
            f"{run['energy_mae_mev_per_atom']:.2f} |"
            for run in found
        ),
        "",
        "```console",
        *(f"$ {run['command']}" for run in found),
        "```",
    ]


def where_symmetry_lives(runs: Runs) -> list[str]:
    """The invariant share of each block, in the end and through training."""
    ends = {entry: np.mean([shares(run["layers"]) for run in of_entry.values()], 0) for entry, of_entry in runs.items()}
    weights = [name for name in ends if re.fullmatch(r"atoms-latent-[\d.]+", name)]
    rising = ", ".join(f"{ends[name][-1]:.2f} at {name.removeprefix('atoms-latent-')}" for name in weights)
    blocks = len(next(iter(ends.values())))
    heads = "".join(f" after block {k} |" for k in range(1, blocks + 1))
    lines = [
        "## Where the symmetry lives",
        "",
        "The invariant share of each block's embeddings in these entries: the part of their variance that survives "
        "averaging over orientations. 1: no direction is left. It is not equivariance: what turns regularly has a "
        "small share, and so has what turns in any other way.",
        "",
        f"- The loss buys symmetry with invariance: the last block's share is {ends['augment-2-views'][-1]:.2f} "
        f"without it (two views) and, by its weight, {rising}. Towards 1 lies its degenerate optimum.",
        "- Without the loss the last block, from which heads read directions, is less invariant than the one halfway.",
        "",
        f"| entry |{heads}",
        "|---|" + "---|" * blocks,
        *(f"| {entry} | {' | '.join(f'{share:.2f}' for share in found)} |" for entry, found in ends.items()),
        "",
        f"| through training | seeds | step |{heads}",
        "|---|---|---|" + "---|" * blocks,
    ]
    for entry in ("augment-1-view", "augment-2-views", "atoms-latent-0.2", "atoms-latent-1"):
        curves = [run["curve"] for run in runs[entry].values() if "invariant_share" in run["curve"]]
        for k, step in enumerate(curves[0]["step"] if curves else []):
            found = np.mean([curve["invariant_share"][k] for curve in curves], 0)
            lines.append(f"| {entry} | {len(curves)} | {step:,} | {' | '.join(f'{share:.2f}' for share in found)} |")
    return lines


def shares(layers: list[dict[str, float]]) -> list[float]:
    return [layer["invariant_share"] for layer in layers]


def averaging() -> list[str]:
    """What the mean over rotations does to the errors of a trained model."""
    found = read_results(AVERAGING)["averaging"]
    alone = found["rows"][0]
    error, turning = alone[FORCES], alone["force_rotation_error_mev_per_angstrom"]
    # An error that turns with the frame and one that does not add in squares.
    floor = np.sqrt(max(error**2 - turning**2, 0.0)) / error
    lines = [
        "## Rotational averaging",
        "",
        f"The model of `{found['command'].split()[-1]}`, trained before convolutions showed angles, averaged over "
        f"rotations, {found['structures']} structures. Its "
        f"own rotation error is {turning / error:.2f} of its force error, so that perfect symmetry can bring the force "
        f"error to about √(1 − {turning / error:.2f}²) = {floor:.3f} of what it is, not further.",
        "",
        "| rotations | forces, meV/Å | × alone | energy, meV/atom | rotation error / force error | passes |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        ratio = row["force_rotation_error_mev_per_angstrom"] / row[FORCES]
        name = "alone" if row["number"] == 1 else f"{row['number']}, {row['rotations']}"
        lines.append(
            f"| {name} | {row[FORCES]:.1f} | {row[FORCES] / error:.3f} | {row['energy_mae_mev_per_atom']:.2f} | "
            f"{ratio:.3f} | {row['forward_passes'] // alone['forward_passes']} |"
        )
    return [*lines, "", "```console", f"$ {found['command']}", "```", ""]


def distillation() -> list[str]:
    """What a model becomes that learns its own mean over rotations."""
    found = read_results(AVERAGING)["distill"]
    steps, seeds = found["steps"], len({row["seed"] for row in found["rows"] if "seed" in row})
    return [
        "## Distilling the average",
        "",
        f"The speedrun's model goes on for {steps:,} steps with an eighth of the learning rates: with the labels, and "
        "with the mean of its own predictions over 12 rotations in their place "
        f"({seeds} seed{'s' if seeds > 1 else ''}).",
        "",
        "| the model, or what it went on with | forces, meV/Å | energy, meV/atom | rotation error, meV/Å |",
        "|---|---|---|---|",
        *(
            f"| {row['way']} | {row[FORCES]:.1f} | {row['energy_mae_mev_per_atom']:.2f} | "
            f"{row['force_rotation_error_mev_per_angstrom']:.1f} |"
            for row in found["rows"]
        ),
        "",
        "```console",
        "$ python -m benchmarks.speedrun.run organics --seeds 1 --set training.compile=true --name=-compiled "
        "--keep runs",
        f"$ {found['command']}",
        "```",
        "",
    ]


def provenance(groups: dict[str, Runs]) -> list[str]:
    """Where the numbers come from."""
    every = [run for runs in groups.values() for of_entry in runs.values() for run in of_entry.values()]
    if not every:
        return ["There are no results yet: `python -m benchmarks.study.run` makes them."]
    hours = sum(run["cpu_seconds"] for run in every if "copied_from" not in run) / 3600
    hardware = " and ".join(sorted({run["hardware"] for run in every}))
    torch = " and ".join(sorted({run["versions"]["torch"] for run in every}))
    return [
        f"{len(every)} runs, {hours:.1f} hours of training on {hardware}, torch {torch}, "
        f"{len({run['source'] for run in every})} states of the source code (`source` in each result). "
        "Tables, sentences and figures: `python docs/generate.py`."
    ]


# ---------------------------------------------------------------------------------------------- numbers


def by_size(runs: Runs) -> dict[str, Runs]:
    """WHAT@SIZE → {SIZE: {WHAT: …}}, sizes ascending; one size "" where entries have none."""
    sizes: dict[str, Runs] = defaultdict(dict)
    for entry, of_entry in runs.items():
        what, _, size = entry.partition("@")
        sizes[size][what] = of_entry
    return dict(sorted(sizes.items(), key=lambda item: int(item[0] or 0)))


def values(of_entry: dict[int, Run], key: str) -> list[float]:
    return [run[key] for run in of_entry.values()]


def ratios(of_entry: dict[int, Run], reference: dict[int, Run], key: str = FORCES) -> list[float]:
    """Force error relative to `reference`, for each seed that both have."""
    return [run[key] / reference[seed][key] for seed, run in of_entry.items() if seed in reference]


def compared(what: str, runs: Runs, reference: str) -> str:
    """`0.91 ± 0.02 × augment-2-views`, and whether that is a difference."""
    found = ratios(runs[what], runs[reference])
    doubt = " (one seed)" if len(found) == 1 else " (possibly chance)" if chance(found) else ""
    return f"{spread(found, 2)} × `{reference}`{doubt}"


def chance(found: Sequence[float]) -> bool:
    """Whether 1 lies within the 95 % interval of the mean of several ratios."""
    return abs(mean(found) - 1) <= student.ppf(0.975, len(found) - 1) * stdev(found) / len(found) ** 0.5


def by_seed(points: Sequence[dict[int, Run]], key: str) -> list[float]:
    """α of force error ∝ `key`^α, for each seed that has every point."""
    seeds = set.intersection(*(set(point) for point in points))
    rows = [[point[seed] for point in points] for seed in sorted(seeds)]
    return [exponent([run[key] for run in row], [run[FORCES] for run in row]) for row in rows]


# ---------------------------------------------------------------------------------------------- text


def sentences(group: str, runs: Runs) -> Iterator[str]:
    """What the numbers of a group say."""
    for size, members in by_size(runs).items():
        references = [name for name in REFERENCES.get(group, CONTROLS) if name in members]
        others = [name for name in members if name not in (*references, *LOSSLESS)]
        if not references or not others:
            continue
        place = f"At {label(group, size, members)}: " if size else ""
        best, least = (min(names, key=lambda name: mean(values(members[name], FORCES))) for names in (others, members))
        lower = "" if least == best else f"; the lowest error of all has `{least}`, without a loss between views"
        of = f"Best of {len(others)}" if len(others) > 1 else "The one entry"
        kind = "Lowest" if group in ALONE else f"{of} with a loss between views"
        yield f"{place}{kind}: `{best}`, {measured(best, members, references)}{lower}."
        yield from without_loss(members)
    yield from incomplete(runs)
    if group == "long":
        yield interpolation(runs)
    if group in SIZES:
        yield from exponents(group, runs)


def interpolation(runs: Runs) -> str:
    """Whether any size is too small to fit what it is trained on, which is where a peak over size would be."""
    fits = []
    for size, members in by_size(runs).items():
        everything = [run for of_entry in members.values() for run in of_entry.values()]
        errors = (mean(run[key] for run in everything) for key in ("train_force_mae_mev_per_angstrom", FORCES))
        fits.append("{:.0f} and {:.0f} at width {}".format(*errors, size))
    rise = max(run[FORCES] / min(run["curve"]["force_mae"]) for of_entry in runs.values() for run in of_entry.values())
    return (
        f"Force errors on training and held-out structures: {', '.join(fits)} meV/Å. No size is too small to fit 250 "
        f"structures, so a peak over sizes, if there is one, lies below these. Over epochs no error ends more than "
        f"{100 * (rise - 1):.0f} % above its lowest: no peak to move, at a learning rate that falls to 1 %."
    )


def without_loss(members: Runs) -> Iterator[str]:
    """What entries are beside the same without their loss, and what never turning is worth."""
    for what, twin in TWINS.items():
        if what in members and twin in members:
            yield f"`{what}`: {compared(what, members, twin)}, which learns from as many labels without the loss."
    if NEVER_TURNED in members:
        never, (turned, *_) = members[NEVER_TURNED], (members[name] for name in CONTROLS)
        found = ratios(never, turned, TURNED)
        yield (
            "Structures come from one program and lie alike, held-out ones, too. Never turning them "
            f"(`{NEVER_TURNED}`): {compared(NEVER_TURNED, members, CONTROLS[0])} as they lie, {spread(found, 2)} × "
            f"{spread(values(turned, TURNED), 1)} meV/Å where each held-out structure is turned at random."
        )


def measured(what: str, members: Runs, references: Sequence[str]) -> str:
    """Its force error, and the ratios to each reference with which it shares a seed."""
    shared = [name for name in references if set(members[what]) & set(members[name])]
    ratios_to = ", ".join(compared(what, members, name) for name in shared)
    return f"{spread(values(members[what], FORCES), 1)} meV/Å, {ratios_to}"


def incomplete(runs: Runs) -> Iterator[str]:
    """Entries that were not run with every seed of the group's command."""
    every = {seed for of_entry in runs.values() for seed in of_entry}
    for entry, of_entry in runs.items():
        if missing := every - set(of_entry):
            plural = "s" if len(missing) > 1 else ""
            yield f"`{entry}` has not been run with seed{plural} {', '.join(map(str, sorted(missing)))}."


def exponents(group: str, runs: Runs) -> Iterator[str]:
    """How fast the errors fall with size, for entries that were run at three sizes or more."""
    key, axis = SIZES[group]
    points: dict[str, list[dict[int, Run]]] = defaultdict(list)
    for members in by_size(runs).values():
        for what, of_entry in members.items():
            points[what].append(of_entry)
    parts = []
    for what, found in points.items():
        if len(found) > 2 and (fitted := by_seed(found, key)):
            steps = (mean(by_seed(pair, key)) for pair in pairwise(found))
            parts.append(f"`{what}` {spread(fitted, 2)} ({', '.join(f'{step:.2f}' for step in steps)})")
    if parts:
        yield f"α of force error ∝ ({axis})^α, fitted (between neighbours): {'; '.join(parts)}."


def label(group: str, size: str, members: Runs) -> str:
    """`250 labelled structures`, `361,044 parameters`."""
    key, axis = SIZES[group]
    of_entry = next(iter(members.values()))
    return f"{next(iter(of_entry.values()))[key]:,} {axis}"


def table(group: str, runs: Runs) -> list[str]:
    """A row per entry, the best of each size first."""
    references = REFERENCES.get(group, CONTROLS)
    heads = ["entry", "seeds", "forces, meV/Å", *(f"× `{name}`" for name in references), "energy, meV/atom"]
    heads += ["force cosine", "rotation error / force error", "passes"]
    rows = [f"| {' | '.join(heads)} |", "|---|" + "---|" * (len(heads) - 1)]
    for size, members in by_size(runs).items():
        for what, of_entry in sorted(members.items(), key=lambda member: mean(values(member[1], FORCES))):
            cells = [f"{what}@{size}" if size else what, str(len(of_entry)), spread(values(of_entry, FORCES), 1)]
            for name in references:
                found = ratios(of_entry, members.get(name, {})) if what != name else []
                cells.append(spread(found, 2) if found else "")
            turning = [run["force_rotation_error_mev_per_angstrom"] / run[FORCES] for run in of_entry.values()]
            cells += [spread(values(of_entry, "energy_mae_mev_per_atom"), 2)]
            cells += [spread(values(of_entry, "force_cosine"), 4), spread(turning, 2)]
            cells += [f"{mean(values(of_entry, 'forward_passes')):,.0f}"]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


# ---------------------------------------------------------------------------------------------- figures


def figures(group: str, runs: Runs) -> Iterator[tuple[str, Figure]]:
    """Name and drawing of each figure of a group."""
    if group in ("few-labels", "paper-comparison", "data-size", "model-size"):
        yield f"study-{group}", against_size(group, runs)
    if group in ("objective", "plain-backbone", "second-backbone"):
        yield f"study-{group}-layers", layer_by_layer(runs)
    if group == "long":
        yield "study-long", curves(runs)


def against_size(group: str, runs: Runs) -> Figure:
    """Force error against size, both logarithmic."""
    key, axis = SIZES[group]
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawing.add_subplot()
    lines: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for members in by_size(runs).values():
        for what, of_entry in members.items():
            errors = values(of_entry, FORCES)
            lines[what].append((mean(values(of_entry, key)), mean(errors), stdev(errors) if len(errors) > 1 else 0.0))
    for what, points in lines.items():
        x, y, deviation = zip(*points, strict=True)
        axes.errorbar(x, y, deviation, fmt=style(what), marker=".", capsize=3, label=what)
    axes.set(xlabel=axis, ylabel="force MAE, meV/Å", xscale="log", yscale="log")
    _finish(axes)
    return drawing


def layer_by_layer(runs: Runs) -> Figure:
    """How invariant each layer is in the end, and the last one through training."""
    drawing = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for axes in (left, right):
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)  # type: ignore[attr-defined]
        axes.grid(alpha=0.3)
    for entry, of_entry in runs.items():
        final = [shares(run["layers"]) for run in of_entry.values()]
        left.plot(range(len(final[0])), np.mean(final, 0), style(entry), marker=".", label=entry)
        through = [run["curve"] for run in of_entry.values() if "invariant_share" in run["curve"]]
        if through:
            last = np.mean([[layers[-1] for layers in curve["invariant_share"]] for curve in through], 0)
            right.plot(through[0]["step"], last, style(entry), marker=".", label=entry)
    left.set(xlabel="block", ylabel="invariant share of the embedding after it", xticks=range(len(final[0])))
    right.set(xlabel="step", ylabel="invariant share, last block")
    drawing.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return drawing


def curves(runs: Runs) -> Figure:
    """Error on training and validation structures against the step, a panel for each size."""
    sizes = by_size(runs)
    drawing = Figure(figsize=(4.2 * len(sizes), 4.5), layout="constrained")
    panels = drawing.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, (size, members) in zip(panels, sizes.items(), strict=True):
        for color, (what, of_entry) in enumerate(members.items()):
            steps = next(iter(of_entry.values()))["curve"]["step"]
            for part, line in (("force_mae", "-"), ("train_force_mae", ":")):
                errors = np.mean([run["curve"][part] for run in of_entry.values()], 0)
                name = what if part == "force_mae" else None
                axes.plot(steps, errors, line, color=f"C{color}", marker=".", label=name)
        axes.set(title=label("long", size, members), xlabel="step (dotted: training structures)", yscale="log")
        _finish(axes)
    panels[0].set_ylabel("force MAE, meV/Å")
    return drawing


def style(what: str) -> str:
    """Controls are dashed."""
    return "--" if what.partition("@")[0] in (*CONTROLS, NEVER_TURNED) else "-"


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
