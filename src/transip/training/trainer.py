"""Training: a recipe goes in, a run folder with metrics, checkpoints and a model comes out.

Runs on one process or, started by `torchrun` or `accelerate launch`, on many. What a run sees at a step is a pure
function of the recipe and the step's number, so a killed run goes on exactly where its last checkpoint stood.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor

from transip.config import Recipe
from transip.errors import InputError, InputWarning
from transip.memory import tune_malloc
from transip.metrics.validation import validation_metrics
from transip.model.backbone import BuildBackbone
from transip.model.card import reference_metrics
from transip.model.compiled import compile_network
from transip.model.potential import Potential
from transip.quantities import FORCE_MAE
from transip.symmetry.latent import LatentEquivariance
from transip.training.best_model import save_best_model
from transip.training.callbacks import Callback
from transip.training.checkpoint import TrainingState, checkpoints, load_checkpoint, save_checkpoint
from transip.training.clock import TrainingClock
from transip.training.ema import make_ema
from transip.training.interrupt import Interrupted, StopSignals
from transip.training.log import MetricsFile, ProgressDisplay, memory_mb
from transip.training.nonfinite import check_weights, nonfinite_loss
from transip.training.objective import LossTerm, Objective
from transip.training.optim import Optimizers
from transip.training.run_folder import RunFolder
from transip.training.start import build_potential, resolve_model_settings
from transip.training.terms import Latent, build_loss_terms
from transip.training.training_data import TrainingData
from transip.training.view_sampler import ViewBatch, ViewSampler

BuildLossTerms = Callable[[Recipe, Potential], Sequence[LossTerm]]
Record = dict[str, Any]  # a line of metrics.jsonl

WORSE = 1.01  # times the force MAE of the start model: worse than that, and a run is warned of
MAX_CONSECUTIVE_SKIPS = 10  # batches in a row that are not finite: then it is not the batches


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    backbone: BuildBackbone | None = None,
    loss_terms: BuildLossTerms | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train as `recipe` says; returns the folder of the trained model, ``folder/model``.

    Args:
        recipe: what to train, on what, how long.
        folder: of the run; holds recipe.yaml, metrics.jsonl, checkpoints/ and model/.
        resume: go on from the newest checkpoint in `folder`, if there is one.
        progress: show a live progress bar.
        backbone: builds a backbone of your own, see `transip.model.backbone.Backbone`, from `recipe.model`.
        loss_terms: builds the terms of the loss in the place of `transip.training.terms.build_loss_terms`, which makes
            those that the recipe asks for.
        callbacks: look on, and may add to the log.

    Raises:
        InputError: data or settings do not fit, the folder already holds a run and `resume` is False, the run was begun
            with another backbone or other loss terms, or another process is training there.
        NonFiniteLoss: a loss is NaN or infinite, and `training.on_nonfinite` does not say to skip such batches; the
            last checkpoint is kept.
        Interrupted: Ctrl-C or SIGTERM came; there is a checkpoint of the last step.
    """
    tune_malloc()
    run_folder, recipe = RunFolder(folder), resolve_model_settings(recipe, backbone)
    is_main_process = PartialState(cpu=_on_cpu()).is_main_process
    with run_folder.claimed() if is_main_process else nullcontext():
        run_folder.check(recipe, resume)
        # Reads the data; nothing is written if they do not fit.
        code: dict[str, Any] = {"backbone": backbone, "loss_terms": loss_terms, "callbacks": callbacks}
        trainer = Trainer(recipe, run_folder, resume=resume, **code)
        trainer.accelerator.wait_for_everyone()  # until all have looked at what is there
        if is_main_process:
            run_folder.begin(recipe)
        return trainer.run(progress)


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one optimiser step came to."""

    losses: Tensor  # this process's sums over accumulated batches: the loss, then its terms
    grad_norm: float  # before clipping
    learning_rate: float  # AdamW's
    atoms_per_second: float  # labelled atoms of all processes


class Trainer:
    """A run in memory.

    Attributes:
        recipe: what is trained.
        run_folder: where it is written.
        data: what it learns from and is validated on.
        objective: the potential and its loss terms.
        ema: the potential with averaged weights, if the recipe has them.
        state: counters that a resumed run continues.
        clock: how much of the budget is used.
    """

    def __init__(
        self,
        recipe: Recipe,
        run_folder: RunFolder,
        *,
        resume: bool = False,
        backbone: BuildBackbone | None = None,
        loss_terms: BuildLossTerms | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        self.recipe, self.settings, self.run_folder = recipe, recipe.training, run_folder
        self.callbacks = tuple(callbacks)
        self.accelerator = Accelerator(
            # What accelerate's launcher would set for the whole network, the recipe sets where it does no harm.
            mixed_precision="no",
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            cpu=_on_cpu(),
            log_with=list(self.settings.trackers) or None,
            project_dir=str(run_folder.path),
        )
        self.num_processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.device = self.accelerator.device
        self.data = TrainingData.open(recipe)
        data = self.data
        self.sampler = ViewSampler(recipe, data.train, data.unlabelled, data.replay, self.num_processes)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are their own
            torch.manual_seed(self.settings.seed)
            potential = build_potential(recipe, data.train, data.replay, backbone)
            terms = (loss_terms or build_loss_terms)(recipe, potential)
            self.objective = Objective(potential, terms, self.settings.precision == "bf16").to(self.device)
        if recipe.data.validation:  # otherwise compositions were split, and looking at all of them again says nothing
            potential.card["data"]["validation_trained_on"] = data.num_validation_trained_on
        self.optimizers = Optimizers(self.objective, self.settings.optimizer)
        self.ema = make_ema(potential, self.settings.ema_decay) if self.settings.ema_decay else None
        self.state = TrainingState(classes=_class_names(self.objective))
        if resume:
            self._restore()
        if self.settings.compile:
            compile_network(potential, self.device)
        self._wrapped = self.accelerator.prepare_model(self.objective)
        self._batches = self.sampler.batches(self.state.batches)
        self.clock = TrainingClock(self.settings, self.state.seconds, self._mean)
        self._metrics: MetricsFile | None = None
        self._display = ProgressDisplay(recipe.name, enabled=False)

    @property
    def potential(self) -> Potential:
        """The potential that is evaluated and saved: averaged weights, if there are any."""
        return self.objective.potential if self.ema is None else cast(Potential, self.ema.module)

    @property
    def progress(self) -> float:
        """Fraction of the budget that is used, from 0 to 1; the same in all processes."""
        return self.clock.progress(self.state.step)

    @property
    def latent(self) -> LatentEquivariance | None:
        """The learned action of rotations on embeddings, if one is trained."""
        terms = (term for term in self.objective.loss_terms if isinstance(term, Latent))
        return next((term.equivariance for term in terms), None)

    def run(self, progress: bool = True) -> Path:
        """Train to the end of the budget."""
        if self.settings.trackers:
            self.accelerator.init_trackers(self.recipe.name)
        if self.accelerator.is_main_process:
            self._metrics = self.run_folder.open_log(self.state.step, self.settings.checkpoint_every)
        self._display = ProgressDisplay(self.recipe.name, progress and self.accelerator.is_main_process)
        try:
            with self._display, StopSignals() as signals:
                self._run(signals)
        except KeyboardInterrupt:
            raise Interrupted(self._how_to_continue()) from None
        finally:
            if self._metrics is not None:
                self._metrics.close()
        self.accelerator.end_training()
        self._warn_if_worse_than_start()
        return self.run_folder.model

    def _run(self, signals: StopSignals) -> None:
        self.clock.start()
        finished, settings = self._is_over(), self.settings
        if self.state.step == 0 and (references := reference_metrics(self.potential)):
            self._log({"kind": "references", "step": 0, **references})
        if self.recipe.init_from is not None and self.state.step == 0 and not finished:
            self.state.start_force_mae = self.evaluate()["force_mae"]
        while not finished:
            result = self.step()
            step = self.state.step
            finished = self._is_over()  # asked once, or time could run out before the last evaluation is due
            if finished or step % settings.log_every == 0:
                self._log(self._train_record(result))
            if finished or self.clock.is_due(step, settings.evaluate_every):
                self._keep_if_best(self.evaluate())
                finished = finished or self._is_out_of_patience
            interrupted = self._any(signals.received)
            if finished or interrupted or step % settings.checkpoint_every == 0:
                self.checkpoint()
            if interrupted and not finished:
                raise KeyboardInterrupt
        for callback in self.callbacks:
            callback.on_end(self)

    # ------------------------------------------------------------------------------------------ a step

    def step(self) -> StepResult:
        """One optimiser step.

        Raises:
            NonFiniteLoss: a loss or gradient is not finite, and such batches are not skipped, or too many were.
        """
        num_skipped = 0
        while True:
            began = time.perf_counter()
            micro_batches = [next(self._batches) for _ in range(self.settings.grad_accumulation)]
            losses, grad_norm, is_finite = self._backward(micro_batches)
            self.state.batches += len(micro_batches)
            if is_finite:
                break
            num_skipped += 1
            self._skip_or_raise(micro_batches, num_skipped)
        self.state.step += 1
        learning_rate = self.optimizers.step(self.progress)
        self.optimizers.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.objective.potential)
        self.state.seconds = self.clock.seconds
        seconds, atoms = time.perf_counter() - began, sum(batch.num_labelled_atoms for batch in micro_batches)
        speed = atoms / seconds if seconds > 0 else 0.0  # clocks may stand still or go back
        return StepResult(losses, grad_norm, learning_rate, speed)

    def _backward(self, micro_batches: list[ViewBatch]) -> tuple[Tensor, float, bool]:
        """Clipped gradients, in the parameters; sums of the losses, gradient norm, whether all is finite."""
        normalizer = self.sampler.normalizer(micro_batches)
        sums = torch.zeros(1 + len(self.objective.loss_terms), device=self.device)
        for k, micro_batch in enumerate(micro_batches):
            batch = micro_batch.shard(self.rank, self.num_processes).collate(normalizer, self.device)
            is_last = k + 1 == len(micro_batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self._wrapped):
                terms = self._wrapped(batch, self.progress)
                loss = torch.stack(list(terms.values())).sum()
                self.accelerator.backward(loss)
            sums += torch.stack([value.detach().to(sums.dtype) for value in (loss, *terms.values())])
            self.state.forward_passes += micro_batch.num_passes
            self.state.atoms_processed += micro_batch.num_atoms
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.optimizer.grad_clip_norm)
        loss = sums[0]
        if self.settings.on_nonfinite == "skip" and self.num_processes > 1:  # it may be infinite in one process alone
            loss = self._all_reduce(loss.clone())
        # |∞| has a finite gradient: look at the loss, too. The only wait for the device.
        grad_norm, total = torch.stack([norm.to(sums.dtype), loss]).tolist()
        return sums, grad_norm, math.isfinite(grad_norm) and math.isfinite(total)

    def _skip_or_raise(self, micro_batches: list[ViewBatch], num_skipped: int) -> None:
        """Forget gradients that are not finite: neither weights, nor their average, nor the optimisers have seen them.

        Raises:
            NonFiniteLoss: unless such batches are to be skipped and there were less than `MAX_CONSECUTIVE_SKIPS`.
        """
        self.optimizers.zero_grad()
        shards = (micro_batch.shard(self.rank, self.num_processes) for micro_batch in micro_batches)
        step, folder = self.state.step + 1, self.run_folder.path
        error = nonfinite_loss(self.objective.potential, shards, step, folder, self.rank, self.num_processes)
        if self.settings.on_nonfinite == "stop" or num_skipped == MAX_CONSECUTIVE_SKIPS:
            raise error
        warnings.warn(f"{error.problem}; the batch is skipped", InputWarning, stacklevel=2)
        record = {"kind": "skipped", "step": step, "time_s": self.state.seconds, "problem": error.problem}
        self._log(record)

    # ------------------------------------------------------------------------------------------ evaluation

    def evaluate(self) -> Record:
        """Log errors on the validation set, with what training has cost so far."""
        self._check_weights()
        with self.clock.paused():
            metrics = validation_metrics(
                self.potential,
                self.data.validation,
                self.settings.batch,
                rank=self.rank,
                processes=self.num_processes,
                reduce=self._all_reduce,
            )
            record = {"kind": "evaluation", **self._cost(), **metrics}
            with torch.no_grad():
                for callback in self.callbacks:
                    callback.on_evaluation(self, record)
        self._log(record)
        return record

    def _keep_if_best(self, record: Record) -> None:
        """Save the model if its forces are the best so far."""
        if self.state.is_best(record["force_mae"]) and self.accelerator.is_main_process:
            save_best_model(self.potential, self.latent, self.recipe, record, self.run_folder.model)

    def _warn_if_worse_than_start(self) -> None:
        start, best = self.state.start_force_mae, self.state.best_force_mae
        if start is not None and best > WORSE * start and self.accelerator.is_main_process:
            best_text, start_text = (FORCE_MAE.with_unit({FORCE_MAE.key: value}) for value in (best, start))
            warnings.warn(
                f"{self.run_folder.path}: the best model has a force MAE of {best_text} on the validation data, and "
                f"{self.recipe.init_from}, from which training began, has {start_text}: lower the learning rate, or "
                "train on more data",
                InputWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------------------------------ records

    def _cost(self) -> Record:
        state = self.state
        return {
            "step": state.step,
            "time_s": state.seconds,
            "forward_passes": state.forward_passes,
            "atoms_processed": state.atoms_processed,
        }

    def _train_record(self, result: StepResult) -> Record:
        means: list[float] = (self._all_reduce(result.losses) / self.num_processes).tolist()
        names = ["loss", *(f"{term.name}_loss" for term in self.objective.loss_terms)]
        return {
            "kind": "train",
            **self._cost(),
            **dict(zip(names, means, strict=True)),
            "gradient_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "atoms_per_second": result.atoms_per_second,
            "memory_mb": memory_mb(self.device),
        }

    def _log(self, record: Record) -> None:
        if self._metrics is not None:
            self._metrics.write(record)
            self._display.show(record, self.progress, self.clock.seconds_left)
        if self.settings.trackers:
            values = {f"{record['kind']}/{key}": v for key, v in record.items() if isinstance(v, int | float)}
            self.accelerator.log(values, step=record["step"])

    # ------------------------------------------------------------------------------------------ when to stop

    def _is_over(self) -> bool:
        """Whether budget or patience is used up; clocks are compared here, once a step."""
        self.clock.tick(self.state.step)
        return self._is_out_of_patience or self.progress >= 1.0

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self.settings.early_stopping_patience
        return patience is not None and self.state.evaluations_without_gain >= patience

    def _how_to_continue(self) -> str:
        saved = checkpoints(self.run_folder.checkpoints)
        last = f"the last checkpoint is of step {int(saved[-1].stem)}" if saved else "there is no checkpoint yet"
        return f"stopped at step {self.state.step}; {last}; continue with --resume"

    # ------------------------------------------------------------------------------------------ checkpoints

    def checkpoint(self) -> None:
        """Write all that a resumed run needs."""
        self._check_weights()
        if self._metrics is not None:
            self._metrics.sync()
            groups = {"objective": self.objective.state_dict(), "optimizers": self.optimizers.tensors()}
            if self.ema is not None:
                groups["ema"] = self.ema.state_dict()
            save_checkpoint(self.run_folder.checkpoints, self.state, groups)
        self.accelerator.wait_for_everyone()
        with self.clock.paused():
            for callback in self.callbacks:
                callback.on_checkpoint(self)

    def _restore(self) -> None:
        checkpoint = load_checkpoint(self.run_folder.checkpoints)
        if checkpoint is None:
            return
        state, groups = checkpoint
        if state.classes != self.state.classes:
            began, now = (", ".join(f"{name}: {kind}" for name, kind in s.classes.items()) for s in (state, self.state))
            raise InputError(
                f"was begun with another backbone or other loss terms ({began}) than it is to go on with ({now})",
                where=str(self.run_folder.path),
                remedy="pass train() the same backbone and loss_terms, or begin a new run",
            )
        self.state = state
        try:
            self.objective.load_state_dict(groups["objective"])
        except RuntimeError as error:
            raise InputError(
                f"does not fit the backbone or the loss terms: {str(error).splitlines()[-1].strip()}",
                where=str(self.run_folder.checkpoints),
                remedy="pass train() the same backbone and loss_terms, or begin a new run",
            ) from error
        self.optimizers.load_tensors(groups["optimizers"])
        if self.ema is not None and "ema" in groups:  # else the average begins with the next step
            self.ema.load_state_dict(groups["ema"])

    def _check_weights(self) -> None:
        check_weights(self.objective.state_dict().values(), self.state.step, self.run_folder.path)

    # ------------------------------------------------------------------------------------------ processes

    def _all_reduce(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        return cast(Tensor, self.accelerator.reduce(values, "sum"))

    def _mean(self, value: float) -> float:
        """Mean over the processes."""
        if self.num_processes == 1:
            return value
        return self._all_reduce(torch.tensor(value, device=self.device)).item() / self.num_processes

    def _any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return self._mean(float(flag)) > 0


def _class_names(objective: Objective) -> dict[str, str]:
    """Which classes a run is trained with, so that it is not resumed with others."""
    code = {"backbone": objective.potential.backbone, **{term.name: term for term in objective.loss_terms}}
    return {name: f"{type(value).__module__}.{type(value).__qualname__}" for name, value in code.items()}


def _on_cpu() -> bool:
    """Whether there is no accelerator that could train: Apple's MPS has no float64, in which energies are summed."""
    return not torch.accelerator.is_available() or str(torch.accelerator.current_accelerator()) == "mps"
