"""`transip calibrate`: what the spread of predictions says about their errors on molecules that no model has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from rich.table import Table
from torch import nn

from transip.config import BatchSettings
from transip.data.dataset import Dataset
from transip.data.sampler import sorted_batches
from transip.data.store import concat_ranges
from transip.errors import InputError
from transip.evaluation.saved import batch_limits_for, load_validation_set
from transip.files import output_lock
from transip.inference.predict import Models, build_predictor, load_for_inference
from transip.metrics.validation import iter_predictions
from transip.model.calibration import LEVELS, Calibration, SpreadToError
from transip.model.files import load_model, resolve_model_folder, update_metadata
from transip.model.released import CONFIG
from transip.symmetry.average import EnsemblePrediction
from transip.symmetry.committee import Calibrated, predictor_key


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """CalibrationData of predictions, and how far these were off.

    Attributes:
        counts: atoms of each structure, (structures,).
        compositions: an id per structure, shared by those of the same atoms, (structures,).
        energy_std: eV, (structures,).
        energy_error: absolute, eV, (structures,).
        forces_std: eV/Å, (atoms,).
        forces_error: length of each force's error, eV/Å, (atoms,).
    """

    counts: Int64[np.ndarray, "structures"]
    compositions: Int64[np.ndarray, "structures"]
    energy_std: Float64[np.ndarray, "structures"]
    energy_error: Float64[np.ndarray, "structures"]
    forces_std: Float64[np.ndarray, "atoms"]
    forces_error: Float64[np.ndarray, "atoms"]

    def select(self, chosen: Bool[np.ndarray, "structures"]) -> CalibrationData:
        """Those of the `chosen` structures."""
        atoms = np.repeat(chosen, self.counts)
        return CalibrationData(
            **{name: values[atoms if name.startswith("forces") else chosen] for name, values in vars(self).items()}
        )

    def halves(self, seed: int) -> tuple[CalibrationData, CalibrationData]:
        """Two halves of the compositions, at random.

        Raises:
            InputError: there is one composition only.
        """
        ids, member = np.unique(self.compositions, return_inverse=True)
        if len(ids) < 2:
            raise InputError("one composition cannot be split", remedy="calibrate on more molecules")
        first = np.isin(member, np.random.default_rng(seed).permutation(len(ids))[: len(ids) // 2])
        return self.select(first), self.select(~first)


def calibrate(
    model: str | Path,
    packs: Sequence[str | Path] = (),
    *,
    committee: Sequence[str | Path] = (),
    average: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Calibration:
    """Measure what spreads say about errors, and keep it in the card of `model`, where calculators find it.

    Fitted on one half of the compositions, tested on the other. A calibration of the same models and orientations
    that `model` had before is replaced.

    Args:
        model: folder of a model.
        packs: labelled structures of compositions that no model was trained on; none: what the recipe of the run
            `model` held out.
        committee: further models.
        average: number of orientations to average over.
        device: torch device.
        seed: of the split.

    Raises:
        InputError: a model or the data cannot be used, or predictions have no spread or always the same.
    """
    if not committee and average is None:
        raise InputError(
            "one model in one orientation has no spread to calibrate",
            where=str(model),
            remedy="average over rotations (--average 12), or name more models (--committee)",
        )
    if not Path(model).exists():
        raise InputError(
            "is not a folder of yours, and a calibration is kept in the model's folder",
            where=str(model),
            remedy="copy the model's folder and name the copy",
        )
    data = load_validation_set(model, packs)
    with output_lock(resolve_model_folder(model) / CONFIG):
        predictor = uncalibrated([model, *committee], average, device)
        calibration = fit(collect(predictor, data, batch_limits_for(data)), predictor, seed)
        replaced = (calibration.members, calibration.rotations)
        earlier = load_model(model).card.get("calibrations", [])
        kept = [values for values in earlier if (values["members"], values["rotations"]) != replaced]
        update_metadata(model, calibrations=[*kept, calibration.model_dump()])
    return calibration


def uncalibrated(models: Models, average: int | None, device: str = "auto") -> nn.Module:
    """What predicts with `models`, without the uncertainties that may have been measured before."""
    predictor = build_predictor(load_for_inference(models, device, "float32"), average)
    return predictor.model if isinstance(predictor, Calibrated) else predictor


def collect(model: nn.Module, data: Dataset, batch: BatchSettings) -> CalibrationData:
    """Spreads and errors of `model`, which predicts an `EnsemblePrediction`, on `data`."""
    first = np.cumsum(data.atom_counts) - data.atom_counts
    energies, forces = np.empty((2, len(data))), np.empty((2, int(data.atom_counts.sum())))
    for indices, labelled, predicted in iter_predictions(model, data, sorted_batches(data.atom_counts, batch)):
        assert isinstance(predicted, EnsemblePrediction) and labelled.energy is not None and labelled.forces is not None
        atoms = concat_ranges(first[indices], data.atom_counts[indices])
        energies[:, indices] = torch.stack([predicted.energy_std, (predicted.energy - labelled.energy).abs()]).cpu()
        forces[:, atoms] = torch.stack([predicted.forces_std, (predicted.forces - labelled.forces).norm(dim=-1)]).cpu()
    if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
        raise InputError("the models predict NaN or infinite numbers", remedy="use other models or data")
    return CalibrationData(data.atom_counts, data.composition_hashes(), *energies, *forces)


def fit(data: CalibrationData, model: nn.Module, seed: int) -> Calibration:
    """The calibration of `model` from what `collect` returned."""
    fitted, other = data.halves(seed)
    maps = {
        "energy": SpreadToError.fit(fitted.energy_std, fitted.energy_error).with_test_scores(
            other.energy_std, other.energy_error
        ),
        "forces": SpreadToError.fit(fitted.forces_std, fitted.forces_error).with_test_scores(
            other.forces_std, other.forces_error
        ),
    }
    members, rotations = predictor_key(model)
    return Calibration(members=members, rotations=rotations, structures=len(fitted.counts), **maps)


def calibration_table(calibration: Calibration) -> Table:
    """A table for the terminal."""
    caption = f"fitted to {calibration.structures:,} structures, tested on other compositions"
    table = Table(title=calibration.description, caption=caption, caption_justify="left")
    table.add_column("error of")
    for heading in ("rank\ncorrelation", "uncertainty", *(f"within\n{level} %" for level in LEVELS)):
        table.add_column(heading, justify="right")
    for name, fitted in (("forces, per atom", calibration.forces), ("energies", calibration.energy)):
        formula = f"{fitted.factor:.3g} × spread^{fitted.exponent:.2f}"
        percentages = (f"{fitted.coverage[str(level)]:.1f} %" for level in LEVELS)
        table.add_row(name, f"{fitted.spearman:.2f}", formula, *percentages)
    return table
