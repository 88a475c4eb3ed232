"""Settings of the loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from transip.config.base import Fraction, NonNegative, PositiveInt, Settings


class LatentSettings(Settings):
    """Latent equivariance: a network predicts the embedding of a rotated view from the unrotated one's."""

    weight: NonNegative = Field(default=0.0, description="weight of the loss; 0 switches it off")
    level: Literal["atoms", "pooled"] = Field(
        default="atoms", description="per atom, or the mean over atoms (the paper)"
    )
    layers: tuple[int, ...] = Field(
        default=(-1,), min_length=1, description="blocks after which embeddings are compared; -1 is the last"
    )
    distance: Literal["mse", "cosine", "infonce"] = Field(
        default="mse", description="between predicted and found embedding"
    )
    temperature: float = Field(default=0.1, gt=0, description="of InfoNCE")
    action: Literal["mlp", "fixed"] = Field(
        default="mlp", description="mlp: learned from the rotation; fixed: scalars stay, vectors are rotated"
    )
    rotation: Literal["matrix", "6d", "quaternion"] = Field(
        default="matrix", description="how the MLP sees the rotation"
    )
    hidden: PositiveInt = Field(default=256, description="hidden width of the MLP")
    stop_gradient: bool = Field(default=False, description="treat the rotated view's embedding as a constant target")
    warmup: Fraction = Field(default=0.3, description="share of training over which the weight rises from 0")


class ObjectiveSettings(Settings):
    """What training minimises. One set of switches gives the method and every control."""

    augment: bool = Field(default=True, description="rotate each structure at random in each view")
    mirror: bool = Field(
        default=True,
        description="with `augment`, turn half of the molecules into their mirror images: the same physics",
    )
    views: Literal[1, 2] = Field(default=1, description="2: each structure is seen in two orientations a step")
    second_view: Fraction = Field(default=1.0, description="share of the batch that gets the second view")
    second_view_labels: bool = Field(
        default=True,
        description="false: labels are learned from the first view alone, and only blocks that `latent.layers` or "
        "`consistency` need see the second",
    )
    energy_weight: NonNegative = Field(default=8.0, description="weight of |ΔE| / atoms / scale")
    force_weight: NonNegative = Field(default=1.0, description="weight of ‖ΔF‖₂ / scale, mean over atoms")
    stress_weight: NonNegative = Field(
        default=1.0,
        description="weight of ‖Δσ‖ · volume / atoms / scale where there are labels; conservative forces only",
    )
    equigrad_weight: NonNegative = Field(
        default=0.0, description="weight of ‖∂E/∂rotation‖ / scale (Orb-v3); conservative forces only"
    )
    consistency: NonNegative = Field(
        default=0.0,
        description="weight of the distance between the predictions for both views, measured like errors of energy "
        "and forces, with their weights: asks the outputs what `latent` asks the embeddings",
    )
    latent: LatentSettings = Field(default_factory=LatentSettings, description="latent equivariance; needs two views")

    @property
    def comparison(self) -> str:
        """The setting, if any, by which two views of a structure are compared."""
        return "latent.weight" if self.latent.weight else "consistency" if self.consistency else ""

    @model_validator(mode="after")
    def _check(self) -> ObjectiveSettings:
        if self.comparison and not self.augment:
            raise ValueError(f"{self.comparison} > 0 needs rotated views: set objective.augment to true")
        if not self.second_view_labels and not (self.comparison and self.views == 2):
            raise ValueError(
                "second_view_labels: false leaves the second view without a use: "
                "set views to 2, and latent.weight or consistency above 0"
            )
        return self
