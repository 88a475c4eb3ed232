"""Everything that the study runs: groups of entries, each the base recipe (base.yaml) with some settings changed.

An entry is called WHAT or, in groups that repeat the same entries at several sizes, WHAT@SIZE. `augment-1-view` and
`augment-2-views` are the controls. `parts.NAME` is a property of a preset (`ModelSettings`) that no setting changes,
and `LOSS_TERMS` has losses that transip does not. Every step makes 16 forward passes of a structure through the
network, or, where a second view needs only the first blocks, as much work; `passes` counts them, and run.py refuses
an entry with another number. Exceptions are `paper-comparison`, which compares equal epochs because the paper did,
and `HALF`: as many labels as an entry learns from that spends its other passes on views without labels.
"""

from __future__ import annotations

from typing import Any

from benchmarks.study import terms
from transip.config import Recipe
from transip.training.trainer import BuildLossTerms

Overrides = dict[str, Any]  # settings in the words of a recipe, and parts of a preset

PASSES = 16
UNEQUAL = ("paper-comparison",)  # groups that may make another number of passes a step
HALF = "augment-1-view-half"  # and an entry that may
SECOND_BACKBONE = ("second-backbone",)  # groups trained on backbone.py instead of transip's model

ONE_VIEW: Overrides = {}
TWO_VIEWS: Overrides = {"objective.views": 2, "training.batch.batch_size": 8}
RAW: Overrides = {"objective.augment": False}
HALF_BATCH: Overrides = {"training.batch.batch_size": 8}
POOLED = {"objective.latent.level": "pooled"}
# The paper's backbone, and the locality and the rotated values without which it finds no forces in this budget.
PLAIN = {"model.preset": "paper", "parts.distance_bias": True, "parts.rotary_values": True}
# Labelled structures in one view, geometries of all training data in two: 8 + 4 × 2 passes.
WITH_POOL = {
    "data.unlabelled": ["data/organics.pack"],
    "training.batch.batch_size": 8,
    "training.batch.unlabelled": 4,
}


def latent(weight: float, **settings: Any) -> Overrides:
    """The latent loss, per atom after the last block unless `settings` say otherwise."""
    return {f"objective.latent.{name}": value for name, value in {"weight": weight, **settings}.items()}


def sized(entries: dict[str, Overrides], sizes: dict[int, Overrides]) -> dict[str, Overrides]:
    """Every entry at every size: WHAT@SIZE."""
    return {f"{name}@{size}": entry | change for size, change in sizes.items() for name, entry in entries.items()}


def structures(*numbers: int) -> dict[int, Overrides]:
    return {number: {"data.max_train": number} for number in numbers}


CONTROLS = {"augment-1-view": ONE_VIEW, "augment-2-views": TWO_VIEWS}
OBJECTIVES = {**CONTROLS, "atoms-latent": TWO_VIEWS | latent(0.2)}
# Likewise with the default model as it is now, but for direct forces: base.yaml has the one that most of the study was
# made with.
PRESENT = {"model.depth": 2, "model.angular_channels": 64, "model.num_rbf": 12}
PRESENT_OBJECTIVES = {name: PRESENT | entry for name, entry in OBJECTIVES.items()}
WIDTHS: dict[int, Overrides] = {  # 64 is the base
    32: {"model.width": 32, "model.heads": 2},
    64: {},
    128: {"model.width": 128, "model.heads": 8},
}

GROUPS: dict[str, dict[str, Overrides]] = {
    "objective": {
        "raw": RAW,
        **CONTROLS,
        "pooled-latent": TWO_VIEWS | POOLED | latent(1.0),
        "atoms-latent-0.05": TWO_VIEWS | latent(0.05),
        "atoms-latent-0.2": TWO_VIEWS | latent(0.2),
        "atoms-latent-1": TWO_VIEWS | latent(1.0),
        "mid-layer-latent": TWO_VIEWS | latent(0.2),
        "infonce": TWO_VIEWS | latent(0.05),
        "cosine": TWO_VIEWS | latent(0.4),  # 1 − cos is half the squared distance
        "no-pair-forces-2-views": TWO_VIEWS | {"model.edge_force_head": False},
        "consistency": TWO_VIEWS | latent(0.5),
        "consistency-0.1": TWO_VIEWS | latent(0.1),
        "consistency-0.02": TWO_VIEWS | latent(0.02),
        "shallow-second-view": {"training.batch.batch_size": 11},
    },
    # A Transformer without our convolutions and pair forces, on absolute coordinates.
    "plain-backbone": {
        "augment-1-view": PLAIN,
        "augment-2-views": PLAIN | TWO_VIEWS,
        "pooled-latent-0.2": PLAIN | TWO_VIEWS | POOLED | latent(0.2),
        "pooled-latent-1": PLAIN | TWO_VIEWS | POOLED | latent(1.0),
        "pooled-latent-5": PLAIN | TWO_VIEWS | POOLED | latent(5.0),
        "atoms-latent-0.2": PLAIN | TWO_VIEWS | latent(0.2),
        "atoms-latent-1": PLAIN | TWO_VIEWS | latent(1.0),
    },
    # The paper's own comparison: equal epochs, so that two views cost twice the passes of one.
    "paper-comparison": sized(
        {
            "augment-1-view": PLAIN,
            "augment-1-view-twice": PLAIN | {"training.batch.batch_size": 32},  # as many passes as two views
            "augment-2-views": PLAIN | {"objective.views": 2},
            "pooled-latent": PLAIN | {"objective.views": 2} | POOLED | latent(1.0),
        },
        structures(500, 2000, 8370),
    ),
    # What the plain backbone's two additions are worth, from the paper's backbone on.
    "paper-backbone": {
        "paper": {"model.preset": "paper"},
        "rotary-values": {"model.preset": "paper", "parts.rotary_values": True},
        "distance-bias": {"model.preset": "paper", "parts.distance_bias": True},
        "plain": PLAIN,
    },
    "few-labels": sized(
        {
            **OBJECTIVES,
            HALF: HALF_BATCH,
            "atoms-latent-pool": WITH_POOL | latent(0.2),
            "consistency-pool": WITH_POOL | latent(0.5),
        },
        structures(250, 1000, 4000),
    ),
    # The study's model with angles, and without, or with another setting of, each of its ingredients.
    "ingredients": {
        "default": ONE_VIEW,
        "angles-64": {"model.angular_channels": 64},
        "no-rotary-values": {"parts.rotary_values": False},
        "no-distance-bias": {"parts.distance_bias": False},
        "no-convolutions": {"model.num_local_layers": 0},
        "no-pair-forces": {"model.edge_force_head": False},
        "absolute-features": {"parts.absolute_features": True},
        "frequencies-to-3": {"parts.max_frequency": 3.0},
        "frequencies-to-12": {"parts.max_frequency": 12.0},
        "8-heads": {"model.heads": 8},
        "depth-2": {"model.depth": 2},
        "depth-6": {"model.depth": 6},
        "adamw": {"training.optimizer.name": "adamw"},
    },
    "forces": {
        "direct": ONE_VIEW,
        "gradient": {"model.forces": "conservative"},
        "gradient-angles-64": {"model.forces": "conservative", "model.angular_channels": 64},
        "gradient-equigrad": {"model.forces": "conservative", "objective.equigrad_weight": 0.01},
    },
    # The tangent of a structure counts as a second pass, takes longer than one, and no labels are learned from it.
    "infinitesimal": {
        **CONTROLS,
        HALF: HALF_BATCH,
        "generator-0.05": HALF_BATCH,
        "generator-0.5": HALF_BATCH,
    },
    "data-size": sized(PRESENT_OBJECTIVES, structures(250, 1000, 4000, 8370)),
    "model-size": sized(PRESENT_OBJECTIVES, WIDTHS | {192: {"model.width": 192, "model.heads": 12}}),
    # Many epochs of few structures: where is the peak of the validation error, and who moves it?
    "long": sized(
        PRESENT_OBJECTIVES,
        {
            width: change | {"data.max_train": 250, "training.steps": 3200, "training.evaluate_every": 400}
            for width, change in WIDTHS.items()
        },
    ),
    "second-backbone": {
        **CONTROLS,
        "pooled-latent": TWO_VIEWS | POOLED | latent(1.0),
        "atoms-latent-0.2": TWO_VIEWS | latent(0.2),
        "atoms-latent-1": TWO_VIEWS | latent(1.0),
    },
}


# Of entries (GROUP/WHAT), what stands in the place of the latent loss, or is added to the recipe's terms.
LOSS_TERMS: dict[str, BuildLossTerms] = {
    "objective/mid-layer-latent": terms.latent(layers=[1]),
    "objective/infonce": terms.latent(distance=terms.info_nce),
    "objective/cosine": terms.latent(distance=terms.cosine),
    "objective/consistency": terms.consistency(),
    "objective/consistency-0.1": terms.consistency(),
    "objective/consistency-0.02": terms.consistency(),
    "objective/shallow-second-view": terms.partial_second_view(0.2, 0.9, layer=1),
    "few-labels/consistency-pool": terms.consistency(),
    "infinitesimal/generator-0.05": terms.infinitesimal(0.05),
    "infinitesimal/generator-0.5": terms.infinitesimal(0.5),
}
# Passes of a step that its loss term makes: half of the blocks for 10 of 11 structures; the tangents of 8.
PASSES_OF_TERMS = {
    "objective/shallow-second-view": 5,
    "infinitesimal/generator-0.05": 8,
    "infinitesimal/generator-0.5": 8,
}


def counted(group: str, entry: str) -> bool:
    """Whether a step of the entry has to make `PASSES` passes."""
    return group not in UNEQUAL and entry.partition("@")[0] != HALF


def passes(group: str, entry: str, recipe: Recipe) -> int:
    """Forward passes of one step; two passes through half of the blocks count as one."""
    batch, of_terms = recipe.training.batch, PASSES_OF_TERMS.get(f"{group}/{entry}", 0)
    return batch.batch_size * recipe.objective.views + 2 * batch.unlabelled + of_terms
