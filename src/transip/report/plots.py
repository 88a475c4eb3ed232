"""The report's figures as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from transip.evaluation.result import Evaluation
from transip.quantities import FORCE_MAE, ROTATION_ERROR, MetricSpec
from transip.report.runs import Line, Run, with_evaluation

# Okabe and Ito's palette, which colour-blind readers can tell apart. Its green stands for the reference.
PALETTE = ("#0072b2", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
REFERENCE = "#009e73"
# Stand-ins that become CSS colours, so that figures change with the page.
INK, GRID = "#010203", "#040506"
CSS_COLOURS = {INK: "currentColor", GRID: "var(--grid)"} | {c: f"var(--run-{k})" for k, c in enumerate(PALETTE)}
INKED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
THIN = ("axes.linewidth", "grid.linewidth", "xtick.major.width", "ytick.major.width")
STYLE: dict[Any, Any] = {
    **dict.fromkeys(INKED, INK),
    **dict.fromkeys(THIN, 0.7),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of runs and domains may hold a $
    "font.size": 10,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
}
BINS = 8  # of molecule sizes


def colour_of(run: int) -> str:
    """Colour of run number `run`, everywhere on the page."""
    return PALETTE[run % len(PALETTE)]


def learning_curve(runs: Sequence[Run], x: MetricSpec, y: MetricSpec) -> str:
    """A validation metric of every run against steps, time or forward passes; empty if no run has it."""

    def draw(axes: Axes) -> None:
        for k, run in enumerate(runs):
            points = _series(run.validation, x, y)
            if len(points):
                mark = "o" if len(points) <= 30 else ""
                axes.plot(*points.T, **_line_style(k), marker=mark, markersize=6 if len(points) <= 5 else 3.5)
        _curve_axes(axes, x, y)

    return _figure(draw)


def loss_curve(runs: Sequence[Run], x: MetricSpec, y: MetricSpec) -> str:
    """A training loss of every run, a running mean over the raw values; empty if it is 0 throughout."""

    def draw(axes: Axes) -> None:
        for k, run in enumerate(runs):
            points = _series(run.training, x, y)
            if points[:, 1].any():
                axes.plot(*points.T, color=colour_of(k), linewidth=0.6, alpha=0.3)
                axes.plot(points[:, 0], _running_mean(points[:, 1], max(1, len(points) // 25)), **_line_style(k))
        _curve_axes(axes, x, y)

    return _figure(draw)


def parity(
    reference: Float[np.ndarray, "values"], predicted: Float[np.ndarray, "values"], run: int, quantity: str, note: str
) -> str:
    """Predicted against reference values, as the density of points on a logarithmic scale of shades."""

    def draw(axes: Axes) -> None:
        values = np.concatenate([reference, predicted])
        low, high = float(values.min()), float(values.max())
        margin = 0.04 * (high - low) or 1.0
        limits = (low - margin, high + margin)
        shades = [to_rgba(colour_of(run), opacity) for opacity in (0.25, 1)]
        shading = LinearSegmentedColormap.from_list("density", np.array(shades))
        axes.plot(limits, limits, color=INK, linewidth=0.7, alpha=0.6, zorder=1)
        bins = {"gridsize": 55, "bins": "log", "mincnt": 1, "extent": (*limits, *limits)}
        density = axes.hexbin(reference, predicted, cmap=shading, linewidths=0.1, **bins)
        density.set(rasterized=True, zorder=2)
        axes.text(0.04, 0.96, note, transform=axes.transAxes, verticalalignment="top")
        names = {"xlabel": f"Reference {quantity}", "ylabel": f"Predicted {quantity}"}
        axes.set(xlim=limits, ylim=limits, aspect="equal", **names)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))

    return _figure(draw, size=(4.1, 3.9))


def error_by_size(runs: Sequence[Run], y: MetricSpec) -> str:
    """Force or energy error against atoms per molecule, in bins that hold equally many structures."""

    def draw(axes: Axes) -> None:
        for k, evaluation in with_evaluation(runs):
            sizes, values = _binned_by_size(evaluation, y.key)
            axes.plot(sizes, y.factor * values, **_line_style(k), marker="o", markersize=4)
        axes.set(xlabel="Atoms in the molecule", ylabel=y.label, ylim=(0, None))

    return _figure(draw)


def rotation_errors(runs: Sequence[Run]) -> str:
    """Force rotation error (dot) beside the force MAE (ring) of each run."""

    def draw(axes: Axes) -> None:
        for row, run in enumerate(runs):
            mae, rotation = (metric.value(run.metrics) for metric in (FORCE_MAE, ROTATION_ERROR))
            if mae is None or rotation is None:
                continue
            axes.plot([rotation, mae], [row, row], color=colour_of(row), linewidth=1.2, alpha=0.5)
            axes.plot(rotation, row, "o", color=colour_of(row), markersize=8)
            axes.plot(mae, row, "o", color=colour_of(row), markersize=8, fillstyle="none", markeredgewidth=1.6)
        _name_rows(axes, [run.name for run in runs], "● rotation error, ○ MAE (meV/Å)")

    return _figure(draw, size=(4.1, 1.2 + 0.42 * len(runs)))


def layer_profile(runs: Sequence[Run], y: MetricSpec) -> str:
    """Invariant share or latent error of the embedding after each layer, in a row per run if it is known of one
    layer only; empty if no run has it.
    """
    layers = [(k, (evaluation.symmetry or {}).get("layers", ())) for k, evaluation in with_evaluation(runs)]
    profiles = {k: points for k, lines in layers if len(points := _series(lines, MetricSpec("layer", "layer"), y))}
    one_layer = len({layer for points in profiles.values() for layer in points[:, 0]}) == 1

    def draw(axes: Axes) -> None:
        for row, (k, points) in enumerate(profiles.items()):
            if one_layer:
                axes.barh(row, points[0, 1], height=0.5, color=colour_of(k))
            else:
                axes.plot(points[:, 0] + 1, points[:, 1], **_line_style(k), marker="o", markersize=5)
        if one_layer:
            layer = int(next(iter(profiles.values()))[0, 0]) + 1
            _name_rows(axes, [runs[k].name for k in profiles], f"{y.label}, layer {layer}")
        else:
            axes.set(xlabel="Layer", ylabel=y.label, ylim=(0, max(1.0, axes.get_ylim()[1])))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _figure(draw, size=(4.1, 1.2 + 0.42 * len(profiles) if one_layer else 3.0))


def relative_energies(
    numbers: Integer[np.ndarray, "atoms"], counts: Integer[np.ndarray, "structures"], *energies: np.ndarray
) -> list[np.ndarray]:
    """Energies per atom beyond a sum of element energies fitted to the first of `energies` (eV).

    Totals span thousands of eV by composition alone; what is left is what a potential has to learn.
    """
    elements, column = np.unique(numbers, return_inverse=True)
    composition = np.zeros((len(counts), len(elements)))
    np.add.at(composition, (np.repeat(np.arange(len(counts)), counts), column), 1.0)
    fitted = composition @ np.linalg.lstsq(composition, energies[0], rcond=None)[0]
    return [(energy - fitted) / counts for energy in energies]


def force_error_sums(evaluation: Evaluation) -> Float[np.ndarray, "structures"]:
    """Sum of the absolute errors of the force components of each structure, in eV/Å."""
    arrays = evaluation.predictions
    error = np.abs(arrays["forces"].astype(np.float64) - arrays["reference_forces"]).sum(1)
    return np.add.reduceat(error, np.cumsum(arrays["natoms"]) - arrays["natoms"])


def _binned_by_size(evaluation: Evaluation, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean size and error of about equally many structures each; equal sizes stay together."""
    arrays = evaluation.predictions
    sizes = arrays["natoms"]
    if key == FORCE_MAE.key:
        total, weight = force_error_sums(evaluation), 3 * sizes
    else:
        total, weight = np.abs(arrays["energy"] - arrays["reference_energy"]) / sizes, np.ones(len(sizes))
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, BINS + 1)[1:-1]))
    code = np.unique(np.searchsorted(edges, sizes), return_inverse=True)[1]
    structures = np.bincount(code)
    return np.bincount(code, sizes) / structures, np.bincount(code, total) / np.bincount(code, weight)


def _series(lines: Sequence[Line], x: MetricSpec, y: MetricSpec) -> Float[np.ndarray, "points 2"]:
    points = [(line.get(x.key), line.get(y.key)) for line in lines]
    numbers = [pair for pair in points if all(isinstance(value, int | float) for value in pair)]
    return np.array(numbers, dtype=float).reshape(-1, 2) * [x.factor, y.factor]


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the last `width` values, over fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - width, 0)
    return (sums[end] - sums[begin]) / (end - begin)


def _line_style(run: int) -> dict[str, Any]:
    return {"color": colour_of(run), "linestyle": ("-", "--", ":")[run // len(PALETTE) % 3]}


def _curve_axes(axes: Axes, x: MetricSpec, y: MetricSpec) -> None:
    """Name the axes; y is logarithmic with plain numbers, or begins at 0 where all values are much alike."""
    axes.set(xlabel=x.label, ylabel=y.label, xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values) or values.max() < 2 * values.min():  # a zoom would make much of little
        axes.set_ylim(bottom=0, top=1.15 * values.max(initial=1e-9))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    if high / low > 1e4:  # a loss that warms up from nothing would press the rest flat
        low = high / 1e4
        axes.set_ylim(bottom=low)
    subs = (1,) if high / low > 1e3 else (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _name_rows(axes: Axes, names: Sequence[str], quantity: str) -> None:
    """A row for each of `names`, from the top; `quantity` runs from 0 to a little beyond the data."""
    axes.set_yticks(range(len(names)), [name if len(name) <= 28 else f"{name[:27]}…" for name in names])
    right = 1.07 * max(float(axes.dataLim.x1), 1e-9)
    axes.set(xlabel=quantity, xlim=(0.0, right), ylim=(len(names) - 0.5, -0.5))


def _short_number(value: float, _: int | None = None) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _figure(draw: Callable[[Axes], None], size: tuple[float, float] = (4.1, 3.0)) -> str:
    """Let `draw` fill one pair of axes; the SVG, or nothing if it found nothing to show."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=144)
        axes = figure.add_subplot()
        draw(axes)
        if not axes.has_data():
            return ""
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Strip what only a file of its own needs, and let CSS choose the colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and ids must be unique on a page
    head, tail = svg.split(">", 1)
    svg = re.sub(r' (?:width|height|version)="[^"]*"', "", head) + ">" + tail  # the view box stays
    for stand_in, colour in CSS_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg
