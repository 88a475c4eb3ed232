"""Query atoms in chunks, each recomputed in the backward pass, so that memory grows with the atoms, not their pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from transip.model.pair_features import AtomPairs, PairFeatures

MAX_PAIRS_PER_CHUNK = 2**18

_first_derivatives_only: ContextVar[bool] = ContextVar("first_derivatives_only", default=False)


@runtime_checkable
class QueryFn(Protocol):
    """What a chunk of query atoms reads from its keys."""

    def __call__(self, pairs: PairFeatures, *values: Any, **_: Any) -> Float[Tensor, "B Q *rest"]:
        """Outputs of the atoms `pairs.queries`; `values` are tensors (B, A or K, …) of all atoms or keys."""
        ...


@runtime_checkable
class ChunkFn(Protocol):
    """A function of the atoms in a slice and of values of all atoms."""

    def __call__(self, chunk: slice, *values: Any, **_: Any) -> Float[Tensor, "B Q *rest"]:
        """Outputs of the atoms in `chunk`."""
        ...


def map_query_chunks(fn: QueryFn, pairs: AtomPairs, *values: Tensor) -> Float[Tensor, "B A *rest"]:
    """`fn` of all query atoms: of all at once, or chunk after chunk where `pairs` are too many."""
    if pairs.dense is not None:
        return fn(pairs.dense, *values)
    geometry = pairs.geometry
    num_structures, num_atoms = geometry.positions.shape[:2]
    size = max(1, MAX_PAIRS_PER_CHUNK // (num_structures * geometry.key_positions.shape[1]))
    chunks = [slice(start, min(start + size, num_atoms)) for start in range(0, num_atoms, size)]

    def chunk_fn(chunk: slice, positions: Tensor, key_positions: Tensor, *values: Tensor) -> Tensor:
        moved = replace(geometry, positions=positions, key_positions=key_positions)
        return fn(pairs.features(chunk, moved), *values)

    return checkpoint_chunks(chunk_fn, chunks, geometry.positions, geometry.key_positions, *values)


def exceeds_chunk(num_pairs: int) -> bool:
    """Whether these are more pairs than one chunk may have."""
    return num_pairs > MAX_PAIRS_PER_CHUNK


def needs_chunking(num_pairs: int) -> bool:
    """Whether so many pairs of a padded batch are taken in chunks, which excludes second derivatives."""
    if torch.compiler.is_compiling():  # see `transip.model.compiled.can_use_graph`
        return False
    return exceeds_chunk(num_pairs) and (_first_derivatives_only.get() or not torch.is_grad_enabled())


@contextmanager
def first_derivatives_only(enabled: bool = True) -> Iterator[None]:
    """Within this context only first derivatives with respect to positions are taken, so that chunks may be used."""
    token = _first_derivatives_only.set(enabled)
    try:
        yield
    finally:
        _first_derivatives_only.reset(token)


def checkpoint_chunks(fn: ChunkFn, chunks: list[slice], *values: Tensor) -> Tensor:
    """`fn(chunk, *values)` for each of `chunks`, concatenated along the second dimension.

    Differentiable once, with respect to `values` alone: the backward pass computes each chunk again. That is
    `torch.utils.checkpoint` of each chunk, but for the small blocks of memory which that keeps of each. Among the large
    ones that come and go they scatter the heap: a molecule of 10,000 atoms took seven times the memory.
    """
    return _CheckpointChunks.apply(fn, chunks, *values)  # pyright: ignore[reportReturnType]


class _CheckpointChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fn: ChunkFn, chunks: list[slice], *values: Tensor) -> Tensor:
        ctx.fn, ctx.chunks = fn, chunks
        ctx.save_for_backward(*values)
        first = fn(chunks[0], *values)
        out = first.new_empty(len(first), chunks[-1].stop, *first.shape[2:])
        out[:, chunks[0]] = first
        for chunk in chunks[1:]:
            out[:, chunk] = fn(chunk, *values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_output,) = grad_outputs
        needed: tuple[bool, ...] = ctx.needs_input_grad[2:]
        values = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        leaves = [x for x in values if x.requires_grad]
        sums = [torch.zeros_like(x) for x in leaves]
        for chunk in ctx.chunks:
            with torch.enable_grad():  # of views: what hooks modules, as FLOP counters do, takes no leaves here
                output = ctx.fn(chunk, *(x.view_as(x) for x in values))
            grads = torch.autograd.grad(output, leaves, grad_output[:, chunk], materialize_grads=True)
            for total, grad in zip(sums, grads, strict=True):
                total += grad
        remaining = iter(sums)
        return None, None, *(next(remaining) if need else None for need in needed)
