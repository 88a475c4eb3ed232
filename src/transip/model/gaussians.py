"""Distances spread over Gaussians: how a network reads a number of which it needs sharp functions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

FAINT = -100.0  # Gaussians stay above 2^FAINT: near underflow CPUs are many times slower, in products, too


class Gaussians(nn.Module):
    """A distance spread over Gaussians, evenly spaced and as wide as they are apart."""

    centers: Tensor

    def __init__(self, first: float, last: float, number: int):
        super().__init__()
        self.step = (last - first) / (number - 1)
        self.register_buffer("centers", torch.linspace(first, last, number), persistent=False)

    def forward(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs K"]:
        """One feature per Gaussian."""
        return self._scaled(distance).square().neg().clamp(min=FAINT).exp2()

    def derivative(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs K"]:
        """Of each feature with respect to the distance."""
        return self(distance) * self._scaled(distance) * (-2 * math.log(2) * self._per_distance)

    def _scaled(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs K"]:
        return (distance[..., None] - self.centers) * self._per_distance

    @property
    def _per_distance(self) -> float:
        return math.sqrt(0.5 / math.log(2)) / self.step
