"""Optimisers and the learning-rate schedule."""

import math

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from transip.config import OptimizerSettings
from transip.model.backbone import Backbone
from transip.training.muon import Muon


class Optimizers:
    """Muon for the matrices inside the Transformer's blocks, AdamW for everything else, stepped as one.

    Muon (see `transip.training.muon`) orthogonalises each matrix's momentum; embeddings, heads, norms and frequencies
    are not matrices in that sense and stay with AdamW.
    """

    def __init__(self, module: nn.Module, settings: OptimizerSettings):
        self.settings = settings
        for_muon = muon_parameters(module)
        trained = [p for p in module.parameters() if p.requires_grad]
        muon = [p for p in trained if p in for_muon]
        others = [p for p in trained if p not in for_muon]
        decayed, plain = [p for p in others if p.dim() > 1], [p for p in others if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizers: dict[str, Optimizer] = {}
        if settings.name == "muon" and muon:
            self.optimizers["muon"] = Muon(
                muon,
                lr=settings.muon_learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            )
        else:
            groups[0]["params"] = decayed + muon
        groups = [group for group in groups if group["params"]]
        self.optimizers["adamw"] = AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
        self.peak_lrs = {"muon": settings.muon_learning_rate, "adamw": settings.learning_rate}

    def step(self, progress: float) -> float:
        """One step at `progress` (0 … 1) of training; returns AdamW's learning rate."""
        factor = lr_factor(progress, self.settings.warmup, self.settings.min_lr_ratio)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.peak_lrs[name] * factor
            optimizer.step()
        return self.peak_lrs["adamw"] * factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors: ``"adamw/12/exp_avg"``."""
        return {
            f"{name}/{index}/{key}": value
            for name, optimizer in self.optimizers.items()
            for index, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors()` returned."""
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for path, value in tensors.items():
                owner, index, key = path.split("/")
                if owner == name:
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def muon_parameters(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that the backbones in `module` give to Muon."""
    return {p for backbone in module.modules() if isinstance(backbone, Backbone) for p in backbone.muon_parameters()}


def lr_factor(progress: float, warmup: float, floor: float) -> float:
    """Learning-rate factor: a linear rise over the fraction `warmup`, then a cosine down to `floor`."""
    if progress < warmup:
        return progress / warmup
    past = min((progress - warmup) / max(1 - warmup, 1e-9), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * past))
