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
        scaled = (distance[..., None] - self.centers) * (math.sqrt(0.5 / math.log(2)) / self.step)
        return scaled.square().neg().clamp(min=FAINT).exp2()
