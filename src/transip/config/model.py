"""Settings of the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from transip.config.base import Count, PositiveInt, Settings

SIZES: dict[str, dict[str, int]] = {
    "XS": {"width": 64, "depth": 2, "heads": 4},
    "S": {"width": 128, "depth": 2, "heads": 8},
    "M": {"width": 384, "depth": 12, "heads": 12},
    "L": {"width": 768, "depth": 16, "heads": 16},
}
PRESETS: dict[str, dict[str, bool | int | str]] = {
    "default": {},
    "paper": {
        "forces": "direct",
        "rotary_values": False,
        "distance_bias": False,
        "num_local_layers": 0,
        "angular_channels": 0,
        "edge_force_head": False,
        "absolute_features": True,
    },
}


class ModelSettings(Settings):
    """The Transformer. `preset` and `size` fill in whatever is not given."""

    preset: Literal["default", "paper"] = Field(
        default="default",
        description="default: translation-invariant, with local layers, the most accurate; paper: the plain backbone "
        "of TransIP, on centred absolute positions",
    )
    size: Literal["XS", "S", "M", "L"] = Field(default="S", description="fills in width, depth and heads")
    width: PositiveInt = Field(default=128, description="features per atom")
    depth: PositiveInt = Field(default=2, description="number of attention blocks")
    heads: PositiveInt = Field(default=8, description="attention heads; width / heads must be even")
    forces: Literal["direct", "conservative"] = Field(
        default="conservative",
        description="conservative: −∂E/∂x, exactly the derivative of the energy, and more accurate; direct: read from "
        "the embeddings by a head of their own, twice as fast",
    )
    rotary_values: bool = Field(default=True, description="rotate values too, so that directions reach them")
    distance_bias: bool = Field(default=True, description="add a learned function of distance to the attention logits")
    num_local_layers: Count = Field(
        default=2,
        description="number of blocks, evenly spread, with a local layer: each atom's neighbours within 4 Å, as radial "
        "basis ⊗ spherical harmonics",
    )
    num_rbf: Annotated[int, Field(ge=2)] = Field(
        default=12, description="number of Gaussians in the radial basis of local layers and of the edge force head"
    )
    angular_channels: Count = Field(
        default=64,
        description="channels, of each degree, of the angular invariants (power spectrum) of a local layer; 0: none",
    )
    l_max: Literal[1, 2, 3] = Field(
        default=2, description="highest degree of the spherical harmonics of which angular invariants are formed"
    )
    edge_force_head: bool = Field(
        default=True, description="direct forces have a second head: forces along the edges between atoms within 4 Å"
    )
    cutoff: float | None = Field(
        default=None,
        ge=4.0,  # the cutoff of local layers
        description="Å beyond which attention between two atoms is zero, to which a smooth envelope takes it; needed "
        "for periodic cells; None: attention among all atoms of a molecule",
    )
    absolute_features: bool = Field(
        default=False, description="Fourier features of the centred positions in the embedding"
    )
    min_frequency: float = Field(default=0.3, gt=0, description="rad/Å, shortest initial frequency vector")
    max_frequency: float = Field(default=6.0, gt=0, description="rad/Å, longest initial frequency vector")
    fixed_representation: bool = Field(
        default=False, description="read the last embedding as ¼ scalars and ¾ vectors (for `latent.action: fixed`)"
    )

    @property
    def has_edge_force_head(self) -> bool:
        """Whether `edge_force_head` has an effect: only direct forces of a free representation have heads."""
        return self.edge_force_head and self.forces == "direct" and not self.fixed_representation

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, given: Any, handler: ModelWrapValidatorHandler[ModelSettings]) -> ModelSettings:
        if not isinstance(given, dict):
            return handler(given)
        fill = SIZES.get(str(given.get("size", "S")), {}) | PRESETS.get(str(given.get("preset", "default")), {})
        settings = handler(fill | given)
        if not {"size", "preset"} & set(given):  # then nobody asked for what they fill in; see `Recipe.resolve`
            settings.model_fields_set.intersection_update(given)
        return settings

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        if self.num_local_layers > self.depth:
            raise ValueError(f"num_local_layers {self.num_local_layers} must not exceed depth {self.depth}")
        if self.cutoff is not None and self.absolute_features:
            raise ValueError("a cutoff needs absolute_features: false, or all atoms would still see the centre")
        if self.fixed_representation and self.width % 4:
            raise ValueError("fixed_representation needs a width divisible by 4")
        return self
