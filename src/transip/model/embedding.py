"""Embedding of an atom before it attends to others: its element, perhaps the structure's charge and multiplicity."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch
from transip.config import ModelSettings
from transip.structure import MAX_ATOMIC_NUMBER, MAX_CHARGE, MAX_SPIN


class AtomEmbedding(nn.Module):
    """A learned vector of the element; perhaps + total charge + multiplicity, given to every atom; perhaps + position.

    With ``charges: local`` atoms learn of charge and multiplicity later, from `transip.model.charges`.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__()
        width = settings.width
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.charge, self.spin = None, None
        if settings.charges != "local":
            self.charge = nn.Embedding(2 * MAX_CHARGE + 1, width)
            self.spin = nn.Embedding(MAX_SPIN + 1, width)
            # Charges and multiplicities that training never shows must not disturb: start from (nearly) nothing.
            nn.init.normal_(self.charge.weight, std=0.02)
            nn.init.normal_(self.spin.weight, std=0.02)
        self.position = FourierFeatures(settings) if settings.absolute_features else None

    def forward(self, batch: Batch, positions: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms width"]:
        """Embed the atoms of `batch` at centred `positions` (Å)."""
        embedding = self.element(batch.numbers)
        if self.charge is not None and self.spin is not None:
            conditioning = self.charge(batch.charge + MAX_CHARGE) + self.spin(batch.spin)
            embedding = embedding + conditioning[batch.structure_index]
        return embedding if self.position is None else embedding + self.position(positions)


class FourierFeatures(nn.Module):
    """Sines and cosines of the centred position along random directions, projected to the width."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        width, shortest = settings.width, settings.min_frequency
        directions = nn.functional.normalize(torch.randn(width, 3), dim=-1)
        lengths = torch.logspace(0, 1, width, base=settings.max_frequency / shortest) * shortest
        self.frequencies = nn.Parameter(directions * lengths[:, None])
        self.proj = nn.Linear(2 * width, width)

    def forward(self, positions: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms width"]:
        """Features of positions in Å; angles in the positions' own precision, see `compute_cos_sin`."""
        with torch.autocast(positions.device.type, enabled=False):
            angles = positions @ self.frequencies.T.to(positions.dtype)
            waves = torch.cat([angles.cos(), angles.sin()], -1)
        return self.proj(waves)
