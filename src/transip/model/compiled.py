"""Compiled networks: fewer, fused operations, which matters most for small molecules on CPUs."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from transip.batch import Batch, Prediction
from transip.errors import InputError
from transip.model.chunking import exceeds_chunk
from transip.model.neighbors import NEIGHBOR_LIST_MIN_ATOMS

MIN_TORCH = (2, 13)  # 2.10 compiles this network to one of wrong forces; what lies between has not been tested


Forward = TypeVar("Forward", bound=Callable[..., Prediction])


class CompiledGraph:
    """The compiled `forward` of one potential; copies of the potential are not compiled."""

    def __init__(self, potential: Any):
        eager = inspect.unwrap(type(potential).forward)
        self.run = torch.compile(eager.__get__(potential), dynamic=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def compilable(forward: Forward) -> Forward:
    """Run `forward` as `compile_network` made it, if it was called and the batch is fit for it.

    Conservative forces are derivatives, which PyTorch's inference mode excludes, so that mode is left for them.
    """

    @wraps(forward)
    def run(potential: Any, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        if torch.is_inference_mode_enabled() and not potential.has_direct_forces:
            with torch.inference_mode(False), torch.no_grad():
                return run(potential, batch.clone(), layers)
        if potential.graph is not None and can_use_graph(potential, batch):
            return potential.graph.run(batch, layers)
        return forward(potential, batch, layers)

    return cast(Forward, run)


def can_use_graph(potential: Any, batch: Batch) -> bool:
    """Whether the compiled graph of a `Potential` serves `batch`."""
    if batch.cell is not None:  # images come in any number
        return False
    if torch.is_grad_enabled():  # large molecules' neighbours are counted, which interrupts a derivative
        return potential.has_direct_forces or batch.max_num_atoms <= NEIGHBOR_LIST_MIN_ATOMS
    return not exceeds_chunk(len(batch) * batch.max_num_atoms**2)  # a compiler would write out each chunk


def torch_supported() -> bool:
    """Whether this PyTorch is known to compile the network rightly."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= MIN_TORCH


def compile_network(potential: Any, device: torch.device) -> None:
    """Have a `Potential` compiled when it is first run; copies of it are not.

    One graph serves molecules of up to 64 atoms, whatever the batch's shape, another few larger ones. Crystals, more
    than 512 atoms, whose pairs are taken in chunks, and more than 64 where conservative forces are trained run as they
    are. Each graph takes about a minute to compile, several minutes where conservative forces are trained; the compiler
    keeps what it made for the next process.

    Raises:
        InputError: PyTorch is older than `MIN_TORCH`, or there is no C++ compiler, which CPUs need.
    """
    if not torch_supported():
        raise InputError(
            f"compiling the network needs PyTorch {'.'.join(map(str, MIN_TORCH))}, and this is {torch.__version__}",
            remedy="upgrade PyTorch, or do not compile",
        )
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"compiling the network needs a C++ compiler, and there is no {compiler!r}",
            remedy="install one, name it in the environment variable CXX, or do not compile",
        )
    torch._dynamo.config.optimize_ddp = False  # several processes' graphs would be split, which derivatives cannot be
    # The graph breaks where neighbours of large molecules are counted, as is meant: no warning of `.item()`.
    logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)
    potential.graph = CompiledGraph(potential)
