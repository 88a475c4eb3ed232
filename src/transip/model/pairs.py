"""Pairs of atoms of a molecule, described once for all blocks.

Every pair is (an atom that is seen, an atom that looks). Shape suffixes: B structures, N padded atoms, all of which
are seen, n atoms that look, M neighbours, H heads, K features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from transip.config import ModelSettings

Positions = Float[Tensor, "B N 3"]
Mask = Bool[Tensor, "B N"]

PAIRS_AT_ONCE = 2**21  # in inference, larger molecules are looked at in parts, so that memory grows linearly
SPREAD = (0.0, 8.0, 32)  # Å, Å, Gaussians of the distance bias; farther pairs are told apart by its slope alone
DENSE = 64  # atoms; in larger molecules the few neighbours are gathered from among the many atoms


@dataclass(frozen=True)
class Neighbours:
    """The atoms within a radius.

    Attributes:
        fade: 1 for touching atoms, falling smoothly to 0 at the radius; 0 for what is no pair, (B, M, n).
        radial: the distance over Gaussians, times `fade`, (B, M, n, K).
        direction: from the looking atom to the seen one, of unit length, (B, M, n, 3).
        atoms: which atoms are the M, (B, M, n); None if they are all atoms in order.
    """

    fade: Float[Tensor, "B M n"]
    radial: Float[Tensor, "B M n K"]
    direction: Float[Tensor, "B M n 3"]
    atoms: Int64[Tensor, "B M n"] | None

    @cached_property
    def features(self) -> Float[Tensor, "B M n F"]:
        """`radial` × (1, `direction`)."""
        directions = torch.cat([torch.ones_like(self.fade)[..., None], self.direction], -1)
        return (directions[..., None] * self.radial[..., None, :]).flatten(-2)

    def of(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B M m C"]:
        """Values of the atoms seen, for each atom that looks (m = n) or all alike (m = 1)."""
        if self.atoms is None:
            return values[:, :, None]
        flat = self.atoms.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, flat).unflatten(1, self.atoms.shape[1:])


@dataclass(frozen=True)
class Pairs:
    """All pairs of some looking atoms; what costs something to know is found when it is first asked for.

    Attributes:
        looking: the atoms that look.
        hide: −∞ for atoms seen that are padding, else 0; (B, N).
        vector: x_seen − x_looking, Å, (B, N, n, 3).
        distance: Å, (B, N, n).
        pair: two atoms, the seen one not padding, not the same, (B, N, n).
        kinds: the functions over which `spread` and `neighbours` are spread.
    """

    looking: slice
    hide: Float[Tensor, "B N"]
    vector: Float[Tensor, "B N n 3"]
    distance: Float[Tensor, "B N n"]
    pair: Bool[Tensor, "B N n"]
    kinds: PairFeatures

    @cached_property
    def spread(self) -> Float[Tensor, "B N n K"]:
        """The distance over Gaussians, for a model with a distance bias."""
        assert self.kinds.spread is not None
        with torch.autocast(self.distance.device.type, enabled=False):
            return self.kinds.spread(self.distance)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The atoms nearby, for a model with convolutions or pair forces."""
        assert self.kinds.neighbourhood is not None
        with torch.autocast(self.distance.device.type, enabled=False):
            return self.kinds.neighbourhood(self.vector, self.distance, self.pair)


class PairFeatures(nn.Module):
    """Turns positions into `Pairs`."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.spread = Gaussians(*SPREAD) if settings.distance_bias else None
        self.neighbourhood = Neighbourhood() if settings.convolutions or settings.has_pair_forces else None

    def forward(self, positions: Positions, mask: Mask) -> Iterable[Pairs]:
        """Pairs of every atom: at once, or in parts that are made anew whenever they are asked for."""
        atoms = positions.shape[1]
        if torch.is_grad_enabled() or positions.shape[0] * atoms**2 <= PAIRS_AT_ONCE:
            return [self.of(slice(0, atoms), positions, mask)]
        return _Parts(lambda looking: self.of(looking, positions, mask), *positions.shape[:2])

    def of(self, looking: slice, positions: Positions, mask: Mask) -> Pairs:
        """Pairs of the `looking` atoms; angles and distances keep the positions' precision whatever autocast says."""
        with torch.autocast(positions.device.type, enabled=False):
            vector = positions[:, :, None] - positions[:, None, looking]
            distance = (vector.square().sum(-1) + 1e-6).sqrt()  # smooth, also where an atom meets itself
        index = torch.arange(positions.shape[1], device=positions.device)
        pair = mask[:, :, None] & (index[:, None] != index[None, looking])
        hide = torch.zeros_like(distance[..., 0]).masked_fill(~mask, -math.inf)
        return Pairs(looking, hide, vector, distance, pair, self)


class Gaussians(nn.Module):
    """A distance spread over Gaussians, evenly spaced and as wide as they are apart."""

    centers: Tensor

    def __init__(self, first: float, last: float, number: int):
        super().__init__()
        self.step = (last - first) / (number - 1)
        self.register_buffer("centers", torch.linspace(first, last, number), persistent=False)

    def forward(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs K"]:
        """One feature per Gaussian."""
        return (-0.5 * ((distance[..., None] - self.centers) / self.step).square()).exp()


class Neighbourhood(nn.Module):
    """Displacements of near atoms, as a direction and a distance spread over Gaussians."""

    RADIUS = 4.0  # Å; features fade out smoothly towards it
    RADIAL = 32
    FEATURES = 4 * RADIAL  # of `Neighbours.features`

    def __init__(self) -> None:
        super().__init__()
        self.radial = Gaussians(0.6, self.RADIUS, self.RADIAL)

    def forward(
        self, vector: Float[Tensor, "B N n 3"], distance: Float[Tensor, "B N n"], pair: Bool[Tensor, "B N n"]
    ) -> Neighbours:
        """The pairs that are closer than the radius."""
        atoms = None
        if distance.shape[1] > DENSE:
            far = distance.detach().masked_fill(~pair, math.inf)
            most = int((far < self.RADIUS).sum(1).max())
            atoms = far.topk(max(most, 1), dim=1, largest=False).indices
            vector = vector.gather(1, atoms[..., None].expand(-1, -1, -1, 3))
            distance, pair = distance.gather(1, atoms), pair.gather(1, atoms)
        fade = (0.5 + 0.5 * (distance.clamp(max=self.RADIUS) * (math.pi / self.RADIUS)).cos()) * pair
        return Neighbours(fade, self.radial(distance) * fade[..., None], vector / distance[..., None], atoms)


@dataclass(frozen=True)
class _Parts(Iterable[Pairs]):
    make: Callable[[slice], Pairs]
    structures: int
    atoms: int

    def __iter__(self) -> Iterator[Pairs]:
        step = max(1, PAIRS_AT_ONCE // (self.structures * self.atoms))
        for start in range(0, self.atoms, step):
            yield self.make(slice(start, min(start + step, self.atoms)))
