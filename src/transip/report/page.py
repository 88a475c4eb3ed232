"""One HTML page about one or several runs that opens without a network and loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from transip.files import write_text
from transip.quantities import (
    CHARGE_MAE,
    DIPOLE_MAE,
    ENERGY_MAE,
    FORCE_MAE,
    MINUTES,
    PASSES,
    ROTATION_ERROR,
    STEPS,
    MetricSpec,
)
from transip.report import plots, tables
from transip.report.runs import Run, read_runs, with_evaluation
from transip.report.viewer import safe_json, viewer_data
from transip.version import __version__

INVARIANT_FRACTION = MetricSpec("invariant_share", "invariant share")
LATENT_ERROR = MetricSpec("latent_error", "latent error, relative")


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
        "structures": ("Structures and forces", _asset("viewer.html") if with_evaluation(runs) else ""),
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
    notes = "".join(f"<li>{escape(sentence)}</li>" for sentence in tables.caveats(runs))
    caveats = f'<ul class="caveats">{notes}</ul>' if notes else ""
    scale = "".join(f"<p>{escape(tables.scale_of_errors(first))}</p>" for _, first in with_evaluation(runs)[:1])
    return caveats + tables.html_table(runs, tables.summary(runs)) + scale


def _learning(runs: Sequence[Run]) -> str:
    keys = dict.fromkeys(key for run in runs for line in run.training for key in line)
    losses = [MetricSpec(key, key.replace("_", " ")) for key in keys if key == "loss" or key.endswith("_loss")]
    tabs = []
    for x in (PASSES, STEPS, MINUTES):
        validation = [plots.learning_curve(runs, x, y) for y in (FORCE_MAE, ENERGY_MAE, ROTATION_ERROR)]
        training = [plots.loss_curve(runs, x, y) for y in losses]
        body = _figures(validation, "Validation") + _figures(training, "Training; thin: every logged step")
        tabs.append((f"against {x.name}", body))
    return _tabs("axis", tabs) if any(body for _, body in tabs) else ""


def _parity(runs: Sequence[Run]) -> str:
    forces, energies = [], []
    for k, evaluation in with_evaluation(runs):
        arrays, note = evaluation.predictions, f"MAE {FORCE_MAE.with_unit(evaluation.overall)}"
        reference, predicted = arrays["reference_forces"].ravel(), arrays["forces"].ravel()
        figure = plots.parity(reference, predicted, k, "force component (eV/Å)", note)
        forces.append(_captioned(runs[k], figure))
        totals, note = (arrays["reference_energy"], arrays["energy"]), f"MAE {ENERGY_MAE.with_unit(evaluation.overall)}"
        reference, predicted = plots.relative_energies(arrays["numbers"], arrays["natoms"], *totals)
        figure = plots.parity(reference, predicted, k, "energy (eV/atom)", note)
        energies.append(_captioned(runs[k], figure))
    explanation = (
        "<p>Stronger colour means more points, on a logarithmic scale. Energies are per atom and relative to element "
        "energies fitted to the reference, without which composition would hide every error.</p>"
    )
    rows = [[*forces, *energies]] if len(forces) == 1 else [forces, energies]
    return explanation + "".join(f'<div class="figures">{"".join(row)}</div>' for row in rows) if forces else ""


def _captioned(run: Run, figure: str) -> str:
    return f"<figure>{figure}<figcaption>{escape(run.name)}</figcaption></figure>"


def _domains(runs: Sequence[Run]) -> str:
    metrics = (FORCE_MAE, ENERGY_MAE)
    rows = {metric.label: tables.domain_rows(runs, metric) for metric in (*metrics, CHARGE_MAE, DIPOLE_MAE)}
    sizes = _figures((plots.error_by_size(runs, metric) for metric in metrics), "By size")
    return tables.html_table(runs, rows, "Domain") + sizes


def _symmetry(runs: Sequence[Run]) -> str:
    figures = [plots.rotation_errors(runs)]
    explanation = [
        "Nothing in the network knows about rotations; it has to learn them. The <b>force rotation error</b> (●) is "
        "how far a force component strays when the molecule is rotated and the forces back. Where it is close "
        "to the force MAE (○), orientation is the main error and averaging over orientations pays; where it is far "
        "below, symmetry is learned well."
    ]
    if any(run.latent_loss for run in runs):
        figures += [plots.layer_profile(runs, metric) for metric in (INVARIANT_FRACTION, LATENT_ERROR)]
        explanation.append(
            "The <b>invariant share</b> of a layer is the part of its embeddings’ variance that does not depend on the "
            "orientation; a share of 1 suffices for energies but fulfils the latent loss trivially, so the <b>latent "
            "error</b>, the error of the learned action relative to predicting the mean embedding, means more the "
            "lower the share."
        )
    shown = _figures(figures)
    return "".join(f"<p>{paragraph}</p>" for paragraph in explanation) + shown if shown else ""


def _recipes(runs: Sequence[Run]) -> str:
    texts = [
        f"<details><summary>{escape(run.name)}</summary><pre>{escape(run.recipe_text)}</pre></details>"
        for run in runs
        if run.recipe_text
    ]
    return tables.html_table(runs, {"": tables.differing_settings(runs)}, "Setting") + "".join(texts)


def _scripts(runs: Sequence[Run]) -> str:
    data = viewer_data(runs)
    if data is None:
        return ""
    scripts = "".join(f"<script>{_asset(name)}</script>" for name in ("viewer.js", "report.js"))
    return f'<script type="application/json" id="viewer-data">{safe_json(data)}</script>{scripts}'


def _figures(figures: Iterable[str], caption: str = "") -> str:
    """Figures side by side under a caption (HTML); nothing if all are empty."""
    shown = "".join(f"<figure>{figure}</figure>" for figure in figures if figure)
    heading = f"<h3>{caption}</h3>" if caption else ""
    return f'{heading}<div class="figures">{shown}</div>' if shown else ""


def _tabs(name: str, tabs: Sequence[tuple[str, str]]) -> str:
    """Bodies of which one is seen at a time; works without a script."""
    fragments = []
    for k, (label, body) in enumerate(tabs):
        checked = " checked" if k == 0 else ""
        fragments.append(
            f'<input type="radio" name="{name}" id="{name}-{k}"{checked}><label for="{name}-{k}">{label}</label>'
            f'<div class="tab">{body}</div>'
        )
    return f'<div class="tabs">{"".join(fragments)}</div>'


def _asset(name: str) -> str:
    return (files("transip.report") / "assets" / name).read_text(encoding="utf-8")
