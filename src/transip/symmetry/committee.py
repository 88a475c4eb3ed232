"""Committees: the mean of several models with the spread between them, and the uncertainty that a spread stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from transip.batch import Batch
from transip.errors import InputError
from transip.model.calibration import Calibration, fingerprint
from transip.model.potential import Potential
from transip.symmetry.average import EnsemblePrediction, Moments, RotationEnsemble


class Committee(nn.Module):
    """The mean of several potentials; its conservative forces are the gradient of the mean energy.

    A `RotationEnsemble` of it is averaged over both, and its spread is that of single models in single orientations.

    Args:
        models: at least two, of one level of theory; kept, not copied.

    Raises:
        InputError: there are fewer, or levels of theory differ.
    """

    def __init__(self, models: Sequence[Potential]):
        super().__init__()
        if len(models) < 2:
            raise InputError(f"a committee of {len(models)}", remedy="2 models are the least")
        levels = {model.card["level_of_theory"] for model in models if "level_of_theory" in model.card}
        if len(levels) > 1:
            raise InputError(
                f"models of different levels of theory cannot be averaged: {', '.join(sorted(levels))}",
                remedy="train all of them on labels of one kind",
            )
        self.models = nn.ModuleList(models)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> EnsemblePrediction:
        """Predict energies (eV), forces (eV/Å), their standard deviations between the models and, of cells, stress.

        There is a stress (eV/Å³) if all models have one.

        Raises:
            InputError: `layers` are asked for; embeddings of different models have nothing in common.
        """
        if layers:
            raise InputError("a committee has no embeddings", remedy="ask one of its models for them")
        equal = torch.full((len(self.models),), 1 / len(self.models), dtype=torch.float64)
        return Moments.stack([Moments.from_prediction(model(batch)) for model in self.models]).mean(equal)


class Calibrated(nn.Module):
    """A committee or rotational average that knows the uncertainty of what it predicts.

    Args:
        model: whose predictions have a spread.
        calibration: measured with `model`.
    """

    def __init__(self, model: nn.Module, calibration: Calibration):
        super().__init__()
        self.model, self.calibration = model, calibration

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> EnsemblePrediction:
        """Predict as `model` does, with uncertainties in addition to the spreads."""
        prediction: EnsemblePrediction = self.model(batch, layers)
        return replace(
            prediction,
            energy_uncertainty=self.calibration.energy(prediction.energy_std),
            forces_uncertainty=self.calibration.forces(prediction.forces_std),
        )


def members(model: nn.Module) -> list[Potential]:
    """The potentials that `model` consists of: itself, or those that it takes the mean of."""
    return [module for module in model.modules() if isinstance(module, Potential)]


def num_rotations(model: nn.Module) -> int:
    """How many orientations `model` averages over."""
    return max((len(module.rotations) for module in model.modules() if isinstance(module, RotationEnsemble)), default=1)


def predictor_key(model: nn.Module) -> tuple[list[str], int]:
    """What a calibration holds for: sorted fingerprints of the potentials of `model`, number of orientations."""
    return sorted(map(fingerprint, members(model))), num_rotations(model)


def calibrations(model: nn.Module) -> list[Calibration]:
    """All calibrations in the cards of the potentials of `model`."""
    return [Calibration.model_validate(c) for member in members(model) for c in member.card.get("calibrations", ())]


def calibrated(model: nn.Module) -> nn.Module:
    """`model` with uncertainties if the card of one of its potentials has a calibration for just it, else `model`."""
    if not (available := calibrations(model)):
        return model
    key = predictor_key(model)
    calibration = next((c for c in available if (c.members, c.rotations) == key), None)
    return model if calibration is None else Calibrated(model, calibration)
