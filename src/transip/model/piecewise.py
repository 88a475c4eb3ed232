"""A function taken of one part after another, so that only one part's temporaries are ever in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def piecewise(of: Callable[..., Tensor], parts: list[slice], *values: Tensor) -> Tensor:
    """`of(part, *values)` for each of `parts`, put together along the second dimension.

    Differentiable once, with respect to `values` alone: the backward pass computes each part again. That is
    `torch.utils.checkpoint` of each part, but for the small blocks of memory which that keeps of each. Among the large
    ones that come and go they scatter the heap: a molecule of 10,000 atoms took seven times the memory.
    """
    return _Piecewise.apply(of, parts, *values)  # pyright: ignore[reportReturnType]


class _Piecewise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of: Callable[..., Tensor], parts: list[slice], *values: Tensor) -> Tensor:
        ctx.of, ctx.parts = of, parts
        ctx.save_for_backward(*values)
        first = of(parts[0], *values)
        whole = first.new_empty(len(first), parts[-1].stop, *first.shape[2:])
        whole[:, parts[0]] = first
        for part in parts[1:]:
            whole[:, part] = of(part, *values)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        needed: tuple[bool, ...] = ctx.needs_input_grad[2:]
        values = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        leaves = [x for x in values if x.requires_grad]
        sums = [torch.zeros_like(x) for x in leaves]
        for part in ctx.parts:
            with torch.enable_grad():  # of views: what hooks modules, as FLOP counters do, takes no leaves here
                result = ctx.of(part, *(x.view_as(x) for x in values))
            shares = torch.autograd.grad(result, leaves, gradient[:, part], materialize_grads=True)
            for total, share in zip(sums, shares, strict=True):
                total += share
        found: Iterator[Tensor] = iter(sums)
        return None, None, *(next(found) if need else None for need in needed)
