"""Attention's distance bias: per head, a learned function of the distance between two atoms, added to the logits.

Shape suffixes as in `transip.model.pairs`; L blocks.
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

from transip.model.gaussians import Gaussians

SPREAD = (0.0, 8.0, 32)  # Å, Å, Gaussians; farther pairs are told apart by the slope alone
TABLE = 2**14  # rows of a table between which is interpolated: logits keep float32's precision
BEYOND = 8  # widths of a Gaussian after which nothing is left of it


class DistanceBias(nn.Module):
    """What one block learns: a weight for each Gaussian, and a slope that makes some heads local at the start."""

    def __init__(self, heads: int):
        super().__init__()
        self.project = nn.Linear(SPREAD[-1], heads, bias=False)
        nn.init.zeros_(self.project.weight)
        self.slope = nn.Parameter(torch.logspace(math.log10(0.1), math.log10(5.0), heads))  # 1/Å


class DistanceBiases:
    """The distance biases of a model's blocks, for one forward pass."""

    def __init__(self, blocks: Sequence[DistanceBias], gaussians: Gaussians):
        self.blocks, self.gaussians = blocks, gaussians

    def exact(self, distance: Float[Tensor, "B n N"]) -> Float[Tensor, "L B H n N"]:
        """Of all blocks, from one product of matrices."""
        spread = torch.cat([self.gaussians(distance.flatten()), -distance.reshape(-1, 1)], 1)
        weights = torch.cat([torch.cat([block.project.weight, block.slope[:, None]], 1) for block in self.blocks])
        biases = weights.to(spread.dtype) @ spread.T
        return biases.view(len(self.blocks), -1, *distance.shape).transpose(1, 2)

    def of(self, distance: Float[Tensor, "B n N"], block: int) -> Float[Tensor, "B H n N"]:
        """Of one block; in float32 read off a table, several times faster for many pairs, and derived but once.

        Interpolated logits are off by a few 10⁻⁷ of the largest of them.
        """
        alone = self.blocks[block]
        if distance.dtype == torch.float64:
            return DistanceBiases([alone], self.gaussians).exact(distance)[0]
        values, slopes = (table[block] for table in self._tables)
        bias = _Interpolated.apply(distance, values, slopes, self._end)
        return bias.addcmul_(distance[:, None], alone.slope[:, None, None], value=-1)

    @cached_property
    def _tables(self) -> tuple[Float[Tensor, "L H rows"], Float[Tensor, "L H rows"]]:
        """What the Gaussians amount to, and its derivative."""
        weights = torch.stack([block.project.weight for block in self.blocks])
        distance = torch.linspace(0, self._end, TABLE, device=weights.device)
        return weights @ self.gaussians(distance).T, weights @ self.gaussians.derivative(distance).T

    @property
    def _end(self) -> float:
        return SPREAD[1] + BEYOND * self.gaussians.step


class _Interpolated(torch.autograd.Function):
    """Linear interpolation of a function, and of its derivative: that of the interpolated one would have steps."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, values: Tensor, slopes: Tensor, end: float) -> Tensor:
        ctx.save_for_backward(distance, slopes)
        ctx.end = end
        return _interpolate(values, distance, end)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator hides the parameters' names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None, None]:
        distance, slopes = ctx.saved_tensors
        return (gradients[0] * _interpolate(slopes, distance, ctx.end)).sum(1), None, None, None


def _interpolate(
    table: Float[Tensor, "H rows"], distance: Float[Tensor, "B n N"], end: float
) -> Float[Tensor, "B H n N"]:
    where = torch.stack([distance * (2 / end) - 1, torch.zeros_like(distance)], -1)  # −1 … 1 over the table
    tables = table[None, :, None].expand(len(distance), -1, -1, -1)
    return functional.grid_sample(tables, where, mode="bilinear", padding_mode="border", align_corners=True)
