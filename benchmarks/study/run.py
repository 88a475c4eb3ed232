"""The study: what learned symmetry is worth, every objective and control on the same forward passes.

    python -m benchmarks.study.run objective plain-backbone --seeds 0 1 2
    python -m benchmarks.study.run few-labels/atoms-latent@250 --seeds 0
    python -m benchmarks.study.run objective --shard 0/2 &   # the same list on two cores: each takes half
    python -m benchmarks.study.run objective --shard 1/2
    python -m benchmarks.study.run --list

`entries.py` has the groups and their entries, `base.yaml` what they have in common; the task is the speedrun's
(`recipes/data-organics.yaml`, built once, if it is not there). Each run adds the record GROUP/ENTRY-seedK to
benchmarks/study/results.jsonl. A run whose result is there is not repeated.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import Record, argument_parser, provenance, read_results, results_file, save_results
from benchmarks.study import entries
from transip.batch import Batch, Prediction
from transip.config import LabelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.evaluation.saved import batch_limits_for, evaluate
from transip.labels.campaign import run_campaign
from transip.metrics.validation import validation_metrics
from transip.rotations import random_rotations, rotate, rotate_vectors
from transip.symmetry.measure import measure_symmetry
from transip.training.callbacks import Callback
from transip.training.trainer import Trainer, train

RESULTS = results_file(__file__)
BASE = RESULTS.with_name("base.yaml")
DATA = Path("data/organics.pack")
TRAIN_SAMPLE = 250  # training structures on which the training error is measured
SYMMETRY_SAMPLE = 32  # validation structures on which the layers' symmetry is measured during training


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("which", nargs="*", metavar="GROUP[/ENTRY]", help="what to run; everything if not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shard", default="0/1", metavar="i/n", help="every n-th of the list, from number i on")
    parser.add_argument("--repeat", action="store_true", help="run again what has a result")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    parser.add_argument("--steps", type=int, help="steps of every run, to try things out; give --results too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    arguments = parser.parse_args()
    if arguments.steps and arguments.results == RESULTS:
        parser.error("--steps is for trying things out: choose another file with --results")
    torch.set_num_threads(1)
    try:
        chosen = chosen_entries(arguments.which)
        index, number = map(int, arguments.shard.split("/"))
    except ValueError as error:
        parser.error(str(error))
    if not DATA.exists():
        run_campaign(load(LabelSettings, "recipes/data-organics.yaml"), DATA)
    runs = [(group, entry, seed) for seed in arguments.seeds for group, entry in chosen][index::number]
    failed = 0
    for group, entry, seed in runs:
        name = f"{group}/{entry}-seed{seed}"
        if name in read_results(arguments.results) and not arguments.repeat:
            continue
        print(name, flush=True)
        if arguments.list:
            continue
        try:
            result = {"name": name, **run(group, entry, seed, arguments.steps)}
            save_results(arguments.results, [result])
            print("   ", summary(result), flush=True)
        except InputError as error:  # a setting that does not exist, a loss that is not finite: the others go on
            failed += 1
            print(f"    failed: {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"{failed} of {len(runs)} runs failed")


def chosen_entries(which: list[str]) -> list[tuple[str, str]]:
    """(group, entry) pairs, in the order of the table."""
    everything = [(group, entry) for group, members in entries.GROUPS.items() for entry in members]
    for name in which:
        if not any(name in (group, f"{group}/{entry}") for group, entry in everything):
            raise ValueError(f"no group or entry {name!r}; groups: {', '.join(entries.GROUPS)}")
    return [(g, e) for g, e in everything if not which or g in which or f"{g}/{e}" in which]


def recipe_of(group: str, entry: str, seed: int, steps: int | None = None) -> Recipe:
    """The recipe of one run.

    Raises:
        InputError: a setting does not exist or does not fit, or a step makes another number of passes than the others.
    """
    settings = {**entries.GROUPS[group][entry].settings, "training.seed": seed}
    if steps:
        settings |= {"training.steps": steps, "training.evaluate_every": steps}
    recipe = load(Recipe, BASE, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    if entries.counted(group, entry) and (made := entries.passes(recipe)) != entries.PASSES:
        raise InputError(f"makes {made} forward passes a step, not {entries.PASSES}", where=f"{group}/{entry}")
    return recipe


def run(group: str, entry: str, seed: int, steps: int | None = None) -> Record:
    """Train and evaluate one entry: what the last weights, not the best ones, achieve."""
    recipe, observer = recipe_of(group, entry, seed, steps), Observer()
    with tempfile.TemporaryDirectory() as temporary:
        code = entries.GROUPS[group][entry].code
        train(recipe, temporary, progress=False, callbacks=[observer], **code)
        text = (Path(temporary) / "metrics.jsonl").read_text(encoding="utf-8")
    trainer = observer.trainer
    return {
        "group": group,
        "entry": entry,
        "seed": seed,
        "settings": recipe.model_dump(mode="json"),
        "passes_per_step": entries.passes(recipe),
        "parameters": trainer.potential.num_parameters,
        "train_structures": len(trainer.data.train),
        "cpu_seconds": observer.cpu_seconds,
        **summarize_log([json.loads(line) for line in text.splitlines()]),
        **summarize_model(trainer.potential.eval(), trainer.data.validation, trainer.latent),
        **provenance(),
        "command": f"python -m benchmarks.study.run {group}/{entry} --seeds={seed}",
    }


class Observer(Callback):
    """Adds the error on the training data and the embeddings' invariant shares to each evaluation, and reads the CPU
    time of training."""

    def __init__(self) -> None:
        self.began = time.process_time()

    def on_evaluation(self, trainer: Trainer, record: Record) -> None:
        began, potential = time.process_time(), trainer.potential
        train_sample = subsample(trainer.data.train, TRAIN_SAMPLE)
        symmetry_subset = subsample(trainer.data.validation, SYMMETRY_SAMPLE)
        errors = validation_metrics(potential, train_sample, trainer.settings.batch, symmetry_structures=0)
        batch = symmetry_subset.get_batch(np.arange(len(symmetry_subset)))
        layers = measure_symmetry(potential, [batch], layers=range(potential.backbone.depth))["layers"]
        record["train_force_mae"] = errors["force_mae"]
        record["invariant_share"] = [layer["invariant_share"] for layer in layers]
        self.began += time.process_time() - began

    def on_end(self, trainer: Trainer) -> None:
        self.cpu_seconds, self.trainer = time.process_time() - self.began, trainer


class RandomlyRotated(nn.Module):
    """A potential that is shown every structure in a random orientation: those of one program all lie alike."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.generator = model, torch.Generator().manual_seed(0)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        rotations = random_rotations(len(batch), self.generator, batch.positions.dtype)
        prediction = self.model(rotate(batch, rotations), layers)
        return replace(prediction, forces=rotate_vectors(prediction.forces, rotations.mT, batch))


def summarize_log(lines: list[Record]) -> Record:
    """Cost, losses and learning curves of a run."""
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    logged = [line for line in lines if line["kind"] == "train"]
    last, tail = evaluations[-1], logged[-max(1, len(logged) // 10) :]
    losses = [key for key in logged[-1] if key.endswith("_loss")]
    curves = {key: [rounded(1e3 * line[key]) for line in evaluations] for key in CURVES}
    shares = [[rounded(share) for share in line["invariant_share"]] for line in evaluations]
    return {
        "steps": last["step"],
        "forward_passes": last["forward_passes"],
        "atoms_processed": last["atoms_processed"],
        "seconds": last["time_s"],
        "train_force_mae_mev_per_angstrom": 1e3 * last["train_force_mae"],
        # mean over the last tenth of training, of the terms with their weights
        "training_loss": {key.removesuffix("_loss"): float(np.mean([line[key] for line in tail])) for key in losses},
        "curve": {"step": [line["step"] for line in evaluations], **curves, "invariant_share": shares},
    }


CURVES = ("force_mae", "train_force_mae", "force_rotation_error")


def summarize_model(model: nn.Module, validation: Dataset, latent: Any) -> Record:
    """Errors of a model on structures as they are and randomly rotated, and its symmetry layer by layer."""
    limits = batch_limits_for(validation)
    found = evaluate(model, validation, batch=limits, latent=latent, progress=False)
    rotated = evaluate(RandomlyRotated(model), validation, batch=limits, symmetry=False, progress=False)
    assert found.symmetry is not None
    return {
        **errors_in_mev(found.overall, found.symmetry),
        "force_mae_turned_mev_per_angstrom": 1e3 * rotated.overall["force_mae"],
        "structures_evaluated": found.overall["structures"],
        "layers": [{key: rounded(value) for key, value in layer.items()} for layer in found.symmetry["layers"]],
    }


def subsample(data: Dataset, most: int) -> Dataset:
    """A few structures, the same ones whenever they are asked for."""
    return data.select(np.sort(np.random.default_rng(0).permutation(len(data))[:most]))


def summary(result: Record) -> str:
    return (
        f"forces {result['force_mae_mev_per_angstrom']:.1f} meV/Å, energy {result['energy_mae_mev_per_atom']:.2f} "
        f"meV/atom, rotation error {result['force_rotation_error_mev_per_angstrom']:.1f} meV/Å, "
        f"{result['forward_passes']:,} passes in {result['cpu_seconds']:.0f} s of one core"
    )


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
