"""A training recipe: all settings of a run."""

from __future__ import annotations

from pydantic import model_validator

from transip.config.base import Settings
from transip.config.data import DataSettings, ReferenceSettings
from transip.config.loading import parse
from transip.config.model import ModelSettings
from transip.config.objective import ObjectiveSettings
from transip.config.training import FineTuningSettings, TrainingSettings
from transip.errors import InputError


class Recipe(Settings):
    """A training recipe (`transip train`)."""

    name: str
    """name of the run; its folder is runs/NAME unless another is given"""
    data: DataSettings
    """training and validation data"""
    model: ModelSettings = ModelSettings()
    """the network"""
    init_from: str | None = None
    """trained model with whose weights, element energies and scale training begins: a folder, the name of a shipped
    model, or owner/name on the Hugging Face Hub; `model` is then that model's, but `forces` may differ"""
    fine_tuning: FineTuningSettings = FineTuningSettings()
    """what is kept of the model `init_from`"""
    objective: ObjectiveSettings = ObjectiveSettings()
    """the loss"""
    references: ReferenceSettings = ReferenceSettings()
    """element energies"""
    training: TrainingSettings
    """budget, optimiser, evaluations"""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.name in ("", ".", "..") or not self.name.isprintable() or set(self.name) & set("/\\"):
            raise ValueError(f"name {self.name!r} cannot be that of a folder in runs/")
        if self.init_from is None and self.fine_tuning != FineTuningSettings():
            raise ValueError("fine_tuning says what to keep of a trained model: give init_from")
        if self.init_from is not None and (self.references.kind != "least-squares" or self.references.values):
            raise ValueError("with init_from, element energies are that model's: see fine_tuning.references")
        self._check_views()
        if self.init_from is None:
            self._check_model()
        return self

    def resolve(self, init_from: ModelSettings | None = None) -> Recipe:
        """The recipe with all of its `model` written out: what it does not say is as in `init_from`.

        Args:
            init_from: settings of the model with which training begins; None if there is none.

        Raises:
            InputError: the recipe does not fit that model.
        """
        if init_from is None:
            return self
        given = self.model.model_dump(include=self.model.model_fields_set)
        where = f"{self.name}, with the model of {self.init_from}"
        recipe = parse(Recipe, self.model_dump() | {"model": init_from.model_dump() | given}, where)
        try:
            recipe._check_model()
        except ValueError as error:
            raise InputError(str(error), where=where) from None
        return recipe

    def _check_model(self) -> None:
        frozen = self.fine_tuning.frozen_blocks
        if self.objective.equigrad_weight and self.model.forces != "conservative":
            raise ValueError("objective.equigrad_weight penalises ∂E/∂rotation: it needs model.forces: conservative")
        if frozen is not None and frozen > self.model.depth:
            raise ValueError(f"fine_tuning.frozen_blocks {frozen} exceeds the model's depth {self.model.depth}")

    def _check_views(self) -> None:
        packs, number, latent = self.data.unlabelled, self.training.batch.unlabelled, self.objective.latent.weight
        if number and not packs:
            raise ValueError(f"training.batch.unlabelled {number} has nothing to draw from: give data.unlabelled")
        if bool(self.data.replay) != bool(self.training.batch.replay):
            raise ValueError(
                "data.replay and training.batch.replay go together: which packs, how many structures a batch"
            )
        if packs and not number:
            raise ValueError("data.unlabelled is never used: set training.batch.unlabelled above 0")
        if packs and not latent:
            raise ValueError("data.unlabelled serves only the latent loss: set objective.latent.weight above 0")
        if latent and self.objective.views != 2 and not packs:
            raise ValueError(
                "objective.latent.weight > 0 compares two views: set objective.views to 2, or give data.unlabelled"
            )
