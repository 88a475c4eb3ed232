"""Settings of a training run: budget, optimiser, what is kept of a model from which training begins."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from transip.config.base import Count, Fraction, NonNegative, PositiveInt, Seed, Settings
from transip.config.data import BatchSettings


class OptimizerSettings(Settings):
    """Muon for the matrices inside the blocks, AdamW for everything else."""

    name: Literal["muon", "adamw"] = Field(default="muon", description="adamw: AdamW for the matrices, too")
    learning_rate: float = Field(default=2e-3, gt=0, description="peak learning rate of AdamW")
    muon_learning_rate: float = Field(default=0.015, gt=0, description="peak learning rate of Muon")
    momentum: Fraction = Field(default=0.95, description="momentum of Muon")
    weight_decay: NonNegative = Field(default=0.0, description="decoupled weight decay of matrices")
    warmup: Fraction = Field(
        default=0.02, description="fraction of the training over which the learning rate rises linearly from 0"
    )
    min_lr_ratio: Fraction = Field(
        default=0.01, description="final learning rate / peak learning rate; a cosine leads from the one to the other"
    )
    grad_clip_norm: float = Field(default=10.0, gt=0, description="gradients with a larger norm are scaled down to it")


class TrainingSettings(Settings):
    """The budget, the optimiser, and how often the run is evaluated, saved and logged."""

    steps: int | None = Field(default=None, gt=0, description="budget in optimiser steps; None: see `minutes`")
    minutes: float | None = Field(
        default=None, gt=0, description="budget in minutes of wall time, which the schedule follows if `steps` is None"
    )
    batch: BatchSettings = Field(default_factory=BatchSettings, description="what goes into one step")
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings, description="optimiser and schedule")
    grad_accumulation: PositiveInt = Field(default=1, description="batches per optimiser step")
    ema_decay: Fraction = Field(
        default=0.99,
        description="decay per step of the exponential moving average of the weights, which is evaluated and saved; "
        "0: no average",
    )
    evaluate_every: PositiveInt = Field(default=500, description="steps between evaluations")
    checkpoint_every: PositiveInt = Field(default=500, description="steps between checkpoints")
    log_every: PositiveInt = Field(default=20, description="steps between lines of metrics.jsonl")
    early_stopping_patience: int | None = Field(
        default=None, gt=0, description="training ends after this many evaluations without a smaller force MAE"
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="bf16: autocast of matrix products (angles stay float32)"
    )
    compile: bool = Field(
        default=False,
        description="compile the network: steps take up to a sixth less time, up to a quarter with conservative "
        "forces, after one to five minutes of compiling, once per machine and network; needs a C++ compiler on CPUs",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description="a batch whose loss or gradient is not finite never changes the weights. stop: the run ends; "
        "skip: it goes on without the batch, warns and logs it, but ends after ten such batches in a row",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=(), description="metrics are logged there, too (optional packages)"
    )
    seed: Seed = Field(default=0, description="seed of weights, batches and rotations")

    @model_validator(mode="after")
    def _check(self) -> TrainingSettings:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either training.steps or training.minutes")
        return self


class FineTuningSettings(Settings):
    """What is kept of the model from which training begins (`init_from`)."""

    frozen_blocks: int | None = Field(
        default=None,
        ge=0,
        description="the embedding and this many blocks, from the first on, stay as they are; elements, charges and "
        "multiplicities that the model has not been trained on are learned all the same; None: everything is trained",
    )
    lora_rank: Count = Field(
        default=0,
        description="low-rank adapters (LoRA): embedding and blocks stay as they are, but a matrix of this rank is "
        "learned for each matrix of attention and MLP of the blocks that are not frozen, and added to it when the "
        "model is saved; 0: none",
    )
    alpha: float = Field(default=8.0, gt=0, description="adapters are scaled by alpha / lora_rank")
    references: Literal["auto", "keep", "refit"] = Field(
        default="auto",
        description="element energies. keep: the model's, and fitted ones for elements that it has not been trained "
        "on; refit: fitted to the difference between the new energies and the model's predictions; auto: keep if the "
        "level of theory is the same, otherwise refit",
    )
