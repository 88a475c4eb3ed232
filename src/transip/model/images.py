"""Periodic images (ghost atoms): keys of the atoms of a cell, but no queries. Axes as in `transip.model`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from transip.batch import Batch
from transip.lattice import find_images


@dataclass(frozen=True)
class PeriodicImages:
    """The key atoms of each cell: its A atoms, then images of them.

    Attributes:
        source_index: of which atom each key is an image; the first A are the atoms themselves, (B, K).
        cell_shift_vectors: from that atom to the image, Å, (B, K, 3).
        mask: False for padding, (B, K).
    """

    source_index: Int64[Tensor, "B K"]
    cell_shift_vectors: Float[Tensor, "B K 3"]
    mask: Bool[Tensor, "B K"]

    def gather(self, values: Float[Tensor, "B A *rest"]) -> Float[Tensor, "B K *rest"]:
        """Each image has the values of its atom."""
        return values[torch.arange(len(values), device=values.device)[:, None], self.source_index]

    def positions(self, positions: Float[Tensor, "B A 3"]) -> Float[Tensor, "B K 3"]:
        """Positions of the keys, Å."""
        return self.gather(positions) + self.cell_shift_vectors


def wrap_and_replicate(
    positions: Float[Tensor, "atoms 3"], cell: Float[Tensor, "structures 3 3"], batch: Batch, cutoff: float
) -> tuple[Float[Tensor, "atoms 3"], PeriodicImages]:
    """Positions wrapped into their cells, and all images closer than `cutoff` (Å) to them.

    Derivatives flow through `positions` and `cell`; which images there are is found on the host.
    """
    on_host, cells = positions.detach().double().cpu(), cell.detach().double().cpu().numpy()
    structures = zip(on_host.split(batch.atom_counts.tolist()), cells, strict=True)
    images = [find_images(x.numpy(), vectors, cutoff) for x, vectors in structures]

    def tensors(name: str) -> list[Tensor]:
        return [torch.from_numpy(getattr(image, name)).to(positions.device) for image in images]

    wrap_shift = torch.cat(tensors("wrap_shift")).to(cell.dtype)
    source_index = pad_sequence(tensors("source_index"), True)
    cell_shifts = pad_sequence(tensors("cell_shifts"), True).to(cell.dtype)
    num_images = torch.tensor([len(image.source_index) for image in images], device=positions.device)
    atoms = torch.arange(batch.max_num_atoms, device=positions.device).expand(len(batch), -1)
    is_image = torch.arange(source_index.shape[1], device=positions.device) < num_images[:, None]
    wrapped = positions - (wrap_shift[:, None] @ cell[batch.structure_index])[:, 0]
    return wrapped, PeriodicImages(
        source_index=torch.cat([atoms, source_index], 1),
        cell_shift_vectors=torch.cat([cell.new_zeros(*atoms.shape, 3), cell_shifts @ cell], 1),
        mask=torch.cat([batch.mask, is_image], 1),
    )
