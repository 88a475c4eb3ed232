"""
Train with a loss of your own
=============================

The loss of a run is a sum of terms. A term is an object with a name that maps a
:class:`~transip.training.objective.LossContext` to a scalar. The context contains the predictions for the batch, the
labels, and the normalisers that make the gradient the same on one process and on many. This example adds two terms: one
on the direction of the forces, and one that compares the predicted forces for two orientations of a molecule.

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
# ``ctx.labelled_views`` holds the structures of this step, rotated together with their labels, and ``ctx.prediction``
# the potential's predictions for them. The predictions are computed once, however many terms use them.


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
# With ``objective.views: 2`` each structure is in the batch in two orientations, and ``ctx.pairs`` holds the rotation
# between them. The paper's loss compares embeddings; this one compares forces, after the first view's have been
# rotated.


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
# The function that builds the terms is passed to ``train``, because a recipe is data and never names code. This
# function keeps the terms of the package and adds two. If a term is an ``nn.Module``, its parameters are trained and
# checkpointed together with those of the potential.


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
