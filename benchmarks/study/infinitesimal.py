"""Infinitesimal rotations in the place of a second view: no finite turn, but how the embeddings change with the angle.

A molecule that turns about the axis ω moves as ẋ = ω × x, and its embeddings change as u̇ = (∂u/∂x) ẋ, which
forward-mode differentiation gives beside u. What stands for the action T(u, r) of all rotations is its generator, a
network linear in the axis: the loss is w · mean_i |u̇_i − A(u_i) ω|². A tangent takes nearly three times as long as a
second view.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch, Prediction, segment_mean
from transip.model.potential import centred
from transip.rotations import rotate
from transip.training.losses import Losses, Objective, warm


class Infinitesimal(Objective):
    """`Objective` with the generator's loss in the place of the latent one; without that, it is the same."""

    def __init__(self, potential: Any, settings: Any, bf16: bool = False):
        super().__init__(potential, settings, bf16)
        width, hidden = potential.settings.width, settings.latent.hidden
        self.generator = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 3 * width))
        for parameter in self.generator[-1].parameters():
            nn.init.zeros_(parameter)
        self.random = torch.Generator().manual_seed(0)

    def forward(
        self, batch: Batch, turns: Tensor, paired: int, share: Any, progress: float, pool: Any = None
    ) -> Losses:
        """As in `Objective`; the second view's orientations are not used."""
        if self.latent is None:
            return super().forward(batch, turns, paired, share, progress, pool)
        view = rotate(batch, turns[0])
        axes = nn.functional.normalize(torch.randn(len(view), 3, generator=self.random), dim=-1)
        prediction, (embedding,), (change,) = self._moving(view, axes)
        energy, forces, stress = self._task_losses(view, prediction, share)
        predicted = self.generator(embedding).unflatten(-1, (-1, 3)) @ axes[view.structure_index][:, :, None]
        distance = (change - predicted[..., 0]).square().mean(-1)
        weight = self.settings.latent.weight * warm(progress, self.settings.latent.warmup)
        latent = weight * segment_mean(distance[:, None], view).sum() / share.paired_structures
        none = latent.new_zeros(())
        return Losses(energy + forces + latent, energy, forces, stress, latent, none, none)

    def _moving(
        self, view: Batch, axes: Float[Tensor, "structures 3"]
    ) -> tuple[Prediction, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The prediction, the embeddings, and their derivatives with respect to the angle about `axes`."""
        motion = torch.linalg.cross(axes[view.structure_index], centred(view.positions, view))

        def see(positions: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            found = self.potential(replace(view, positions=positions), self.layers)
            return found.embeddings, (found.energy, found.atom_energies, found.forces)

        embeddings, changes, rest = torch.func.jvp(see, (view.positions,), (motion,), has_aux=True)
        return Prediction(*rest), embeddings, changes
