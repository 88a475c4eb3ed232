"""Committees: the mean of several models with the spread between them, and the uncertainty that a spread stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from transip.batch import Batch, Prediction
from transip.errors import InputError
from transip.model.calibration import Calibration, fingerprint
from transip.model.potential import Potential
from transip.symmetry.average import Averaged, RotationAverage, combined, view_of


class Committee(nn.Module):
    """The mean of several potentials; its conservative forces are the gradient of the mean energy.

    A `RotationAverage` of it is averaged over both, and its spread is that of single models in single orientations.

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

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Averaged:
        """Predict energies (eV), forces (eV/Å), their standard deviations between the models and, of cells, stress.

        There is a stress (eV/Å³) if all models have one.

        Raises:
            InputError: `layers` are asked for; embeddings of different models have nothing in common.
        """
        if layers:
            raise InputError("a committee has no embeddings", remedy="ask one of its models for them")
        found: list[Prediction] = [model(batch) for model in self.models]
        if any(one.stress is None for one in found):
            found = [replace(one, stress=None) for one in found]
        views = zip(*map(view_of, found), strict=True)
        equal = torch.full((len(self.models),), 1 / len(self.models), dtype=torch.float64)
        return combined([torch.stack(parts) for parts in views], equal)


class Calibrated(nn.Module):
    """A committee or rotational average that knows the uncertainty of what it predicts.

    Args:
        model: whose predictions have a spread.
        calibration: measured with `model`.
    """

    def __init__(self, model: nn.Module, calibration: Calibration):
        super().__init__()
        self.model, self.calibration = model, calibration

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Averaged:
        """Predict as `model` does, with uncertainties beside the spreads."""
        found: Averaged = self.model(batch, layers)
        return replace(
            found,
            energy_uncertainty=self.calibration.energy(found.energy_std),
            forces_uncertainty=self.calibration.forces(found.forces_std),
        )


def potentials(model: nn.Module) -> list[Potential]:
    """The potentials that `model` consists of: itself, or those that it takes the mean of."""
    return [part for part in model.modules() if isinstance(part, Potential)]


def orientations(model: nn.Module) -> int:
    """How many orientations `model` averages over."""
    return max((len(part.rotations) for part in model.modules() if isinstance(part, RotationAverage)), default=1)


def calibrated(model: nn.Module) -> nn.Module:
    """`model` with uncertainties if the card of one of its potentials has a calibration for just it, else `model`."""
    known = [Calibration.model_validate(one) for part in potentials(model) for one in part.card.get("calibrations", ())]
    if not known:
        return model
    members, rotations = identity(model)
    fitting = (one for one in known if (one.members, one.rotations) == (members, rotations))
    calibration = next(fitting, None)
    return model if calibration is None else Calibrated(model, calibration)


def identity(model: nn.Module) -> tuple[list[str], int]:
    """Fingerprints of the potentials of `model`, sorted, and its number of orientations: what is calibrated."""
    return sorted(fingerprint(part) for part in potentials(model)), orientations(model)
