"""Settings of the network."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from transip.config.base import Count, PositiveFloat, PositiveInt, Settings

SIZES: dict[str, dict[str, int]] = {
    "XS": {"width": 64, "depth": 2, "heads": 4},
    "S": {"width": 128, "depth": 2, "heads": 8},
    "M": {"width": 384, "depth": 12, "heads": 12},
    "L": {"width": 768, "depth": 16, "heads": 16},
}
PRESETS: dict[str, dict[str, bool | int | str]] = {
    "default": {},
    "paper": {"forces": "direct", "num_local_layers": 0, "angular_channels": 0, "edge_force_head": False},
}


class ModelSettings(Settings):
    """The Transformer. `preset` and `size` fill in whatever is not given."""

    preset: Literal["default", "paper"] = "default"
    """default: invariant to translations, with distances and local layers, the most accurate; paper: the plain backbone
    of TransIP, on centred absolute positions"""
    size: Literal["XS", "S", "M", "L"] = "S"
    """fills in width, depth and heads"""
    width: PositiveInt = 128
    """features per atom"""
    depth: PositiveInt = 2
    """number of attention blocks"""
    heads: PositiveInt = 8
    """number of attention heads; width / heads must be even"""
    forces: Literal["direct", "conservative"] = "conservative"
    """conservative: −∂E/∂x, exactly the derivative of the energy, and more accurate; direct: read from the embeddings
    by a head of their own, twice as fast"""
    num_local_layers: Count = 2
    """number of blocks, evenly spread, with a local layer, which gives each atom its neighbours within 4 Å (radial
    basis ⊗ spherical harmonics)"""
    num_rbf: Annotated[int, Field(ge=2)] = 12
    """number of Gaussians in the radial basis of local layers and of the edge force head"""
    angular_channels: Count = 64
    """channels, of each degree, of the angular invariants (power spectrum) of a local layer; 0: none"""
    l_max: Literal[1, 2, 3] = 2
    """highest degree of the spherical harmonics of which angular invariants are formed"""
    edge_force_head: bool = True
    """direct forces have a second head, for forces along the edges between atoms within 4 Å"""
    charges: Literal["none", "output", "local"] = "none"
    """partial charges and spin populations, which sum to the total charge and to the unpaired electrons. none: no
    charges; output: predictions have them; local: in addition they are, after the first block, all that the network
    knows of charge and multiplicity, so that fragments far apart have their own. Without `local`, a learned vector of
    the total charge and one of the multiplicity are given to every atom"""
    smearing: PositiveFloat | None = None
    """Å; width of the Gaussian charges whose Coulomb energy, between all atoms of a molecule whatever the cutoff, is
    part of the energy; 2 is a good choice; molecules only; None: no Coulomb energy"""
    cutoff: Annotated[float, Field(ge=4.0)] | None = None  # not below the cutoff of local layers
    """Å beyond which attention between two atoms is zero, where a smooth envelope takes it; needed for periodic cells;
    None: attention among all atoms of a molecule"""

    repulsion: bool = False
    """a fixed screened repulsion of nuclei (ZBL) is added to the energy, so that atoms cannot fall into each other
    where there are no data; conservative forces only"""

    # Initial lengths of the frequency vectors of rotary and absolute positions, rad/Å.
    min_frequency: ClassVar[float] = 0.3
    max_frequency: ClassVar[float] = 6.0

    @property
    def rotary_values(self) -> bool:
        """Whether values are rotated like queries and keys, so that directions reach them."""
        return self.preset != "paper"

    @property
    def distance_bias(self) -> bool:
        """Whether a learned function of the distance is added to the attention logits."""
        return self.preset != "paper"

    @property
    def absolute_features(self) -> bool:
        """Whether the embedding has Fourier features of the centred positions."""
        return self.preset == "paper"

    @property
    def has_edge_force_head(self) -> bool:
        """Whether `edge_force_head` has an effect."""
        return self.edge_force_head and self.forces == "direct"

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
        if self.repulsion and self.forces == "direct":
            raise ValueError("repulsion is an energy, of which direct forces would know nothing")
        if self.smearing is not None and (self.charges == "none" or self.forces == "direct"):
            raise ValueError("smearing is of the charges' Coulomb energy: set charges to local, forces to conservative")
        if self.num_local_layers > self.depth:
            raise ValueError(f"num_local_layers {self.num_local_layers} must not exceed depth {self.depth}")
        if self.cutoff is not None and self.absolute_features:
            raise ValueError("a cutoff needs another preset: absolute positions tell all atoms where the centre is")
        return self
