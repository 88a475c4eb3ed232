"""`transip info`: what a model is, and what this installation can do."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from rich.table import Table

from transip.model.files import load_model

EXTRAS = {
    "labels": ("tblite", "rdkit", "joblib"),
    "dft": ("pyscf",),
    "omol": ("ase_db_backends",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}


def describe_model(path: str | Path) -> Table:
    """Architecture, training data and measured errors of a saved model.

    Raises:
        InputError: there is no readable model at `path`.
    """
    model = load_model(path)
    table = Table(title=str(path), show_header=False)
    settings, card = model.settings, model.card
    table.add_row("parameters", f"{model.num_parameters:,}")
    table.add_row("architecture", f"width {settings.width}, depth {settings.depth}, heads {settings.heads}")
    table.add_row("forces", settings.forces)
    table.add_row("level of theory", str(card.get("level_of_theory", "unknown")))
    table.add_row("elements seen", " ".join(card.get("elements", [])) or "unknown")
    table.add_row("charges seen", _listed(card.get("charges")))
    table.add_row("multiplicities seen", _listed(card.get("spins")))
    validation = card.get("validation", {})
    if "force_mae" in validation:
        table.add_row("force MAE", f"{1e3 * validation['force_mae']:.1f} meV/Å (validation)")
        table.add_row("energy MAE", f"{1e3 * validation['energy_mae_per_atom']:.2f} meV/atom (validation)")
        table.add_row("force rotation error", f"{1e3 * validation['force_rotation_error']:.1f} meV/Å")
    return table


def describe_installation() -> Table:
    """Versions, devices and extras."""
    table = Table(title="transip", show_header=False)
    for package in ("transip", "torch", "ase", "numpy", "accelerate"):
        table.add_row(package, version(package))
    table.add_row("python", platform.python_version())
    table.add_row("devices", ", ".join(_devices()))
    table.add_row("threads", str(torch.get_num_threads()))
    for extra, modules in EXTRAS.items():
        there = all(importlib.util.find_spec(module) for module in modules)
        table.add_row(f"extra {extra}", "installed" if there else f'pip install "transip\\[{extra}]"')
    return table


def _devices() -> list[str]:
    found = [f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(torch.cuda.device_count())]
    return ["cpu", *found, *(["mps"] if torch.backends.mps.is_available() else [])]


def _listed(values: object) -> str:
    return " ".join(f"{v:+d}" if v else "0" for v in values) if isinstance(values, list) else "unknown"
