"""Training: a recipe goes in, a run folder with metrics, checkpoints and a model comes out.

Runs on one process or, started by `torchrun` or `accelerate launch`, on many. What a run sees at a step is a pure
function of the recipe and the step's number, so a killed run goes on exactly where its last checkpoint stood.
"""

from __future__ import annotations

import math
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from transip import config
from transip.config import Recipe
from transip.data.sampler import check_budget
from transip.data.split import changed_packs, fingerprints, load_replay, load_splits, load_unlabelled
from transip.errors import InputError, InputWarning, NonFiniteLoss
from transip.files import LOG, PACKS, RECIPE, output_lock, remove_stale, write_json, write_text
from transip.memory import tune_malloc
from transip.metrics.validation import validation_metrics
from transip.model.card import describe_objective
from transip.model.compiled import compile_network
from transip.model.files import save_model
from transip.model.potential import NO_CUTOFF, Potential
from transip.symmetry.latent import save_latent
from transip.training.adapters import merged
from transip.training.checkpoint import Progress, drop_old, load_checkpoint, save_checkpoint
from transip.training.log import Live, MetricsFile, memory_mb
from transip.training.losses import Losses, Objective, not_finite
from transip.training.optim import Optimizers
from transip.training.start import build_potential, resolve_model_settings
from transip.training.views import GlobalBatch, Views

SKIPS = 10  # batches in a row that are not finite: then it is not the batches


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Train as `recipe` says; returns the folder of the trained model, ``folder/model``.

    Args:
        recipe: what to train, on what, how long.
        folder: of the run; holds recipe.yaml, metrics.jsonl, checkpoints/ and model/.
        resume: go on from the newest checkpoint in `folder`, if there is one.
        progress: show a live progress bar.

    Raises:
        InputError: data or settings do not fit, the folder already holds a run and `resume` is False, or another
            process is training there.
        NonFiniteLoss: a loss is NaN or infinite, and `training.on_nonfinite` does not say to skip such batches; the
            last checkpoint is kept.
    """
    tune_malloc()
    folder, recipe = Path(folder), resolve_model_settings(recipe)
    main = PartialState(cpu=_on_cpu()).is_main_process
    with output_lock(folder) if main else nullcontext():
        _check_claim(folder, recipe, resume)
        if main:
            for written in (RECIPE, PACKS, LOG, "checkpoints/*", "model/*"):
                remove_stale(folder / written)
        training = Training(recipe, folder, resume)  # reads the data; nothing is written if they do not fit
        training.accelerator.wait_for_everyone()  # until all have looked at what is there
        if main:
            write_json(folder / PACKS, fingerprints(recipe.data))
            write_text(folder / RECIPE, config.dump(recipe))  # last: what has a recipe is a run
        return training.run(progress)


def check_periodic(recipe: Recipe, potential: Potential) -> None:
    """Check that crystals and liquids can be learned.

    Raises:
        InputError: the model has no cutoff, or equigrad is asked for.
    """
    where = ", ".join(recipe.data.train)
    if potential.settings.cutoff is None:
        raise InputError(f"holds periodic structures, and {NO_CUTOFF}", where=where, remedy="set model.cutoff, in Å")
    if recipe.objective.equigrad_weight:
        problem = "holds periodic structures, whose torque, which equigrad punishes, need not vanish"
        raise InputError(problem, where=where, remedy="set objective.equigrad_weight to 0")


class Training:
    """A run in memory: data, objective, optimisers, averaged weights and counters."""

    def __init__(self, recipe: Recipe, folder: Path, resume: bool):
        self.recipe, self.settings, self.folder = recipe, recipe.training, folder
        self.accelerator = Accelerator(
            # What accelerate's launcher would set for the whole network, the recipe sets where it does no harm.
            mixed_precision="no",
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            cpu=_on_cpu(),
            log_with=list(self.settings.trackers) or None,
            project_dir=str(folder),
        )
        self.processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.device = self.accelerator.device
        self.data, self.validation = load_splits(recipe.data)
        for data in (self.data, self.validation):
            check_budget(data.atom_counts, self.settings.batch, data.describe)
        pool = load_unlabelled(recipe.data) if recipe.data.unlabelled else None
        replay = load_replay(recipe.data) if recipe.data.replay else None
        self.views = Views(recipe, self.data, pool, self.rank, self.processes, replay)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are his own
            torch.manual_seed(self.settings.seed)
            potential = build_potential(recipe, *(data for data in (self.data, replay) if data is not None))
            self.objective = Objective(potential, recipe.objective, self.settings.precision == "bf16")
        if recipe.data.validation:  # otherwise compositions were split, and looking at all of them again says nothing
            shared = np.isin(self.validation.composition_hashes(), self.data.composition_hashes()).sum()
            potential.card["data"]["validation_trained_on"] = int(shared)
        if any(data.periodic for data in (self.data, self.validation, pool, replay) if data is not None):
            check_periodic(recipe, potential)
        self.objective.to(self.device)
        self.optimizers = Optimizers(self.objective, self.settings.optimizer)
        self.averaged = averaged_weights(potential, self.settings.ema_decay) if self.settings.ema_decay else None
        self.progress = Progress()
        if resume:
            self._restore()
        if self.settings.compile:
            compile_network(potential, self.device)
        self.wrapped = self.accelerator.prepare_model(self.objective)

    @property
    def potential(self) -> Potential:
        """The potential that is evaluated and saved: averaged weights, if there are any."""
        return self.averaged.module if self.averaged is not None else self.objective.potential  # type: ignore[return-value]

    def run(self, progress: bool) -> Path:
        """Train to the end of the budget."""
        main = self.accelerator.is_main_process
        if self.settings.trackers:
            self.accelerator.init_trackers(self.recipe.name)
        metrics = self._take_up() if main else None
        self._batches = self.views.stream(self.progress.batches)
        self._clock = time.perf_counter() - self.progress.seconds
        with Live(self.recipe.name, progress and main) as live:
            finished = self._finished()
            while not finished:
                outcome = self._step(metrics)
                finished = self._finished()  # asked once, or time could run out before the last evaluation is due
                if finished or self.progress.step % self.settings.log_every == 0:
                    line = self._line(*outcome)
                    self._log(metrics, line)
                    live.train(self._done(), line)
                if finished or self.progress.step % self.settings.evaluate_every == 0:
                    line = self._evaluate()
                    self._log(metrics, line)
                    live.evaluated(line)
                    finished = finished or self._finished()  # out of patience
                if finished or self.progress.step % self.settings.checkpoint_every == 0:
                    self._checkpoint(metrics)
        if metrics is not None:
            metrics.close()
        self.accelerator.end_training()
        return self.folder / "model"

    # ------------------------------------------------------------------------------------------ a step

    def _step(self, metrics: MetricsFile | None) -> tuple[Tensor, float, float, float]:
        """One optimiser step: sums of the losses, gradient norm, learning rate, atoms/s."""
        skipped = 0
        while True:
            began, group = time.perf_counter(), [next(self._batches) for _ in range(self.settings.grad_accumulation)]
            sums, norm, finite = self._gradients(group)
            self.progress.batches += len(group)
            if finite:
                break
            skipped += 1
            self._refuse(group, skipped, metrics)
        self.progress.step += 1
        rate = self.optimizers.step(self._done())
        self.optimizers.zero_grad()
        if self.averaged is not None:
            self.averaged.update_parameters(self.objective.potential)
        self.progress.seconds = self._seconds()
        atoms = sum(self.views.atoms(drawn) for drawn in group)
        took = time.perf_counter() - began
        return sums, norm, rate, atoms / took if took > 0 else 0.0  # clocks may stand still or go back

    def _gradients(self, group: list[GlobalBatch]) -> tuple[Tensor, float, bool]:
        """Clipped gradients of `group`, in the parameters; sums of the losses, gradient norm, whether all is finite."""
        done, share = self._done(), self.views.share(group)
        sums = torch.zeros(len(Losses._fields), device=self.device)
        for k, drawn in enumerate(group):
            batch, turns, paired, pool = self.views.seen(self.progress.batches + k, drawn, self.device)
            last = k + 1 == len(group)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                losses = self.wrapped(batch, turns, paired, share, done, pool)
                self.accelerator.backward(losses.total)
            sums += torch.stack([term.detach().to(sums.dtype) for term in losses])
            passes, atoms = self.views.cost(drawn)
            self.progress.forward_passes += passes
            self.progress.atoms_processed += atoms
        clipped = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.optimizer.grad_clip_norm)
        found = torch.stack([clipped.to(sums.dtype), sums[0]])  # |∞| has a finite gradient: look at the loss, too
        if self.settings.on_nonfinite == "skip" and self.processes > 1:  # which may be infinite in one process alone
            found = torch.stack([found[0], self._summed(sums[0].clone())])
        norm, loss = found.tolist()  # the only wait for the device
        return sums, norm, math.isfinite(norm) and math.isfinite(loss)

    def _refuse(self, group: list[GlobalBatch], skipped: int, metrics: MetricsFile | None) -> None:
        """Forget gradients that are not finite: neither weights, nor their average, nor the optimisers have seen them.

        Raises:
            NonFiniteLoss: unless such batches are to be skipped and there were less than `SKIPS` in a row.
        """
        self.optimizers.zero_grad()
        problem = self._diverged(group)
        if self.settings.on_nonfinite == "stop" or skipped == SKIPS:
            raise problem
        warnings.warn(f"{problem.problem}; the batch is skipped", InputWarning, stacklevel=2)
        line = {"kind": "skipped", "step": self.progress.step + 1, "time_s": self.progress.seconds}
        self._log(metrics, line | {"problem": problem.problem})

    def _diverged(self, group: list[GlobalBatch]) -> NonFiniteLoss:
        mine = [part for drawn in group for part in self.views.parts(drawn)]
        batches = [(data, data.get_batch(indices).to(self.device)) for data, indices in mine]
        named = [(data, i) for data, batch in batches for i in not_finite(self.objective.potential, batch)]
        if not named and self.processes == 1:
            named = [(data, int(i)) for data, indices in mine for i in indices]
        which = "; ".join(data.describe(i) for data, i in named[:8]) + ("; …" if len(named) > 8 else "")
        # Not gathered: a loss may be infinite in one process alone, and the others would never come to the meeting.
        elsewhere = f"structures of another process than {self.rank}, which names them, or on none by itself"
        return NonFiniteLoss(
            f"the loss or its gradient is not finite at step {self.progress.step + 1}, on {which or elsewhere}",
            where=str(self.folder),
            remedy="check these structures, or lower the learning rate; "
            f"the last good checkpoint is kept ({self.folder / 'checkpoints'})",
        )

    # ------------------------------------------------------------------------------------------ bookkeeping

    def _done(self) -> float:
        """Share of the budget used, 0 … 1: the same in all processes, whose learning rates would differ otherwise."""
        if self.settings.steps is not None:
            return min(self.progress.step / self.settings.steps, 1.0)
        assert self.settings.minutes is not None
        return min(self._used / (60 * self.settings.minutes), 1.0)

    def _seconds(self) -> float:
        """Time spent on training; never less than at the last step, whatever the clock does."""
        now = time.perf_counter()
        if now - self._clock < self.progress.seconds:
            self._clock = now - self.progress.seconds
        return now - self._clock

    def _finished(self) -> bool:
        """Whether budget or patience is used up; the clocks are compared here, once a step."""
        self._used = self._seconds()
        if self.settings.minutes is not None and self.processes > 1:
            self._used = self._summed(torch.tensor(self._used, device=self.device)).item() / self.processes
        patience = self.settings.early_stopping_patience
        out_of_patience = patience is not None and self.progress.evaluations_without_gain >= patience
        return out_of_patience or self._done() >= 1.0

    def _summed(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        return cast(Tensor, self.accelerator.reduce(values, "sum"))

    def _line(self, sums: Tensor, norm: float, rate: float, speed: float) -> dict[str, Any]:
        means = dict(zip(Losses._fields, (self._summed(sums) / self.processes).tolist(), strict=True))
        progress = self.progress
        return {
            "kind": "train",
            "step": progress.step,
            "time_s": progress.seconds,
            "loss": means["total"],
            "energy_loss": means["energy"],
            "force_loss": means["forces"],
            "stress_loss": means["stress"],
            "latent_loss": means["latent"],
            "equigrad_loss": means["equigrad"],
            "consistency_loss": means["consistency"],
            "gradient_norm": norm,
            "learning_rate": rate,
            "atoms_per_second": speed,
            "forward_passes": progress.forward_passes,
            "atoms_processed": progress.atoms_processed,
            "memory_mb": memory_mb(self.device),
        }

    def _log(self, metrics: MetricsFile | None, line: dict[str, Any]) -> None:
        if metrics is not None:
            metrics.write(line)
        if self.settings.trackers:
            values = {f"{line['kind']}/{key}": v for key, v in line.items() if isinstance(v, int | float)}
            self.accelerator.log(values, step=line["step"])

    def _evaluate(self) -> dict[str, Any]:
        """Errors on the validation set; keeps the model if its forces are the best so far."""
        self._check_weights()
        began = time.perf_counter()
        values = validation_metrics(
            self.potential,
            self.validation,
            self.settings.batch,
            rank=self.rank,
            processes=self.processes,
            reduce=self._summed,
        )
        self._clock += max(time.perf_counter() - began, 0.0)  # looking is not training: it is outside the budget
        progress = self.progress
        line = {
            "kind": "evaluation",
            "step": progress.step,
            "time_s": progress.seconds,
            "forward_passes": progress.forward_passes,
            "atoms_processed": progress.atoms_processed,
            **values,
        }
        force_mae = values["force_mae"] if math.isfinite(values["force_mae"]) else math.inf  # nothing is below NaN
        if force_mae < progress.best_force_mae or progress.best_force_mae == math.inf:
            progress.best_force_mae, progress.evaluations_without_gain = force_mae, 0
            if self.accelerator.is_main_process:
                self._save(line)
        else:
            progress.evaluations_without_gain += 1
        return line

    def _save(self, line: dict[str, Any]) -> None:
        potential = self.potential
        summary = {key: line[key] for key in ("step", "time_s", "forward_passes", "atoms_processed")}
        known = {key: value for key, value in line.items() if key not in summary and key != "kind"}
        objective = describe_objective(self.recipe.model_dump()).removeprefix("control: ")
        training = {"name": self.recipe.name, "objective": objective, **summary}
        potential.card |= {"training": training, "validation": known}
        save_model(merged(potential), self.folder / "model")
        if self.objective.latent is not None:
            save_latent(self.objective.latent, self.folder / "model")

    def _check_weights(self) -> None:
        """Before they are kept: a finite gradient may still have led too far."""
        if not all(bool(value.isfinite().all()) for value in self.objective.state_dict().values()):
            raise NonFiniteLoss(
                f"the weights are not finite after step {self.progress.step}",
                where=str(self.folder),
                remedy=f"lower the learning rate; the last good checkpoint is kept ({self.folder / 'checkpoints'})",
            )

    def _checkpoint(self, metrics: MetricsFile | None) -> None:
        self._check_weights()
        if metrics is not None:
            metrics.sync()
            groups = {"objective": self.objective.state_dict(), "optimizers": self.optimizers.tensors()}
            if self.averaged is not None:
                groups["averaged"] = self.averaged.state_dict()
            save_checkpoint(self.folder / "checkpoints", self.progress, groups)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        found = load_checkpoint(self.folder / "checkpoints")
        if found is None:
            return
        self.progress, groups = found
        self.objective.load_state_dict(groups["objective"])
        self.optimizers.load_tensors(groups["optimizers"])
        if self.averaged is not None and "averaged" in groups:  # else the average begins with the next step
            self.averaged.load_state_dict(groups["averaged"])

    def _take_up(self) -> MetricsFile:
        """The log as far as the checkpoint goes; what a killed run was about to remove is removed."""
        drop_old(self.folder / "checkpoints", self.progress.step)
        metrics, step = MetricsFile(self.folder / LOG, self.progress.step), self.progress.step
        if metrics.reached > step + self.settings.checkpoint_every:
            warnings.warn(
                f"{self.folder}: {LOG} reaches step {metrics.reached}, but the newest sound checkpoint is of step "
                f"{step}: a later one is missing or damaged; training goes on from step {step}",
                InputWarning,
                stacklevel=2,
            )
        return metrics


def averaged_weights(potential: Potential, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; its memory grows, so early steps are forgotten."""

    @torch.no_grad()
    def move(averaged: Any, current: Any, _: Tensor | int) -> None:
        steps = int(model.n_averaged)  # on the host; the argument is on the device, which would have to be waited for
        weight = 1 - min(decay, (1 + steps) / (10 + steps))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, weight)

    model = AveragedModel(potential, multi_avg_fn=move)
    return model


def _check_claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse a folder whose run would be overwritten or silently changed."""
    path = folder / RECIPE
    if not path.exists():
        return
    if not resume:
        raise InputError(
            "already holds a run",
            where=str(folder),
            remedy="go on with --resume, choose another folder with -o, or delete it",
        )
    before = config.load(Recipe, path)
    same_optimizer = before.training.optimizer.name == recipe.training.optimizer.name
    if before.model_copy(update={"training": recipe.training}) != recipe or not same_optimizer:
        raise InputError(
            "was started with other data, model, objective or optimizer settings",
            where=str(folder),
            remedy=f"resume with the recipe in {path} (of `training`, all but optimizer.name may change)",
        )
    if changed := changed_packs(recipe.data, folder):
        raise InputError(
            f"was started before a change of {', '.join(changed)}",
            where=str(folder),
            remedy="put the packs back that it was started with, or begin a new run",
        )


def _on_cpu() -> bool:
    """Whether there is no accelerator that could train: Apple's MPS has no float64, in which energies are summed."""
    return not torch.accelerator.is_available() or str(torch.accelerator.current_accelerator()) == "mps"
