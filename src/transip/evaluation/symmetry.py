"""`transip symmetry`: rotation errors of a model's outputs and what each layer's embedding knows of orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.table import Table

from transip.data.dataset import Dataset
from transip.data.sampler import sorted_batches
from transip.evaluation.saved import batch_limits_for
from transip.files import write_json
from transip.inference.predict import load_for_inference
from transip.model.files import resolve_model_folder
from transip.model.potential import Potential
from transip.quantities import ROTATION_ERROR, ROTATION_SPREAD
from transip.symmetry.latent import load_latent
from transip.symmetry.measure import measure_symmetry


@dataclass(frozen=True)
class SymmetryReport:
    """What `measure_symmetry` returned, with a table for the terminal."""

    values: dict[str, Any]

    def table(self) -> Table:
        """A row per layer, the errors of the outputs below."""
        values = self.values
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
            error = row["latent_error"]
            table.add_row(str(row["layer"]), f"{row['invariant_share']:.3f}", "–" if error is None else f"{error:.4f}")
        return table

    def write(self, path: str | Path) -> None:
        """Write the values as JSON."""
        write_json(path, self.values)


def evaluate_symmetry(
    model: str | Path,
    packs: Sequence[str | Path],
    *,
    structures: int = 64,
    rotations: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> SymmetryReport:
    """Measure the rotation symmetry of a saved model on a random sample of packed structures.

    Raises:
        InputError: the model, the data or the device cannot be used.
    """
    potential = cast(Potential, load_for_inference(model, device, "float32"))
    latent = load_latent(resolve_model_folder(model), potential.settings)
    data = Dataset.open(packs)
    chosen = np.random.default_rng(seed).permutation(len(data))[:structures]
    sample = data.select(np.sort(chosen))
    order = sorted_batches(sample.atom_counts, batch_limits_for(sample))
    batches = (sample.get_batch(indices).to(device) for indices in order)
    layers = tuple(range(potential.settings.depth))
    found = measure_symmetry(potential, batches, rotations=rotations, layers=layers, latent=latent, seed=seed)
    return SymmetryReport({"structures": len(sample), "rotations": rotations, **found})
