"""`transip symmetry`: rotation errors of a model's outputs and what each layer's embedding knows of orientation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rich.table import Table

from transip.data.dataset import Dataset
from transip.evaluation.saved import batch_limits_for
from transip.inference.predict import load_for_inference
from transip.metrics.validation import all_layers, sampled_symmetry
from transip.model.files import resolve_model_folder
from transip.model.potential import Potential
from transip.quantities import MISSING, ROTATION_ERROR, ROTATION_SPREAD
from transip.symmetry.latent import load_latent


def evaluate_symmetry(
    model: str | Path,
    packs: Sequence[str | Path],
    *,
    structures: int = 64,
    rotations: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """What `measure_symmetry` returns of a saved model on a random sample of packed structures.

    Raises:
        InputError: the model, the data or the device cannot be used.
    """
    potential = cast(Potential, load_for_inference(model, device, "float32"))
    latent = load_latent(resolve_model_folder(model), potential.settings)
    data = Dataset.open(packs)
    size = {"structures": min(structures, len(data)), "rotations": rotations}
    layers = all_layers(potential)
    return size | sampled_symmetry(potential, data, batch_limits_for(data), layers, latent=latent, seed=seed, **size)


def symmetry_table(values: dict[str, Any]) -> Table:
    """A row per layer for the terminal, the errors of the outputs below."""
    table = Table(
        title="Rotation symmetry",
        caption=f"Force rotation error {ROTATION_ERROR.with_unit(values)}; energy rotation spread "
        f"{ROTATION_SPREAD.with_unit(values)} ({values['structures']} structures × "
        f"{values['rotations']} orientations). Invariant share 1: a layer that carries no direction.",
        caption_justify="left",
    )
    for heading in ("layer", "invariant share", "latent error"):
        table.add_column(heading, justify="right")
    for row in values["layers"]:
        error = MISSING if row["latent_error"] is None else f"{row['latent_error']:.4f}"
        table.add_row(str(row["layer"]), f"{row['invariant_share']:.3f}", error)
    return table
