"""
Train with a loss of your own
=============================

The loss of a run is a sum of terms. A term is an object with a name that maps a
:class:`~transip.training.objective.LossContext` to a scalar: what the potential predicts for the batch is in it, the
labels are, and what to divide by so that the gradient is the same on one process and on many. Two terms are added here:
one on the direction of the forces, one that asks the predictions for two orientations of a molecule to agree.

It needs the extra ``labels`` and takes about a minute on one core. It writes the folder ``example-03``.
"""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from transip import Potential, Recipe, train
from transip.config import LabelSettings, parse
from transip.labels.campaign import run_campaign
from transip.rotations import rotate_vectors
from transip.training.objective import LossContext, LossTerm
from transip.training.terms import build_loss_terms

SHORT = "TRANSIP_SHORT" in os.environ  # as the tests run it
FOLDER = Path("example-03")
FOLDER.mkdir(exist_ok=True)

# %%
# A term on labels
# ----------------
#
# ``ctx.labelled_views`` holds the structures as they are seen at this step, rotated with their labels, and
# ``ctx.prediction`` what the potential predicts for them; it is computed once, however many terms ask for it.


class ForceDirection:
    """1 − cos of the angle between predicted and reference force, mean over atoms."""

    name = "direction"

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, ctx: LossContext) -> Tensor:
        assert ctx.labelled_views.forces is not None
        cosine = torch.cosine_similarity(ctx.prediction.forces, ctx.labelled_views.forces, dim=-1)
        return self.weight * (1 - cosine).sum() / ctx.normalizer.atoms


# %%
# A term between two views
# ------------------------
#
# With ``objective.views: 2`` each structure is seen in two orientations, and ``ctx.pairs`` says by which rotation
# they differ. The paper's loss compares embeddings; this one compares forces, once they have been rotated back.


class ForceAgreement:
    """‖F(x₁) − r F(x₀)‖₁ / scale for two views x₁ = r x₀, mean over atoms and components."""

    name = "agreement"

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, ctx: LossContext) -> Tensor:
        first, second = ctx.split_views(ctx.prediction.forces, None)
        rotated = rotate_vectors(first, ctx.pairs.relative_rotation, ctx.pairs.batch)
        error = (second - rotated).abs().mean(-1) / ctx.scale
        return self.weight * error.sum() / ctx.normalizer.paired_atoms


# %%
# Train
# -----
#
# The function that builds the terms is passed to ``train``: a recipe, which is data, never names code. Here the terms
# of the package stay. A term that is an ``nn.Module`` has its parameters trained and checkpointed with the
# potential's.


def loss_terms(recipe: Recipe, potential: Potential) -> list[LossTerm]:
    return [*build_loss_terms(recipe, potential), ForceDirection(0.2), ForceAgreement(0.2)]


campaign = {
    "method": "gfn2-xtb",
    "workers": 1,
    "chunk": 10,
    "domains": [
        {
            "domain": "neutral_organics",
            "smiles": ["CO", "CCO", "COC", "CC=O", "CC(C)=O", "CC#N", "CN", "CNC", "CC(=O)O", "C=CC"],
            "structures": 30 if SHORT else 200,
        },
    ],
}
pack = FOLDER / "molecules.pack"
run_campaign(parse(LabelSettings, campaign, "the campaign"), pack, progress=False)
recipe = {
    "name": "losses",
    "data": {"train": [str(pack)], "validation_fraction": 0.2},
    "model": {"size": "XS", "forces": "direct"},
    "objective": {"views": 2},
    "training": {"log_every": 5} | ({"steps": 5} if SHORT else {"minutes": 0.5}),
}
train(parse(Recipe, recipe, "the recipe"), FOLDER / "run", loss_terms=loss_terms, progress=False)

# %%
# Each term is in the log under its name, and in the plots of ``transip report``.

lines = [json.loads(line) for line in (FOLDER / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
for line in lines:
    if "direction_loss" in line:
        print({key: round(value, 4) for key, value in line.items() if key.endswith("loss") or key == "step"})
