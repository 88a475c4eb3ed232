"""A training recipe: all settings of a run."""

from __future__ import annotations

from pydantic import Field, model_validator

from transip.config.base import Settings
from transip.config.data import DataSettings, ReferenceSettings
from transip.config.loading import parse
from transip.config.model import ModelSettings
from transip.config.objective import ObjectiveSettings
from transip.config.training import FineTuningSettings, TrainingSettings
from transip.errors import InputError


class Recipe(Settings):
    """A training recipe (`transip train`)."""

    name: str = Field(description="name of the run; its folder is runs/NAME unless another is given")
    data: DataSettings = Field(description="training and validation data")
    model: ModelSettings = Field(default_factory=ModelSettings, description="the network")
    init_from: str | None = Field(
        default=None,
        description="trained model with whose weights, element energies and scale training begins: a folder, the name "
        "of a shipped model, or owner/name on the Hugging Face Hub; `model` is then that model's, but `forces` may "
        "differ",
    )
    fine_tuning: FineTuningSettings = Field(
        default_factory=FineTuningSettings, description="what is kept of the model `init_from`"
    )
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings, description="the loss")
    references: ReferenceSettings = Field(default_factory=ReferenceSettings, description="element energies")
    training: TrainingSettings = Field(description="budget, optimiser, evaluations")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.name in ("", ".", "..") or not self.name.isprintable() or set(self.name) & set("/\\"):
            raise ValueError(f"name {self.name!r} cannot be that of a folder in runs/")
        if self.init_from is None and self.fine_tuning != FineTuningSettings():
            raise ValueError("fine_tuning says what to keep of a trained model: give init_from")
        if self.init_from is not None and self.references != ReferenceSettings():
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
        latent, frozen = self.objective.latent, self.fine_tuning.frozen_blocks
        if latent.weight and latent.action == "fixed" and not self.model.fixed_representation:
            raise ValueError("latent.action 'fixed' needs model.fixed_representation: true")
        if self.objective.equigrad_weight and self.model.forces != "conservative":
            raise ValueError("objective.equigrad_weight penalises ∂E/∂rotation: it needs model.forces: conservative")
        outside = [k for k in latent.layers if not -self.model.depth <= k < self.model.depth]
        if outside:
            raise ValueError(f"latent.layers {outside} do not exist in a model of depth {self.model.depth}")
        if frozen is not None and frozen > self.model.depth:
            raise ValueError(f"fine_tuning.frozen_blocks {frozen} exceeds the model's depth {self.model.depth}")

    def _check_views(self) -> None:
        packs, number, compared = self.data.unlabelled, self.training.batch.unlabelled, self.objective.comparison
        if number and not packs:
            raise ValueError(f"training.batch.unlabelled {number} has nothing to draw from: give data.unlabelled")
        if bool(self.data.replay) != bool(self.training.batch.replay):
            raise ValueError(
                "data.replay and training.batch.replay go together: which packs, how many structures a batch"
            )
        if packs and not number:
            raise ValueError("data.unlabelled is never seen: set training.batch.unlabelled above 0")
        if packs and not compared:
            raise ValueError(
                "data.unlabelled serves only losses between two views: "
                "set objective.latent.weight or objective.consistency above 0"
            )
        if compared and self.objective.views != 2 and not packs:
            raise ValueError(
                f"objective.{compared} > 0 compares two views: set objective.views to 2, or give data.unlabelled"
            )
