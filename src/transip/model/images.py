"""Periodic images of the atoms: seen by the atoms of the cell beside those, but not looking themselves.

Shape suffixes: B structures, N padded atoms, M atoms that are seen: the N, then images of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from transip import lattice
from transip.batch import Batch


@dataclass(frozen=True)
class Images:
    """What the atoms of each cell see.

    Attributes:
        origin: the atom of which each is an image; the first N are the atoms themselves, (B, M).
        shift: from that atom, Å, (B, M, 3).
        mask: False for padding, (B, M).
    """

    origin: Int64[Tensor, "B M"]
    shift: Float[Tensor, "B M 3"]
    mask: Bool[Tensor, "B M"]

    def of(self, values: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B M *rest"]:
        """Each image has what its atom has."""
        return values[torch.arange(len(values), device=values.device)[:, None], self.origin]

    def places(self, positions: Float[Tensor, "B N 3"]) -> Float[Tensor, "B M 3"]:
        """Where they are, in Å."""
        return self.of(positions) + self.shift


def surround(
    positions: Float[Tensor, "atoms 3"], cell: Float[Tensor, "structures 3 3"], batch: Batch, reach: float
) -> tuple[Float[Tensor, "atoms 3"], Images]:
    """Positions brought home into their cells, and all images closer than `reach` (Å) to them.

    Derivatives flow through `positions` and `cell`; which images there are is found on the host.
    """
    places, lattices = positions.detach().double().cpu(), cell.detach().double().cpu().numpy()
    each = places.split(batch.atom_counts.tolist())
    found = [lattice.images(x.numpy(), vectors, reach) for x, vectors in zip(each, lattices, strict=True)]

    def gathered(name: str) -> list[Tensor]:
        return [torch.from_numpy(getattr(images, name)).to(positions.device) for images in found]

    home = torch.cat(gathered("home")).to(cell.dtype)
    origin, steps = pad_sequence(gathered("origin"), True), pad_sequence(gathered("steps"), True).to(cell.dtype)
    number = torch.tensor([len(images.origin) for images in found], device=positions.device)
    atoms = torch.arange(batch.max_num_atoms, device=positions.device).expand(len(batch), -1)
    at_home = positions - (home[:, None] @ cell[batch.structure_index])[:, 0]
    return at_home, Images(
        origin=torch.cat([atoms, origin], 1),
        shift=torch.cat([cell.new_zeros(*atoms.shape, 3), steps @ cell], 1),
        mask=torch.cat([batch.mask, torch.arange(origin.shape[1], device=positions.device) < number[:, None]], 1),
    )
