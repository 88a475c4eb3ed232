"""Everything that the study runs: groups of entries, each the base recipe (base.yaml) with some settings changed.

An entry is called WHAT or, in groups that repeat the same entries at several sizes, WHAT@SIZE. `augment-1-view` and
`augment-2-views` are the controls. Every step makes 16 forward passes of a structure through the network; `passes`
counts them, and run.py refuses an entry with another number. Exceptions are `paper-comparison`, which compares equal
epochs because the paper did, and `HALF`: as many labels as an entry learns from that spends its other passes on views
without labels. Entries that were measured with an earlier build and cannot be run any more are in results.jsonl alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.study import terms
from benchmarks.study.backbone import MessagePassing, plain_backbone
from transip.config import Recipe

PASSES = 16
UNEQUAL = ("paper-comparison",)  # groups that may make another number of passes a step
HALF = "augment-1-view-half"  # and an entry that may


@dataclass(frozen=True)
class Entry:
    """What is particular to a run.

    Attributes:
        settings: changes of the base recipe.
        code: arguments of `train` that pass code: `backbone`, `loss_terms`.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def __or__(self, settings: dict[str, Any]) -> Entry:
        """The entry with further settings."""
        return replace(self, settings=self.settings | settings)


def latent(weight: float, level: str = "atoms", **code: Callable[..., Any]) -> Entry:
    """Two views with the latent loss, or with the loss of `code` in its place."""
    return replace(TWO_VIEWS, code=code) | {"objective.latent.weight": weight, "objective.latent.level": level}


def on_unlabelled(entry: Entry) -> Entry:
    """Labelled structures in one view, geometries of all training data in two: 8 + 4 × 2 passes."""
    batch = {"training.batch.batch_size": 8, "training.batch.unlabelled": 4}
    return entry | {"objective.views": 1, "data.unlabelled": ["data/organics.pack"], **batch}


def on_backbone(build: Callable[..., Any], entries: dict[str, Entry], **settings: Any) -> dict[str, Entry]:
    """The same entries on another backbone."""
    return {name: replace(entry | settings, code=entry.code | {"backbone": build}) for name, entry in entries.items()}


def sized(entries: dict[str, Entry], sizes: dict[int, dict[str, Any]]) -> dict[str, Entry]:
    """Every entry at every size: WHAT@SIZE."""
    return {f"{name}@{size}": entry | change for size, change in sizes.items() for name, entry in entries.items()}


def structures(*numbers: int) -> dict[int, dict[str, Any]]:
    return {number: {"data.max_train": number} for number in numbers}


ONE_VIEW, HALF_BATCH = Entry(), Entry({"training.batch.batch_size": 8})
TWO_VIEWS = HALF_BATCH | {"objective.views": 2}
CONTROLS = {"augment-1-view": ONE_VIEW, "augment-2-views": TWO_VIEWS}
OBJECTIVES = {**CONTROLS, "atoms-latent": latent(0.2)}
# Likewise with the default model as it is now, but for direct forces: base.yaml has the one that most of the study was
# made with.
PRESENT = {"model.depth": 2, "model.angular_channels": 64, "model.num_rbf": 12}
PRESENT_OBJECTIVES = {name: entry | PRESENT for name, entry in OBJECTIVES.items()}
WIDTHS: dict[int, dict[str, Any]] = {  # 64 is the base
    32: {"model.width": 32, "model.heads": 2},
    64: {},
    128: {"model.width": 128, "model.heads": 8},
}
PAPER = {"model.preset": "paper"}

GROUPS: dict[str, dict[str, Entry]] = {
    "objective": {
        "raw": Entry({"objective.augment": False}),
        **CONTROLS,
        "pooled-latent": latent(1.0, "pooled"),
        "atoms-latent-0.05": latent(0.05),
        "atoms-latent-0.2": latent(0.2),
        "atoms-latent-1": latent(1.0),
        "mid-layer-latent": latent(0.2, loss_terms=terms.latent(layers=[1])),
        "infonce": latent(0.05, loss_terms=terms.latent(distance=terms.info_nce)),
        "cosine": latent(0.4, loss_terms=terms.latent(distance=terms.cosine)),  # half the squared distance
        "no-pair-forces-2-views": TWO_VIEWS | {"model.edge_force_head": False},
        "consistency": latent(0.5, loss_terms=terms.consistency),
        "consistency-0.1": latent(0.1, loss_terms=terms.consistency),
        "consistency-0.02": latent(0.02, loss_terms=terms.consistency),
    },
    # A Transformer without our local layers and edge force head, on absolute coordinates.
    "plain-backbone": on_backbone(
        plain_backbone,
        {
            **CONTROLS,
            "pooled-latent-0.2": latent(0.2, "pooled"),
            "pooled-latent-1": latent(1.0, "pooled"),
            "pooled-latent-5": latent(5.0, "pooled"),
            "atoms-latent-0.2": latent(0.2),
            "atoms-latent-1": latent(1.0),
        },
        **PAPER,
    ),
    # The paper's own comparison: equal epochs, so that two views cost twice the passes of one.
    "paper-comparison": sized(
        on_backbone(
            plain_backbone,
            {
                "augment-1-view": ONE_VIEW,
                "augment-1-view-twice": Entry({"training.batch.batch_size": 32}),  # as many passes as two views
                "augment-2-views": Entry({"objective.views": 2}),
                "pooled-latent": latent(1.0, "pooled") | {"training.batch.batch_size": 16},
            },
            **PAPER,
        ),
        structures(500, 2000, 8370),
    ),
    # What the plain backbone's additions are worth to the paper's backbone.
    "paper-backbone": {"paper": Entry(PAPER), **on_backbone(plain_backbone, {"plain": Entry(PAPER)})},
    "few-labels": sized(
        {
            **OBJECTIVES,
            HALF: HALF_BATCH,
            "atoms-latent-pool": on_unlabelled(latent(0.2)),
            "consistency-pool": on_unlabelled(latent(0.5, loss_terms=terms.consistency)),
        },
        structures(250, 1000, 4000),
    ),
    # The study's model with angles, and without, or with another setting of, each of its ingredients.
    "ingredients": {
        "default": ONE_VIEW,
        "angles-64": Entry({"model.angular_channels": 64}),
        "no-convolutions": Entry({"model.num_local_layers": 0}),
        "no-pair-forces": Entry({"model.edge_force_head": False}),
        "8-heads": Entry({"model.heads": 8}),
        "depth-2": Entry({"model.depth": 2}),
        "depth-6": Entry({"model.depth": 6}),
        "adamw": Entry({"training.optimizer.name": "adamw"}),
    },
    "forces": {
        "direct": ONE_VIEW,
        "gradient": Entry({"model.forces": "conservative"}),
        "gradient-angles-64": Entry({"model.forces": "conservative", "model.angular_channels": 64}),
        "gradient-equigrad": Entry({"model.forces": "conservative", "objective.equigrad_weight": 0.01}),
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
    "second-backbone": on_backbone(
        MessagePassing,
        {
            **CONTROLS,
            "pooled-latent": latent(1.0, "pooled"),
            "atoms-latent-0.2": latent(0.2),
            "atoms-latent-1": latent(1.0),
        },
    ),
}


def counted(group: str, entry: str) -> bool:
    """Whether a step of the entry has to make `PASSES` passes."""
    return group not in UNEQUAL and entry.partition("@")[0] != HALF


def passes(recipe: Recipe) -> int:
    """Forward passes of one step."""
    return recipe.training.batch.batch_size * recipe.objective.views + 2 * recipe.training.batch.unlabelled
