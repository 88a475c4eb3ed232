"""From spreads to errors: how far predictions that scatter so much were off on molecules that no model had seen.

Part of a model's card, so that whoever loads the model has it.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import ConfigDict, Field
from torch import Tensor

from transip.config import Settings
from transip.errors import InputError
from transip.model.potential import Potential

LEVELS = (50, 68, 90, 95)  # %, nominal coverages
NOMINAL = 68  # % of errors are below the uncertainty that predictions come with

Spread = TypeVar("Spread", Tensor, np.ndarray)


class SpreadToError(Settings):
    """An uncertainty from a spread: factor · spread^exponent, below which 68 % of the errors were."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    factor: float = Field(ge=0, allow_inf_nan=False, description="(eV or eV/Å)^(1 − exponent)")
    exponent: float = Field(ge=0, allow_inf_nan=False, description="1: errors are in proportion to the spread")
    multiples: dict[str, float] = Field(description="of the uncertainty, below which so many % of the errors were")
    coverage: dict[str, float] = Field(default={}, description="% below each of them on other compositions")
    spearman: float = Field(default=0.0, description="rank correlation of spread and error, there")

    @classmethod
    def fit(cls, spread: Float64[np.ndarray, "items"], error: Float64[np.ndarray, "items"]) -> SpreadToError:
        """The map that has the nominal coverages on these spreads and absolute errors.

        Its exponent makes them hold for small and for large spreads: the slope of log error against log spread.

        Raises:
            InputError: the spreads are all the same.
        """
        valid = (spread > 0) & (error > 0)
        x, y = np.log(spread[valid]), np.log(error[valid])
        if not valid.any() or np.ptp(x) < 1e-6:
            raise InputError("all spreads are the same: they say nothing about errors", remedy="give other models")
        exponent = max(float(np.cov(x, y)[0, 1] / x.var(ddof=1)), 0.0)
        scaled = error[spread > 0] / spread[spread > 0] ** exponent
        radii = dict(zip(LEVELS, np.quantile(scaled, [level / 100 for level in LEVELS]).tolist(), strict=True))
        multiples = {str(level): radius / radii[NOMINAL] for level, radius in radii.items()}
        return cls(factor=radii[NOMINAL], exponent=exponent, multiples=multiples)

    def with_test_scores(
        self, spread: Float64[np.ndarray, "items"], error: Float64[np.ndarray, "items"]
    ) -> SpreadToError:
        """The same map with its coverage (%) of these spreads and absolute errors, and their correlation."""
        from scipy.stats import spearmanr

        bound = self(spread)
        coverage = {key: 100 * float((error <= bound * multiple).mean()) for key, multiple in self.multiples.items()}
        spearman = float(spearmanr(spread, error).statistic)  # pyright: ignore[reportAttributeAccessIssue]
        return self.model_copy(update={"coverage": coverage, "spearman": spearman})

    def __call__(self, spread: Spread) -> Spread:
        """Uncertainties in eV or eV/Å of predictions with this spread."""
        return self.factor * spread**self.exponent


class Calibration(Settings):
    """Uncertainties of one way to predict: these models, so many orientations."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    members: list[str] = Field(description="fingerprints of the models, sorted")
    rotations: int = Field(ge=1, description="orientations averaged over; 1: none but the molecule's own")
    energy: SpreadToError = Field(description="of total energies")
    forces: SpreadToError = Field(description="of the length of each force's error")
    structures: int = Field(description="that the maps were fitted to; on as many others they were tested")

    @property
    def description(self) -> str:
        """The way to predict, in words."""
        models = "1 model" if len(self.members) == 1 else f"{len(self.members)} models"
        return f"{models}, {self.rotations} orientation{'s' if self.rotations > 1 else ''}"


def fingerprint(model: Potential) -> str:
    """What tells `model` from others: a checksum of its weights, the same in float32 and float64."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name != "charge_spin_references" or tensor.any():  # models without them keep the checksum they had before
            digest.update(tensor.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]
