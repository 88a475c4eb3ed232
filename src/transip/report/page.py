"""One HTML page about one or several runs that opens without a network and loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from transip.files import write_text
from transip.quantities import ENERGY_MAE, FORCE_MAE, MINUTES, PASSES, ROTATION_ERROR, STEPS, MetricSpec
from transip.report import plots, tables
from transip.report.runs import Run, evaluated, read_runs
from transip.report.viewer import safe_json, viewer_data
from transip.version import __version__

LOSSES = (
    MetricSpec("loss", "training loss"),
    MetricSpec("energy_loss", "energy loss"),
    MetricSpec("force_loss", "force loss"),
    MetricSpec("stress_loss", "stress loss"),
    MetricSpec("latent_loss", "latent loss"),
    MetricSpec("equigrad_loss", "equigrad loss"),
    MetricSpec("consistency_loss", "consistency loss"),
)
INVARIANT_SHARE = MetricSpec("invariant_share", "invariant share")
LATENT_ERROR = MetricSpec("latent_error", "latent error, relative")
SHOWN_STRUCTURES = 20_000  # at most this many, evenly spaced, make up a parity plot


def write_report(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write a self-contained HTML page that shows `runs` side by side.

    Args:
        runs: run folders; those not evaluated yet are shown as far as their log goes.
        output: the HTML file.

    Returns:
        `output`.

    Raises:
        InputError: a folder is no run, a file in it is corrupt, or `output` cannot be written.
    """
    write_text(output, render(read_runs(runs)))
    return Path(output)


def render(runs: Sequence[Run]) -> str:
    """The page."""
    sections = {
        "summary": ("Summary", _summary(runs)),
        "learning": ("Learning curves", _learning(runs)),
        "parity": ("Predicted against reference", _parity(runs)),
        "domains": ("Errors by domain and size", _domains(runs)),
        "symmetry": ("Learned symmetry", _symmetry(runs)),
        "structures": ("Structures and forces", _viewer(runs)),
        "recipes": ("Recipes", _recipes(runs)),
    }
    shown = {key: (title, body) for key, (title, body) in sections.items() if body}
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    return Template(_asset("report.html")).substitute(
        title=escape(title),
        style=_asset("report.css"),
        version=escape(__version__),
        navigation="".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in shown.items()),
        legend=tables.legend(runs),
        sections="".join(
            f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, (title, body) in shown.items()
        ),
        scripts=_scripts(runs),
    )


def _summary(runs: Sequence[Run]) -> str:
    notes = "".join(f"<li>{remark}</li>" for remark in tables.remarks(runs))
    return (f'<ul class="remarks">{notes}</ul>' if notes else "") + tables.summary_table(runs)


def _learning(runs: Sequence[Run]) -> str:
    tabs = []
    for x in (PASSES, STEPS, MINUTES):
        validation = [plots.learning_curve(runs, x, y) for y in (FORCE_MAE, ENERGY_MAE, ROTATION_ERROR)]
        training = [plots.loss_curve(runs, x, y) for y in LOSSES]
        body = _figures(validation, "Validation") + _figures(training, "Training; thin: every logged step")
        tabs.append((f"against {x.name.lower()}", body))
    return _tabs("axis", tabs) if any(body for _, body in tabs) else ""


def _parity(runs: Sequence[Run]) -> str:
    forces, energies = {}, {}
    for k, evaluation in evaluated(runs):
        shown = plots.thinned(evaluation.predictions, SHOWN_STRUCTURES)
        name, colour = runs[k].name, plots.colour_of(k)
        true, found = shown["reference_forces"].ravel(), shown["forces"].ravel()
        forces[name] = plots.parity(true, found, colour, "force component", "eV/Å")
        totals = shown["reference_energy"], shown["energy"]
        true, found = plots.relative_energies(shown["numbers"], shown["natoms"], *totals)
        energies[name] = plots.parity(true, found, colour, "energy", "eV/atom")
    if not forces:
        return ""
    explanation = (
        "<p>Stronger colour means more points, on a logarithmic scale. Energies are per atom and relative to element "
        "energies fitted to the reference, without which composition would hide every error.</p>"
    )
    return explanation + "".join(
        f'<h3>{title}</h3><div class="figures">{"".join(_captioned(*item) for item in figures.items())}</div>'
        for title, figures in (("Forces", forces), ("Energies", energies))
    )


def _captioned(name: str, figure: str) -> str:
    return f'<figure class="square">{figure}<figcaption>{escape(name)}</figcaption></figure>'


def _domains(runs: Sequence[Run]) -> str:
    domains = [plots.error_by_domain(runs, y) for y in (FORCE_MAE, ENERGY_MAE)]
    sizes = [plots.error_by_size(runs, y) for y in (FORCE_MAE, ENERGY_MAE)]
    table = "".join(tables.domain_table(runs, y) for y in (FORCE_MAE, ENERGY_MAE))
    return _figures(domains, "By chemical domain") + table + _figures(sizes, "By size")


def _symmetry(runs: Sequence[Run]) -> str:
    profiles = [plots.layer_profile(runs, y) for y in (INVARIANT_SHARE, LATENT_ERROR)]
    figures = _figures([plots.rotation_errors(runs), *profiles])
    explanation = (
        "<p>Nothing in the network knows about rotations; it has to learn them. The <b>force rotation error</b> is how "
        "far a force component strays when the molecule is turned and the forces are turned back. Close to the force "
        "MAE, orientation itself is the main error, and averaging over orientations pays; far below it, symmetry "
        "is learned well. The <b>invariant share</b> of a layer is the part of its embeddings’ variance that survives "
        "averaging over orientations: at 1 the embedding carries no direction. The <b>latent error</b> is that of the "
        "learned action, relative to predicting the mean embedding.</p>"
    )
    return explanation + figures if figures else ""


def _viewer(runs: Sequence[Run]) -> str:
    return _asset("viewer.html") if evaluated(runs) else ""


def _recipes(runs: Sequence[Run]) -> str:
    texts = [
        f"<details><summary>{escape(run.name)}</summary><pre>{escape(run.recipe_text)}</pre></details>"
        for run in runs
        if run.recipe_text
    ]
    return tables.differences_table(runs) + "".join(texts)


def _scripts(runs: Sequence[Run]) -> str:
    data = viewer_data(runs)
    if data is None:
        return ""
    return (
        f'<script type="application/json" id="viewer-data">{safe_json(data)}</script>'
        f"<script>{_asset('viewer.js')}</script><script>{_asset('report.js')}</script>"
    )


def _figures(figures: Sequence[str], caption: str = "") -> str:
    """Figures side by side under a caption (HTML); nothing if all are empty."""
    shown = "".join(f"<figure>{figure}</figure>" for figure in figures if figure)
    heading = f"<h3>{caption}</h3>" if caption else ""
    return f'{heading}<div class="figures">{shown}</div>' if shown else ""


def _tabs(name: str, tabs: Sequence[tuple[str, str]]) -> str:
    """Bodies of which one is seen at a time; works without a script."""
    parts = []
    for k, (label, body) in enumerate(tabs):
        checked = " checked" if k == 0 else ""
        parts.append(
            f'<input type="radio" name="{name}" id="{name}-{k}"{checked}><label for="{name}-{k}">{label}</label>'
            f'<div class="tab">{body}</div>'
        )
    return f'<div class="tabs">{"".join(parts)}</div>'


def _asset(name: str) -> str:
    return (files("transip.report") / "assets" / name).read_text(encoding="utf-8")
