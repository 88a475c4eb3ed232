"""Distance bias of attention: per head, a learned function of distance, added to the logits.

Axes as in `transip.model`.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from transip.model.radial import GaussianBasis

RBF_RANGE = (0.0, 8.0, 32)  # Å, Å, Gaussians; at larger distances the bias is the slope alone
TABLE_SIZE = 2**14  # points of a table between which is interpolated: logits keep float32's precision
TAIL_STEPS = 8  # distances between Gaussians after which nothing is left of the last


class DistanceBias(nn.Module):
    """What one layer learns: a weight for each Gaussian, and a slope that makes some heads local at the start."""

    def __init__(self, heads: int):
        super().__init__()
        self.rbf_proj = nn.Linear(RBF_RANGE[-1], heads, bias=False)
        nn.init.zeros_(self.rbf_proj.weight)
        self.slope = nn.Parameter(torch.logspace(math.log10(0.1), math.log10(5.0), heads))  # 1/Å


class DistanceBiasStack:
    """The distance biases of a model's layers, for one forward pass."""

    def __init__(self, layers: Sequence[DistanceBias], basis: GaussianBasis):
        self.layers, self.basis = layers, basis

    def all_layers(self, lengths: Float[Tensor, "B Q K"]) -> Float[Tensor, "L B H Q K"]:
        """Biases of all layers, from one product of matrices."""
        features = torch.cat([self.basis(lengths.flatten()), -lengths.reshape(-1, 1)], 1)
        weights = torch.cat([torch.cat([layer.rbf_proj.weight, layer.slope[:, None]], 1) for layer in self.layers])
        biases = weights.to(features.dtype) @ features.T
        return biases.view(len(self.layers), -1, *lengths.shape).transpose(1, 2)

    def one_layer(self, lengths: Float[Tensor, "B Q K"], layer: int) -> Float[Tensor, "B H Q K"]:
        """Bias of one layer; in float32 interpolated, several times faster for many pairs, and differentiable once.

        Interpolated logits are off by a few 10⁻⁷ of the largest of them.
        """
        if lengths.dtype == torch.float64:
            return DistanceBiasStack([self.layers[layer]], self.basis).all_layers(lengths)[0]
        values, derivatives = (table[layer] for table in self._tables)
        bias = _Interpolate.apply(lengths, values, derivatives, self._table_end)
        return bias.addcmul_(lengths[:, None], self.layers[layer].slope[:, None, None], value=-1)

    @cached_property
    def _tables(self) -> tuple[Float[Tensor, "L H points"], Float[Tensor, "L H points"]]:
        """The part of the biases that is made of Gaussians, and its derivative."""
        weights = torch.stack([layer.rbf_proj.weight for layer in self.layers])
        lengths = torch.linspace(0, self._table_end, TABLE_SIZE, device=weights.device)
        return weights @ self.basis(lengths).T, weights @ self.basis.derivative(lengths).T

    @property
    def _table_end(self) -> float:
        return RBF_RANGE[1] + TAIL_STEPS * self.basis.step


class _Interpolate(torch.autograd.Function):
    """Linear interpolation of a function, and of its derivative: that of the interpolated one would have steps."""

    @staticmethod
    def forward(ctx: Any, lengths: Tensor, values: Tensor, derivatives: Tensor, end: float) -> Tensor:
        ctx.save_for_backward(lengths, derivatives)
        ctx.end = end
        return _interpolate(values, lengths, end)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator hides the parameters' names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None]:
        lengths, derivatives = ctx.saved_tensors
        return (grad_outputs[0] * _interpolate(derivatives, lengths, ctx.end)).sum(1), None, None, None


def _interpolate(
    table: Float[Tensor, "H points"], lengths: Float[Tensor, "B Q K"], end: float
) -> Float[Tensor, "B H Q K"]:
    grid = torch.stack([lengths * (2 / end) - 1, torch.zeros_like(lengths)], -1)  # −1 … 1 over the table
    tables = table[None, :, None].expand(len(lengths), -1, -1, -1)
    return functional.grid_sample(tables, grid, mode="bilinear", padding_mode="border", align_corners=True)
