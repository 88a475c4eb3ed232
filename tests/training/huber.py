"""A loss term of somebody else: everything that it takes is in this file."""

import torch
from torch import Tensor, nn

from transip.config import Recipe
from transip.model.potential import Potential
from transip.training.objective import LossContext, LossTerm
from transip.training.terms import Energy


class HuberForces(nn.Module):
    """Huber loss of force components, in units of the potential's scale, each element with a learned weight."""

    name = "huber"

    def __init__(self, weight: float, delta: float = 0.5):
        super().__init__()
        self.weight, self.delta = weight, delta
        self.log_weights = nn.Parameter(torch.zeros(87))

    def forward(self, ctx: LossContext) -> Tensor:
        """Mean over atoms; the logarithm keeps the learned weights from vanishing."""
        views = ctx.labelled_views
        error = (ctx.prediction.forces - views.forces) / ctx.scale
        loss = nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta).mean(-1)
        log_weights = self.log_weights[views.numbers]
        return self.weight * (log_weights.exp() * loss - 0.1 * log_weights).sum() / ctx.normalizer.atoms


def huber_terms(recipe: Recipe, potential: Potential) -> list[LossTerm]:
    """What `train` takes as ``loss_terms``."""
    return [Energy(recipe.objective.energy_weight), HuberForces(2.0)]
