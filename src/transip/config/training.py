"""Settings of a training run: budget, optimiser, what is kept of a model from which training begins."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from transip.config.base import Count, Fraction, NonNegative, PositiveFloat, PositiveInt, Seed, Settings
from transip.config.data import BatchSettings


class OptimizerSettings(Settings):
    """Muon for the matrices inside the blocks, AdamW for everything else."""

    name: Literal["muon", "adamw"] = "muon"
    """adamw: AdamW for the matrices, too"""
    learning_rate: PositiveFloat = 2e-3
    """peak learning rate of AdamW"""
    muon_learning_rate: PositiveFloat = 0.015
    """peak learning rate of Muon"""
    momentum: Fraction = 0.95
    """momentum of Muon"""
    weight_decay: NonNegative = 0.0
    """decoupled weight decay of matrices"""
    warmup: Fraction = 0.02
    """fraction of the training over which the learning rate rises linearly from 0"""
    min_lr_ratio: Fraction = 0.01
    """final learning rate / peak learning rate; a cosine leads from the one to the other"""
    grad_clip_norm: PositiveFloat = 10.0
    """gradients with a larger norm are scaled down to it"""


class TrainingSettings(Settings):
    """The budget, the optimiser, and how often the run is evaluated, saved and logged."""

    steps: PositiveInt | None = None
    """budget in optimiser steps; None: see `minutes`"""
    minutes: PositiveFloat | None = None
    """budget in minutes of wall time, which the schedule follows if `steps` is None"""
    batch: BatchSettings = BatchSettings()
    """what goes into one step"""
    optimizer: OptimizerSettings = OptimizerSettings()
    """optimiser and schedule"""
    grad_accumulation: PositiveInt = 1
    """batches per optimiser step"""
    ema_decay: Fraction = 0.99
    """decay per step of the exponential moving average of the weights, which is evaluated and saved; 0: no average"""
    evaluate_every: PositiveInt | None = None
    """steps between evaluations; None: ten evaluations, evenly spread over the budget"""
    checkpoint_every: PositiveInt = 500
    """steps between checkpoints"""
    log_every: PositiveInt = 20
    """steps between lines of metrics.jsonl"""
    early_stopping_patience: PositiveInt | None = None
    """training ends after this many evaluations without a smaller force MAE; None: when the budget is used"""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast of matrix products (angles stay float32)"""
    compile: bool = False
    """compile the network: steps take up to a sixth less time, up to a quarter with conservative forces, after one to
    five minutes of compiling, once per machine and network; needs a C++ compiler on CPUs"""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """a batch whose loss or gradient is not finite never changes the weights. stop: the run ends; skip: it goes on
    without the batch, warns and logs it, but ends after ten such batches in a row"""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """metrics are logged there, too (optional packages)"""
    seed: Seed = 0
    """seed of weights, batches and rotations"""

    @model_validator(mode="after")
    def _check(self) -> TrainingSettings:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either training.steps or training.minutes")
        return self


class FineTuningSettings(Settings):
    """What is kept of the model from which training begins (`init_from`)."""

    frozen_blocks: Count | None = None
    """the embedding and this many blocks, from the first on, stay as they are; elements, charges and multiplicities
    that the model has not been trained on are learned all the same; None: everything is trained"""
    lora_rank: Count = 0
    """low-rank adapters (LoRA): embedding and blocks stay as they are, but a matrix of this rank is learned for each
    matrix of attention and MLP of the blocks that are not frozen, and added to it when the model is saved; 0: none"""
    references: Literal["auto", "keep", "refit"] = "auto"
    """element energies. keep: the model's, and fitted ones for elements that it has not been trained on; refit: fitted
    to the difference between the new energies and the model's predictions; auto: keep if the level of theory is the
    same, otherwise refit"""
