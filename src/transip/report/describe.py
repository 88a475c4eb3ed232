"""`transip info`: what a model is, and what this installation can do."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table

from transip.extras import extras, install_command
from transip.model.card import reference_metrics
from transip.model.files import load_model
from transip.quantities import CHARGE_MAE, DIPOLE_MAE, ENERGY_MAE, FORCE_MAE, REFERENCES, ROTATION_ERROR
from transip.version import __version__


def describe_model(path: str | Path) -> Table:
    """Architecture, training data and measured errors of a saved model.

    Raises:
        InputError: there is no readable model at `path`.
    """
    model = load_model(path)
    table = Table(title=escape(str(path)), show_header=False)
    settings, card = model.settings, model.card
    table.add_row("parameters", f"{model.num_parameters:,}")
    table.add_row("architecture", f"width {settings.width}, depth {settings.depth}, heads {settings.heads}")
    table.add_row("forces", settings.forces)
    table.add_row("partial charges", "yes" if model.has_charges else "no")
    table.add_row("level of theory", escape(str(card.get("level_of_theory", "unknown"))))
    table.add_row("elements seen", " ".join(card.get("elements", [])) or "unknown")
    table.add_row("charges seen", _listed(card.get("charges")))
    table.add_row("multiplicities seen", " ".join(map(str, card.get("spins", ["unknown"]))))
    table.add_row("atoms per molecule", " to ".join(map(str, card.get("sizes", ["unknown"]))))
    references = reference_metrics(model)
    for quantity in REFERENCES:
        if quantity.key in references:
            table.add_row(quantity.name, quantity.with_unit(references))
    validation = card.get("validation", {})
    for quantity in (FORCE_MAE, ENERGY_MAE, ROTATION_ERROR, CHARGE_MAE, DIPOLE_MAE):
        if quantity.key in validation:
            table.add_row(quantity.name, f"{quantity.with_unit(validation)} (validation)")
    for domain, metrics in card.get("domains", {}).items():
        table.add_row(escape(domain), f"{FORCE_MAE.with_unit(metrics)}, {ENERGY_MAE.with_unit(metrics)}")
    return table


def describe_installation() -> Table:
    """Versions, devices and extras."""
    table = Table(title="transip", show_header=False)
    table.add_row("transip", __version__)
    for package in ("torch", "ase", "numpy", "accelerate"):
        table.add_row(package, version(package))
    table.add_row("python", platform.python_version())
    table.add_row("devices", ", ".join(_devices()))
    table.add_row("threads", str(torch.get_num_threads()))
    for extra, there in extras().items():
        table.add_row(f"extra {extra}", "installed" if there else escape(install_command(extra)))
    return table


def _devices() -> list[str]:
    return ["cpu", *(f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(torch.cuda.device_count()))]


def _listed(values: object) -> str:
    return " ".join(f"{v:+d}" if v else "0" for v in values) if isinstance(values, list) else "unknown"
