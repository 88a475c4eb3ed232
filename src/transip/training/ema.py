"""An exponential moving average (EMA) of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from transip.model.potential import Potential


def make_ema(potential: Potential, decay: float) -> AveragedModel:
    """A potential whose weights are averaged; their memory grows up to `decay`, so early steps are forgotten."""

    @torch.no_grad()
    def move(averaged: Any, current: Any, _: Tensor | int) -> None:
        # On the host; the argument is on the device, which would have to be waited for.
        num_updates = int(model.n_averaged)
        weight = 1 - min(decay, (1 + num_updates) / (10 + num_updates))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, weight)

    model = AveragedModel(potential, multi_avg_fn=move)
    return model
