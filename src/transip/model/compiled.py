"""Compiled networks: fewer, fused operations, which matters most for small molecules on CPUs."""

from __future__ import annotations

import logging
import os
import shutil

import torch

from transip.errors import InputError
from transip.model.potential import Potential

OLDEST = (2, 13)  # 2.10 compiles this network to one of wrong forces; what lies between has not been tested


def recent() -> bool:
    """Whether this PyTorch is known to compile the network rightly."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= OLDEST


def compile_network(potential: Potential, device: torch.device) -> None:
    """Have `potential` compiled when it is first run; copies of it are not.

    One graph serves molecules of up to 64 atoms, whatever the batch's shape, another few larger ones. Crystals, more
    than 512 atoms, whose pairs are looked at in parts, and more than 64 where conservative forces are trained run as
    they are. Each graph takes about a minute to compile, several minutes where conservative forces are trained; the
    compiler keeps what it made for the next process.

    Raises:
        InputError: PyTorch is older than `OLDEST`, or there is no C++ compiler, which CPUs need.
    """
    if not recent():
        raise InputError(
            f"compiling the network needs PyTorch {'.'.join(map(str, OLDEST))}, and this is {torch.__version__}",
            remedy="upgrade PyTorch, or do not compile",
        )
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"compiling the network needs a C++ compiler, and there is no {compiler!r}",
            remedy="install one, name it in the environment variable CXX, or do not compile",
        )
    torch._dynamo.config.optimize_ddp = False  # several processes' graphs would be split, which derivatives cannot be
    # The graph breaks where pairs of large molecules are counted (`pairs.DENSE`), as is meant: no warning of `.item()`.
    logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)
    potential.compile(dynamic=True)
