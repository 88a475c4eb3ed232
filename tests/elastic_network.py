"""A molecule of springs and constant charges, whose vibrations and intensities textbooks know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from transip.batch import Batch, Prediction, dipole_moment
from transip.config import ModelSettings
from transip.model.potential import Potential
from transip.structure import Structure


class ElasticNetwork(Potential):
    """Springs (eV/Å²) between the atoms of one molecule, at rest as it is given, and constant charges (e)."""

    has_charges = True  # type: ignore[assignment]

    def __init__(self, structure: Structure, stiffness: np.ndarray, charges: np.ndarray):
        super().__init__(ModelSettings(size="XS", forces="conservative"), torch.zeros(87, dtype=torch.float64), 1.0)
        self.structure, self.stiffness = structure, torch.from_numpy(stiffness)
        self.charges, self.rest = torch.from_numpy(charges), self._lengths(torch.from_numpy(structure.positions)[None])
        self.double()

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        """In float64; each spring belongs to both of its atoms by half."""
        with torch.enable_grad():
            positions = batch.positions.double().detach().requires_grad_()
            stretch = self._lengths(positions.unflatten(0, (len(batch), -1))) - self.rest
            energies = (0.25 * self.stiffness * stretch.square()).sum(-1)
            (gradient,) = torch.autograd.grad(energies.sum(), positions)
        charges = self.charges.repeat(len(batch))
        dipole = dipole_moment(charges, replace(batch, positions=batch.positions.double()))
        energies = energies.detach()
        return Prediction(energies.sum(-1), energies.flatten(), -gradient, charges=charges, dipole=dipole)

    def _lengths(self, positions: Tensor) -> Tensor:
        itself = torch.eye(positions.shape[1], dtype=positions.dtype)  # a root has no derivative at zero
        return ((positions[:, :, None] - positions[:, None]).square().sum(-1) + itself).sqrt()
