"""Compiled networks: fewer, fused operations, which matters most for small molecules on CPUs."""

from __future__ import annotations

import inspect
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from transip.batch import Batch, Prediction
from transip.errors import InputError

UNLOADABLE = re.compile(r"ImportError: (/\S+\.so): (?:file too short|invalid ELF header|cannot read file data)")
MIN_TORCH = (2, 13)  # 2.10 compiles this network to one of wrong forces; what lies between has not been tested


Forward = TypeVar("Forward", bound=Callable[..., Prediction])


class CompiledGraph:
    """The compiled `forward` of one potential; copies of the potential are not compiled."""

    def __init__(self, potential: Any):
        eager = inspect.unwrap(type(potential).forward)
        self._run = torch.compile(eager.__get__(potential), dynamic=True)

    def run(self, batch: Batch, layers: Sequence[int]) -> Prediction:
        """`forward`, compiled at the first call."""
        try:
            return self._run(batch, layers)
        except Exception as error:
            if not remove_truncated_library(error):
                raise
            return self._run(batch, layers)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def remove_truncated_library(error: Exception) -> bool:
    """Remove from the compiler's cache the library that could not be loaded, if that is what `error` is about.

    PyTorch (2.13) links libraries in the place from which it loads them and never writes again what is there: a process
    that was killed while it compiled would make all later ones fail.
    """
    if match := UNLOADABLE.search(str(error)):
        library = Path(match[1])
        if library.is_file():
            library.unlink()
            return True
    return False


def compilable(forward: Forward) -> Forward:
    """Run `forward` as `compile_network` made it, if it was called; blocks of atoms are found before.

    Conservative forces are derivatives, which PyTorch's inference mode excludes, so that mode is left for them.
    """

    @wraps(forward)
    def run(potential: Any, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        if torch.is_inference_mode_enabled() and not potential.has_direct_forces:
            with torch.inference_mode(False), torch.no_grad():
                return run(potential, batch.clone(), layers)
        batch = potential.with_blocks(batch)
        # Other people's networks may look for images, of which there are any number.
        if potential.graph is not None and (batch.cell is None or not potential.has_custom_backbone):
            return potential.graph.run(batch, layers)
        return forward(potential, batch, layers)

    return cast(Forward, run)


def torch_supported() -> bool:
    """Whether this PyTorch is known to compile the network rightly."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= MIN_TORCH


def compile_network(potential: Any, device: torch.device) -> None:
    """Have a `Potential` compiled when it is first run; copies of it are not.

    One graph serves all molecules that are small enough to be one block, whatever the batch's shape, one larger ones,
    and one cells. Each takes about a minute to compile, several minutes where conservative forces are trained; the
    compiler keeps what it made for the next process.

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
    potential.graph = CompiledGraph(potential)
