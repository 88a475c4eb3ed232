"""Pairs of atoms of a molecule, described once for all blocks.

Every pair is (an atom that is seen, an atom that looks). Shape suffixes: B structures, A padded atoms, N atoms that
are seen: the A and, in crystals, images of theirs, n atoms that look, M neighbours, H heads, K features, S
harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from transip.config import ModelSettings
from transip.model.bias import SPREAD, DistanceBias, DistanceBiases
from transip.model.gaussians import Gaussians
from transip.model.images import Images
from transip.model.piecewise import piecewise

Positions = Float[Tensor, "B A 3"]
Mask = Bool[Tensor, "B N"]
See = Callable[..., Tensor]  # of some `Pairs` and values of all atoms: what the looking ones see

PAIRS_AT_ONCE = 2**18  # in inference, larger molecules are looked at in parts, so that memory grows linearly
DENSE = 64  # atoms; in larger molecules the few neighbours are gathered from among the many atoms


@dataclass(frozen=True)
class Neighbours:
    """The atoms within a radius.

    Attributes:
        fade: 1 for touching atoms, falling smoothly to 0 at the radius; 0 for what is no pair, (B, n, M).
        radial: the distance over Gaussians, times `fade`, (B, n, M, K).
        harmonics: of the direction from the looking atom to the seen one, (B, n, S, M); see `harmonics_of`.
        atoms: which atoms are the M, (B, n, M); None if they are all atoms in order.
    """

    fade: Float[Tensor, "B n M"]
    radial: Float[Tensor, "B n M K"]
    harmonics: Float[Tensor, "B n S M"]
    atoms: Int64[Tensor, "B n M"] | None

    @property
    def direction(self) -> Float[Tensor, "B n 3 M"]:
        """From the looking atom to the seen one, of unit length."""
        return self.harmonics[:, :, 1:4]

    def of(self, values: Float[Tensor, "B N C"]) -> Float[Tensor, "B #n M C"]:
        """Values of the atoms seen, for each atom that looks, or once if they are the same for all."""
        if self.atoms is None:
            return values[:, None]
        flat = self.atoms.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, flat).unflatten(1, self.atoms.shape[1:])


@dataclass(frozen=True)
class Pairs:
    """All pairs of some looking atoms.

    Attributes:
        looking: the atoms that look.
        hide: added to logits: −∞ for atoms seen that are padding, falling towards a cutoff, else 0; (B, n or 1, N);
            None if all atoms see all.
        vector: x_seen − x_looking, Å, (B, 3, N, n).
        distance: Å, (B, N, n).
        pair: two atoms, the seen one not padding, not the same, (B or 1, N, n).
        images: the periodic ones, if there are any.
        distance_biases: of the model's blocks, if it has any.
        neighbourhood: finds neighbours, if the model needs them.
    """

    looking: slice
    hide: Float[Tensor, "B #n N"] | None
    vector: Float[Tensor, "B 3 N n"]
    distance: Float[Tensor, "B N n"]
    pair: Bool[Tensor, "#B N n"]
    images: Images | None
    distance_biases: DistanceBiases | None
    neighbourhood: Neighbourhood | None

    def bias(self, block: int) -> Float[Tensor, "B #h #n N"] | None:
        """What is added to the logits of a block's heads; None if nothing."""
        if self.distance_biases is None:
            return None if self.hide is None else self.hide[:, None]
        return self.hidden(self.distance_biases.of(self.distance.mT.contiguous(), block))

    def hidden(self, bias: Float[Tensor, "*L B H n N"]) -> Float[Tensor, "*L B H n N"]:
        """`bias` with what is hidden."""
        return bias if self.hide is None else bias + self.hide[:, None]

    @property
    def neighbours(self) -> Neighbours:
        """The atoms nearby, for a model with convolutions or pair forces."""
        assert self.neighbourhood is not None
        with torch.autocast(self.distance.device.type, enabled=False):
            return self.neighbourhood(self.vector, self.distance, self.pair)


@dataclass(frozen=True)
class AllPairs(Pairs):
    """Pairs of all atoms, of which everything that costs something to know is kept.

    Attributes:
        biases: of all blocks, (L, B, H, n, N); None without distance biases.
        near: neighbours; None if the model needs none.
    """

    biases: Float[Tensor, "L B H n N"] | None
    near: Neighbours | None

    def look(self, see: See, *values: Tensor) -> Tensor:
        """What all atoms see."""
        return see(self, *values)

    @classmethod
    def among(cls, pairs: Pairs) -> AllPairs:
        """`pairs`, which must be those of all atoms."""
        with torch.autocast(pairs.distance.device.type, enabled=False):
            known = pairs.distance_biases
            biases = None if known is None else pairs.hidden(known.exact(pairs.distance.mT))
        near = None if pairs.neighbourhood is None else pairs.neighbours
        return cls(**vars(pairs), biases=biases, near=near)

    def bias(self, block: int) -> Float[Tensor, "B #h #n N"] | None:
        """As in `Pairs`."""
        return super().bias(block) if self.biases is None else self.biases[block]

    @property
    def neighbours(self) -> Neighbours:
        """As in `Pairs`."""
        assert self.near is not None
        return self.near


class PairFeatures(nn.Module):
    """Turns positions into `Pairs`."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.spread = Gaussians(*SPREAD) if settings.distance_bias else None
        near = settings.num_local_layers or settings.has_edge_force_head
        self.neighbourhood = Neighbourhood(settings.num_rbf, degree_shown(settings)) if near else None
        self.cutoff = settings.cutoff

    def forward(
        self,
        positions: Positions,
        mask: Mask | None,
        blocks: Sequence[DistanceBias] = (),
        images: Images | None = None,
        *,
        frugal: bool = False,
    ) -> EveryPair:
        """Pairs of every atom.

        Args:
            positions: Å.
            mask: False for padding among the atoms seen; None if there is none.
            blocks: the distance bias of each block.
            images: periodic images that the atoms see beside each other.
            frugal: in large molecules, forget pairs and make them anew where they are needed again. For inference: it
                leaves first derivatives alone.
        """
        biases = DistanceBiases(blocks, self.spread) if self.spread is not None else None
        seen = positions if images is None else images.places(positions)
        size = (len(positions), positions.shape[1], seen.shape[1])

        def of(looking: slice, positions: Tensor, seen: Tensor) -> Pairs:
            return self.of(looking, positions, seen, mask, images, biases)

        if frugal and in_parts(*size):
            return PairsInParts(of, positions, seen, images)
        return AllPairs.among(of(slice(None), positions, seen))

    def of(
        self,
        looking: slice,
        positions: Positions,
        seen: Float[Tensor, "B N 3"],
        mask: Mask | None,
        images: Images | None,
        biases: DistanceBiases | None,
    ) -> Pairs:
        """Pairs of the `looking` atoms; angles and distances keep the positions' precision whatever autocast says."""
        with torch.autocast(positions.device.type, enabled=False):
            vector = seen.mT[..., None] - positions.mT[:, :, None, looking]
            x, y, z = vector.unbind(1)
            distance = (x * x + y * y + z * z + 1e-6).sqrt()  # smooth, also where an atom meets itself
            hide = None if self.cutoff is None else faded(distance.mT, self.cutoff)
        index = torch.arange(seen.shape[1], device=positions.device)
        pair = (index[:, None] != index[: positions.shape[1]][looking])[None]
        if mask is not None:
            pair = pair & mask[:, :, None]
            padding = torch.zeros_like(distance[..., 0]).masked_fill(~mask, -math.inf)[:, None]
            hide = padding if hide is None else hide + padding
        return Pairs(looking, hide, vector, distance, pair, images, biases, self.neighbourhood)


def degree_shown(settings: ModelSettings) -> int:
    """Degree of the harmonics that a model's convolutions need: more than 1 for angles only."""
    return settings.l_max if settings.angular_channels else 1


def faded(distance: Float[Tensor, "*shape"], cutoff: float) -> Float[Tensor, "*shape"]:
    """Logarithm of (1 − r²/cutoff²)³, by which attention to far atoms is weakened; −41 at the cutoff and beyond."""
    return 3 * (1 - (distance / cutoff).square()).clamp(min=1e-6).log()


class Neighbourhood(nn.Module):
    """Displacements of near atoms, as harmonics of the direction and a distance spread over Gaussians.

    Args:
        gaussians: how many.
        degree: of the harmonics, at most; 1 to 3.
    """

    RADIUS = 4.0  # Å; what is seen fades out smoothly towards it

    def __init__(self, gaussians: int, degree: int) -> None:
        super().__init__()
        self.radial, self.degree = Gaussians(0.6, self.RADIUS, gaussians), degree

    def forward(
        self, vector: Float[Tensor, "B 3 N n"], distance: Float[Tensor, "B N n"], pair: Bool[Tensor, "#B N n"]
    ) -> Neighbours:
        """The pairs that are closer than the radius."""
        atoms, pair = None, pair.mT
        vector, distance = vector.mT.contiguous(), distance.mT.contiguous()
        if distance.shape[2] > DENSE:
            far = distance.detach().masked_fill(~pair, math.inf)
            most = int((far < self.RADIUS).sum(2).max())
            atoms = far.topk(max(most, 1), largest=False).indices
            vector = vector.gather(3, atoms[:, None].expand(-1, 3, -1, -1))
            distance, pair = distance.gather(2, atoms), pair.expand(far.shape).gather(2, atoms)
        fade = (0.5 + 0.5 * (distance.clamp(max=self.RADIUS) * (math.pi / self.RADIUS)).cos()) * pair
        harmonics = harmonics_of(vector / distance[:, None], self.degree)
        return Neighbours(fade, self.radial(distance) * fade[..., None], harmonics, atoms)


def harmonics_of(direction: Float[Tensor, "B 3 n M"], degree: int) -> Float[Tensor, "B n S M"]:
    """Real spherical harmonics of degree 0, 1, … `degree`: 1, the direction, products of its components.

    Scaled so that those of degree l of two directions have the l-th Legendre polynomial of the cosine of the angle
    between them as their scalar product.
    """
    x, y, z = direction.unbind(1)
    harmonics = [torch.ones_like(x), x, y, z]
    if degree == 1:
        return torch.stack(harmonics, 2)
    a, xx, yy, zz = math.sqrt(3), x * x, y * y, z * z
    harmonics += [a * x * y, a * y * z, a * z * x, a / 2 * (xx - yy), zz - (xx + yy) / 2]
    if degree == 3:
        a, b, c = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15)
        harmonics += [a * x * (xx - 3 * yy), a * y * (3 * xx - yy), c * x * y * z, c / 2 * z * (xx - yy)]
        harmonics += [b * x * (4 * zz - xx - yy), b * y * (4 * zz - xx - yy), z * (zz - 1.5 * (xx + yy))]
    return torch.stack(harmonics, 2)


@dataclass(frozen=True)
class PairsInParts:
    """Pairs of some looking atoms after others, so that memory grows with the atoms, not with their pairs.

    Attributes:
        make: pairs of these looking atoms, with these positions of the atoms that look and are seen.
        positions: Å, (B, A, 3).
        seen: Å, of the atoms that are seen, (B, N, 3).
        images: as in `Pairs`.
    """

    make: Callable[[slice, Tensor, Tensor], Pairs]
    positions: Positions
    seen: Float[Tensor, "B N 3"]
    images: Images | None

    def look(self, see: See, *values: Tensor) -> Float[Tensor, "B N *rest"]:
        """What all atoms see; where gradients are needed, the backward pass makes the pairs again."""
        structures, atoms = self.positions.shape[:2]
        step = max(1, PAIRS_AT_ONCE // (structures * self.seen.shape[1]))
        parts = [slice(start, min(start + step, atoms)) for start in range(0, atoms, step)]

        def of(part: slice, positions: Tensor, seen: Tensor, *values: Tensor) -> Tensor:
            return see(self.make(part, positions, seen), *values)

        return piecewise(of, parts, self.positions, self.seen, *values)


EveryPair = AllPairs | PairsInParts


def in_parts(structures: int, atoms: int, seen: int | None = None) -> bool:
    """Whether there are too many pairs to be looked at together.

    Args:
        structures: how many there are.
        atoms: of each, padded, that look.
        seen: atoms of each that are seen; None: those that look.
    """
    return structures * atoms * (seen or atoms) > PAIRS_AT_ONCE
