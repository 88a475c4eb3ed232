"""The objective: a sum of loss terms, each a function of one step's batch and of what the potential predicts for it.

A term of your own is an object with a name that can be called with a `LossContext`; see `transip.training.terms` for
those of the package, and pass yours to `train` with ``loss_terms=``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch, Prediction
from transip.errors import InputError
from transip.model.potential import Potential
from transip.training.training_batch import TrainingBatch, Views


@runtime_checkable
class LossTerm(Protocol):
    """One term of the loss.

    Its attribute ``name``, a Python identifier, names it in the log, as ``NAME_loss``. It may also have an attribute
    ``layers``, the blocks after which it reads embeddings (`-1` is the last one). The parameters of an `nn.Module` are
    trained, checkpointed and restored with those of the potential; each must have a gradient at every step.
    """

    @property
    def name(self) -> str:
        """What the term is called in the log."""
        ...

    def __call__(self, ctx: LossContext) -> Tensor:
        """The term's share of the loss, weighted, divided by what `ctx.normalizer` says; a scalar."""
        ...


class LossContext:
    """One process's batch and what the potential predicts for it, which is computed once, when first asked for.

    Attributes:
        potential: the potential that is trained.
        batch: what this process sees at this step.
        normalizer: what sums over this process's structures and atoms are divided by.
        progress: of training, from 0 to 1.
        scale: about the root mean square force in eV/Å, by which errors of energies and forces are divided.
    """

    def __init__(
        self,
        potential: Potential,
        batch: TrainingBatch,
        progress: float,
        layers: Sequence[int] = (),
        bf16: bool = False,
    ):
        self.potential, self.batch, self.progress = potential, batch, progress
        self.normalizer, self.scale = batch.normalizer, potential.scale
        self._layers, self._bf16 = tuple(layers), bf16

    def autocast(self) -> AbstractContextManager:
        """The precision of the recipe, for the network alone: rotating positions in bfloat16 would move the atoms."""
        device = self.batch.labelled.batch.positions.device.type
        return torch.autocast(device, torch.bfloat16) if self._bf16 else nullcontext()

    @cached_property
    def labelled_views(self) -> Batch:
        """The labelled structures, rotated with their labels: in the first view, then in the second, if any."""
        return self.batch.labelled.rotated

    @cached_property
    def prediction(self) -> Prediction:
        """What the potential predicts for `labelled_views`."""
        with self.autocast():
            return self.potential(self.labelled_views, self._layers)

    @cached_property
    def unlabelled_prediction(self) -> Prediction | None:
        """What the potential predicts for the unlabelled structures in the first, then in the second view."""
        if self.batch.unlabelled is None:
            return None
        with self.autocast():
            return self.potential(self.batch.unlabelled.rotated, self._layers)

    @cached_property
    def pairs(self) -> Views:
        """All structures that are seen in two views, labelled ones first.

        Raises:
            InputError: there are none.
        """
        if (pairs := self.batch.pairs) is None:
            raise InputError(
                "a loss term compares two views of a structure, and each is seen in one",
                where="objective.views",
                remedy="set objective.views to 2, or give data.unlabelled",
            )
        return pairs

    def embeddings(self, layer: int = -1) -> Float[Tensor, "atoms width"]:
        """Embeddings of the atoms of `labelled_views` after a block, which must be one of the terms' ``layers``."""
        return self.prediction.embeddings[self._layers.index(layer)]

    def pair_embeddings(self, layer: int = -1) -> tuple[Float[Tensor, "atoms width"], Float[Tensor, "atoms width"]]:
        """Embeddings of the atoms of `pairs` in the first and in the second view, after a block as in `embeddings`."""
        unlabelled = None
        if self.batch.unlabelled is not None:
            with self.autocast():
                (unlabelled,) = self.potential.embeddings(self.batch.unlabelled.rotated, (layer,))
        return self.split_views(self.embeddings(layer), unlabelled)

    def split_views(self, labelled: Tensor, unlabelled: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values for the structures (or atoms) of `pairs` in the first and in the second view.

        Args:
            labelled: values for those of `labelled_views`.
            unlabelled: values for the unlabelled ones in the first, then in the second view; None if there are none.
        """
        both = [labelled] if len(self.batch.labelled.rotations) == 2 else []
        both += [] if unlabelled is None else [unlabelled]
        first, second = zip(*(values.chunk(2) for values in both), strict=True)
        return torch.cat(first), torch.cat(second)


class Objective(nn.Module):
    """A potential and the loss terms that train it.

    Raises:
        InputError: there is no term, or two have the same name, or one has a name that cannot be logged.
    """

    def __init__(self, potential: Potential, terms: Sequence[LossTerm], bf16: bool = False):
        super().__init__()
        names = [term.name for term in terms]
        if not names or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
            raise InputError(
                f"loss terms need names that differ and are words, not: {', '.join(names) or 'none'}",
                where="loss_terms",
            )
        self.potential, self.loss_terms, self.bf16 = potential, tuple(terms), bf16
        self.terms = nn.ModuleDict({term.name: term for term in terms if isinstance(term, nn.Module)})
        self.layers = tuple(sorted({layer for term in terms for layer in getattr(term, "layers", ())}))

    def forward(self, batch: TrainingBatch, progress: float) -> dict[str, Tensor]:
        """The terms of the loss of one process's batch, by name; the loss is their sum."""
        ctx = LossContext(self.potential, batch, progress, self.layers, self.bf16)
        return {term.name: term(ctx) for term in self.loss_terms}
