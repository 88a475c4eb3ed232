"""Settings of the loss."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from transip.config.base import Fraction, NonNegative, PositiveInt, Settings


class LatentSettings(Settings):
    """Latent equivariance (TransIP): a network predicts the last embedding of one view from the other view's."""

    weight: NonNegative = 0.0
    """weight of the loss; 0: none"""
    level: Literal["atoms", "pooled"] = "atoms"
    """atoms: the embedding of each atom; pooled: the mean over atoms (the paper)"""
    hidden: PositiveInt = 256
    """hidden width of the network"""
    warmup: Fraction = 0.3
    """fraction of the training over which the weight rises from 0"""


class ObjectiveSettings(Settings):
    """What training minimises. One set of switches gives the method and every control."""

    augment: bool = True
    """each structure is rotated at random in each view"""
    mirror: bool = True
    """with `augment`, half of the structures are turned into their mirror images, which have the same physics"""
    views: Literal[1, 2] = 1
    """2: each structure is in a batch in two orientations"""
    energy_weight: NonNegative = 8.0
    """weight of |ΔE| / atoms / scale; the scale is the RMS force of the training data"""
    force_weight: NonNegative = 1.0
    """weight of ‖ΔF‖₂ / scale, mean over atoms"""
    stress_weight: NonNegative = 1.0
    """weight of ‖Δσ‖ · volume / atoms / scale where there are labels; conservative forces only"""
    charge_weight: NonNegative = 1.0
    """weight of |Δq| per e and |Δs| per unpaired electron, mean over atoms, where there are labels; for models with
    charges (`model.charges`)"""
    locality_weight: NonNegative = 0.1
    """weight of |Q − Σ q⁰| per e and |2S − Σ v| per unpaired electron: the less is left over to be shared out among all
    atoms, the better do energies of what is far apart add up"""
    dipole_weight: NonNegative = 0.0
    """weight of ‖Δμ‖ per e·Å and atom, where there are labels"""
    equigrad_weight: NonNegative = 0.0
    """weight of ‖∂E/∂rotation‖ / scale (Orb-v3); conservative forces only"""
    latent: LatentSettings = LatentSettings()
    """latent equivariance; needs two views"""

    @model_validator(mode="after")
    def _check(self) -> ObjectiveSettings:
        if self.latent.weight and not self.augment:
            raise ValueError("latent.weight > 0 needs rotated views: set objective.augment to true")
        return self
