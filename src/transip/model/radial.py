"""Radial basis: a distance expanded in Gaussians, of which a network makes sharp functions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIN_LOG2 = -100.0  # Gaussians stay above 2^MIN_LOG2: near underflow CPUs are many times slower, in products, too


class GaussianBasis(nn.Module):
    """Gaussians evenly spaced from `start` to `stop` (Å), each as wide as they are apart."""

    centers: Tensor

    def __init__(self, start: float, stop: float, num_rbf: int):
        super().__init__()
        self.step = (stop - start) / (num_rbf - 1)
        self.register_buffer("centers", torch.linspace(start, stop, num_rbf), persistent=False)

    def forward(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs R"]:
        """Value of each Gaussian at distances in Å."""
        return self._scaled(distance).square().neg().clamp(min=MIN_LOG2).exp2()

    def _scaled(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs R"]:
        return (distance[..., None] - self.centers) * self._scale

    @property
    def _scale(self) -> float:
        return math.sqrt(0.5 / math.log(2)) / self.step
