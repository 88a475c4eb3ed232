"""What a model is, how good, and what it must not be used for: the README of its folder, the list of shipped ones."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from rich.table import Table

from transip.batch import TERMS
from transip.model.calibration import LEVELS, Calibration
from transip.model.potential import Potential
from transip.model.released import builtin_models
from transip.quantities import (
    ENERGY_MAE,
    FORCE_COSINE,
    FORCE_MAE,
    MISSING,
    REFERENCES,
    ROTATION_ERROR,
    ROTATION_SPREAD,
    STRUCTURES,
)

FRONT_MATTER = """---
library_name: transip
tags:
- chemistry
- interatomic-potential
- molecular-dynamics
- force-field
---"""
ERRORS = (ENERGY_MAE, FORCE_MAE, FORCE_COSINE, STRUCTURES)
SYMMETRY = (("force components", ROTATION_ERROR), ("energy", ROTATION_SPREAD))


def model_card(model: Potential) -> str:
    """Markdown with YAML front matter, as the Hugging Face Hub reads it.

    Read from ``model.card``: `name` (under which it is loaded), `level_of_theory`, `elements`, `charges`, `spins`,
    `data`, `training`, `started_from`, `sizes` (least and largest number of atoms), `validation` (metrics and rotation
    errors in eV and Å), and, if they are there, `domains` (domain → metrics), `calibrations` (see
    `transip.model.calibration`), `conservation` (what was measured → figure with its unit) and `not_for` (uses to warn
    of).
    """
    card = model.card
    sections = [FRONT_MATTER, _overview(model), _errors(card), _uncertainties(card), _symmetry(model), _training(card)]
    return "\n\n".join(section for section in [*sections, _use(model)] if section) + "\n"


def models_table() -> Table:
    """The models inside the package, for a terminal of 80 columns: what each is, and its errors, a line per domain."""
    table = Table(
        title="Shipped models",
        caption="mean absolute errors on molecules held out of training; more: transip info MODEL",
    )
    table.add_column("model", no_wrap=True)
    table.add_column("domain", no_wrap=True)
    for heading in ("forces\nmeV/Å", "energy\nmeV/atom"):
        table.add_column(heading, no_wrap=True, justify="right")
    for name, config in builtin_models().items():
        kind = [
            f"[bold]{name}[/bold]",
            config.get("level_of_theory", "unknown"),
            f"{config['model']['forces']} forces",
            f"{len(config.get('elements', []))} elements",
            f"{config['parameters']:,} parameters",
        ]
        errors = [
            (domain, FORCE_MAE.text(metrics), ENERGY_MAE.text(metrics))
            for domain, metrics in errors_by_domain(config).items()
        ]
        for line, error in zip_longest(kind, errors, fillvalue=""):
            table.add_row(line, *error)
        table.add_section()
    if not table.row_count:
        table.caption = "none in this version of transip"
    return table


def errors_by_domain(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics of each domain; of the validation data as a whole where no domains are known."""
    metrics_by_domain = {"all": card["validation"]} if "force_mae" in card.get("validation", {}) else {}
    return card.get("domains") or metrics_by_domain


def reference_metrics(model: Potential) -> dict[str, float]:
    """Reference energies of charge and spin, and what references leave of the training energies; see `REFERENCES`."""
    terms = {term: value for term, value in zip(TERMS, model.charge_spin_references.tolist(), strict=True) if value}
    data = model.card.get("data", {})
    return terms and terms | {spec.key: data[spec.key] for spec in REFERENCES if spec.key in data}


def join_or_unknown(values: Any) -> str:
    """Elements, charges or multiplicities, as people read them."""
    return ", ".join(map(str, values)) if values else "unknown"


def describe_objective(recipe: dict[str, Any]) -> str:
    """What the run of a recipe is trained with, in a few words; empty if it says nothing of an objective."""
    objective = _group(recipe, "objective")
    if not objective:
        return ""
    views = f"{'two views' if objective.get('views', 1) == 2 else 'one view'} (random rotations)"
    words = views if objective.get("augment", True) else "one view (orientations as they are)"
    if has_latent_loss(recipe):
        latent = _group(objective, "latent")
        words = f"latent loss, {latent.get('level', 'atoms')}, weight {latent['weight']:g}"
    if equigrad := objective.get("equigrad_weight"):
        words += f", equigrad loss, weight {equigrad:g}"
    return words + (", unlabelled geometries" if _group(recipe, "data").get("unlabelled") else "")


def has_latent_loss(recipe: dict[str, Any]) -> bool:
    """Whether the run of a recipe is trained with the latent loss."""
    return bool(_group(_group(recipe, "objective"), "latent").get("weight"))


def _overview(model: Potential) -> str:
    card, settings, references = model.card, model.settings, reference_metrics(model)
    lines = [
        f"# {card.get('name') or 'A transip potential'}",
        "",
        f"- {model.num_parameters:,} parameters (width {settings.width}, depth {settings.depth}, "
        f"heads {settings.heads}), {settings.forces} forces, preset `{settings.preset}`",
        f"- level of theory: {card.get('level_of_theory', 'unknown')}",
        f"- elements in the training data: {join_or_unknown(card.get('elements'))}",
        f"- charges: {join_or_unknown(card.get('charges'))}; multiplicities: {join_or_unknown(card.get('spins'))}; "
        f"atoms: {' to '.join(map(str, card.get('sizes', ['unknown'])))}",
        *(f"- {spec.name}: {spec.with_unit(references)}" for spec in REFERENCES if spec.key in references),
        "- units: eV, Å, eV/Å; energies are totals at the level of theory",
    ]
    return "\n".join(lines)


def _errors(card: dict[str, Any]) -> str:
    domains = errors_by_domain(card)
    if not domains:
        return ""
    headings = ["domain", *(metric.heading for metric in ERRORS)]
    rows = [headings, ["---"] * len(headings)]
    for domain, metrics in domains.items():
        rows.append([domain or MISSING, *(metric.text(metrics) for metric in ERRORS)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"## Errors\n\n{_overlap_note(card)}\n\n{table}"


def _overlap_note(card: dict[str, Any]) -> str:
    """What the structures that errors were measured on have to do with training."""
    note = "Mean absolute errors on molecules whose compositions were held out of training."
    if shared := card.get("data", {}).get("validation_trained_on", 0):
        note = f"Mean absolute errors on validation data; {shared:,} of the structures have a composition in training."
    start = " The model that this one was fine-tuned from may have been trained on some of them."
    return note + (start if "started_from" in card else "")


def _uncertainties(card: dict[str, Any]) -> str:
    rows = [
        f"| {calibration.description} | {name} | {scores.spearman:.2f} "
        f"| {' / '.join(f'{coverage:.0f}' for coverage in scores.coverage.values())} |"
        for calibration in map(Calibration.model_validate, card.get("calibrations", ()))
        for scores, name in ((calibration.forces, "forces, per atom"), (calibration.energy, "energy"))
    ]
    if not rows:
        return ""
    head = (
        "| predicted with | error of | rank correlation of uncertainty and error "
        f"| % of errors within the {' / '.join(map(str, LEVELS))} % intervals |"
    )
    intro = "Measured on molecules that were neither trained on nor used to fit the uncertainties."
    return "\n".join(["## Uncertainties", "", intro, "", head, "|---|---|---|---|", *rows])


def _symmetry(model: Potential) -> str:
    validation = model.card.get("validation", {})
    changes = [f"the {name} by {metric.with_unit(validation)}" for name, metric in SYMMETRY if metric.key in validation]
    measured = f" When a molecule is rotated, the model changes {' and '.join(changes)}." if changes else ""
    if model.settings.forces == "conservative":
        forces = "The forces are the exact derivative of the energy, so molecular dynamics conserves energy."
    else:
        forces = (
            "The forces are predicted directly and are not exactly the derivative of the energy, so the total energy "
            "drifts in molecular dynamics at constant energy (NVE)."
        )
    figures = [f"\n- {name}: {figure}" for name, figure in model.card.get("conservation", {}).items()]
    lines = [f"Rotational symmetry is learned from data, not built in.{measured}", "", forces, *figures]
    return "## Symmetry and energy conservation\n\n" + "\n".join(lines)


def _training(card: dict[str, Any]) -> str:
    training, data = card.get("training", {}), card.get("data", {})
    lines = [
        f"- {data['structures']:,} training structures" if "structures" in data else "",
        f"- objective: {training['objective']}" if "objective" in training else "",
        f"- {training['step']:,} steps, {training['forward_passes']:,.0f} forward passes" if "step" in training else "",
        f"- fine-tuned from `{card['started_from']}`" if "started_from" in card else "",
    ]
    return "## Training\n\n" + "\n".join(filter(None, lines)) if any(lines) else ""


def _use(model: Potential) -> str:
    unsuitable = [
        "elements, charges, multiplicities or molecule sizes outside the training data (the calculator warns of them)",
        *(["periodic systems"] if model.settings.cutoff is None else []),
        "geometries far from those of the training data, unless checked against the level of theory",
        *model.card.get("not_for", []),
    ]
    name = model.card.get("name") or "this folder, or owner/name on the Hub"
    code = f'```python\nfrom transip import TransIPCalculator\n\natoms.calc = TransIPCalculator("{name}")\n```'
    closing = "On the command line: `transip predict`, `transip relax`, `transip md`. Do not use this model for"
    uses = [f"- {use}{'.' if use is unsuitable[-1] else ';'}" for use in unsuitable]
    return "\n".join(["## Use", "", code, "", closing, "", *uses])


def _group(settings: dict[str, Any], name: str) -> dict[str, Any]:
    group = settings.get(name)
    return group if isinstance(group, dict) else {}
