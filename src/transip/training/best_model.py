"""The model that a run leaves behind: its weights, its learned action, and what its card says of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transip.config import Recipe
from transip.model.card import describe_objective
from transip.model.files import save_model
from transip.model.potential import Potential
from transip.symmetry.latent import LatentEquivariance, save_latent
from transip.training.adapters import merge_adapters

COST = ("step", "time_s", "forward_passes", "atoms_processed")


def save_best_model(
    potential: Potential, latent: LatentEquivariance | None, recipe: Recipe, record: dict[str, Any], folder: Path
) -> None:
    """Write `potential`, and the action trained with it, with the evaluation `record` in its card."""
    cost = {key: record[key] for key in COST}
    metrics = {key: value for key, value in record.items() if key not in cost and key != "kind"}
    objective = describe_objective(recipe.model_dump())
    training = {"name": recipe.name, "objective": objective, **cost}
    potential.card |= {"training": training, "validation": metrics}
    save_model(merge_adapters(potential), folder)
    if latent is not None:
        save_latent(latent, folder)
