"""The study: what learned symmetry is worth, every objective and control on the same forward passes.

    python -m benchmarks.study.run objective plain-backbone --seeds 0 1 2
    python -m benchmarks.study.run few-labels/atoms-latent@250 --seeds 0
    python -m benchmarks.study.run objective --shard 0/2 &   # the same list on two cores: each takes half
    python -m benchmarks.study.run objective --shard 1/2
    python -m benchmarks.study.run --list

`entries.py` has the groups and their entries, `base.yaml` what they have in common; the task is the speedrun's
(`recipes/data-organics.yaml`, built once, if it is not there). Each run adds the record
GROUP/ENTRY-seedK to benchmarks/study/results.jsonl. A run whose result is there is not repeated; one that another group
has already made, with the same settings, seed and source code, is copied.
"""

import hashlib
import json
import sys
import tempfile
import time
import types
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import transip
from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import Record, argument_parser, provenance, read_results, results_file, save_results
from benchmarks.study import entries
from transip.batch import Batch, Prediction
from transip.config import LabelSettings, ModelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.evaluation.saved import batch_limits_for, evaluate
from transip.labels.campaign import run_campaign
from transip.metrics.validation import validation_metrics
from transip.rotations import random_rotations, rotate, rotate_vectors
from transip.symmetry.measure import measure_symmetry
from transip.training.callbacks import Callback
from transip.training.trainer import Trainer
from transip.training.trainer import train as run_training

RESULTS = results_file(__file__)
BASE = RESULTS.with_name("base.yaml")
DATA = Path("data/organics.pack")
TRAIN_SAMPLE = 250  # training structures on which the training error is measured
PARTS = "parts."  # begins the names of parts of a preset in `entries`
SYMMETRY_SAMPLE = 32  # validation structures on which the layers are looked at during training


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
        name, known = f"{group}/{entry}-seed{seed}", read_results(arguments.results)
        if name in known and not arguments.repeat:
            continue
        if arguments.list:
            print(name)
            continue
        try:
            print(name, "…", flush=True)
            result = {"name": name, **run(group, entry, seed, arguments.steps, known.values())}
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


def run(group: str, entry: str, seed: int, steps: int | None, known: Iterable[Record]) -> Record:
    """Train and evaluate one entry, or copy the same run from another group."""
    overrides = entries.GROUPS[group][entry]
    recipe = recipe_of(group, entry, seed, steps)
    replaced = own_parts(group, entry)
    own = [f"{group}/{entry}"] if replaced else []
    digest = _digest(json.dumps([recipe.model_dump(mode="json"), parts_of(overrides), own]).encode())
    identity = {"group": group, "entry": entry, "seed": seed, "overrides": overrides, "recipe": digest}
    command = f"python -m benchmarks.study.run {group}/{entry} --seeds={seed}"
    for found in known:
        same = (found["recipe"], found["seed"], found["source"]) == (digest, seed, SOURCE)
        if same and found["group"] != group:
            return {**found, **identity, "command": command, "copied_from": f"{found['group']}/{found['entry']}"}
    return {
        **identity,
        "settings": recipe.model_dump(mode="json"),
        "passes_per_step": entries.passes(group, entry, recipe),
        **train(recipe, replaced),
        **provenance(),
        "command": command,
        "source": SOURCE,
    }


def recipe_of(group: str, entry: str, seed: int, steps: int | None = None) -> Recipe:
    """The recipe of one run.

    Raises:
        InputError: a setting does not exist or does not fit, or a step makes another number of passes than the others.
    """
    settings = {**entries.GROUPS[group][entry], "training.seed": seed}
    if steps:
        settings |= {"training.steps": steps, "training.evaluate_every": steps}
    given = [f"{key}={json.dumps(value)}" for key, value in settings.items() if not key.startswith(PARTS)]
    recipe = load(Recipe, BASE, given)
    if parts := parts_of(settings):
        recipe = recipe.model_copy(update={"model": with_parts(recipe.model, parts)})
    if entries.counted(group, entry) and (made := entries.passes(group, entry, recipe)) != entries.PASSES:
        raise InputError(f"makes {made} forward passes a step, not {entries.PASSES}", where=f"{group}/{entry}")
    return recipe


def parts_of(overrides: entries.Overrides) -> dict[str, Any]:
    """Parts of a preset that an entry changes."""
    return {key.removeprefix(PARTS): value for key, value in overrides.items() if key.startswith(PARTS)}


def with_parts(settings: ModelSettings, parts: dict[str, Any]) -> ModelSettings:
    """`settings` with other parts than their preset has."""
    properties = {name: property(lambda _, value=value: value) for name, value in parts.items()}
    changed = types.new_class("ChangedSettings", (ModelSettings,), exec_body=lambda body: body.update(properties))
    return changed(**settings.model_dump())


class Turned(nn.Module):
    """A potential that is shown every structure in a random orientation: those of one program all lie alike."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.random = model, torch.Generator().manual_seed(0)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        turns = random_rotations(len(batch), self.random, batch.positions.dtype)
        found = self.model(rotate(batch, turns), layers)
        return replace(found, forces=rotate_vectors(found.forces, turns.mT, batch))


class Observer(Callback):
    """Adds the error on the training data and the embeddings' invariant shares to each evaluation, and reads the time
    that the processor worked on training."""

    def __init__(self) -> None:
        self.began = time.process_time()

    def on_evaluation(self, trainer: Trainer, record: dict[str, Any]) -> None:
        began = time.process_time()
        sample, few = sample_of(trainer.data.train, TRAIN_SAMPLE), sample_of(trainer.data.validation, SYMMETRY_SAMPLE)
        errors = validation_metrics(trainer.potential, sample, trainer.settings.batch, symmetry_structures=0)
        layers = range(trainer.potential.settings.depth)
        symmetry = measure_symmetry(trainer.potential, [few.get_batch(np.arange(len(few)))], layers=layers)
        record["train_force_mae"] = errors["force_mae"]
        record["invariant_share"] = [layer["invariant_share"] for layer in symmetry["layers"]]
        self.began += time.process_time() - began

    def on_end(self, trainer: Trainer) -> None:
        self.cpu_seconds, self.trainer = time.process_time() - self.began, trainer


def own_parts(group: str, entry: str) -> dict[str, Any]:
    """What stands for a part of the package's training in this entry."""
    build = entries.LOSS_TERMS.get(f"{group}/{entry.partition('@')[0]}")
    return {"loss_terms": build} if build else {}


def train(recipe: Recipe, replaced: dict[str, Any]) -> Record:
    """Train; what the last weights, not the best ones, achieve."""
    observer = Observer()
    with tempfile.TemporaryDirectory() as temporary:
        run_training(recipe, temporary, progress=False, callbacks=[observer], **replaced)
        text = (Path(temporary) / "metrics.jsonl").read_text(encoding="utf-8")
    lines, trainer = [json.loads(line) for line in text.splitlines()], observer.trainer
    return {
        "parameters": trainer.potential.num_parameters,
        "train_structures": len(trainer.data.train),
        "cpu_seconds": observer.cpu_seconds,
        **findings(trainer.potential.eval(), trainer.data.validation, trainer.latent, lines),
    }


def findings(model: Any, validation: Dataset, latent: Any, lines: list[dict[str, Any]]) -> Record:
    """What a run leaves behind: the errors of `model`, its symmetry layer by layer, and its log in a few numbers."""
    found = evaluate(model, validation, batch=batch_limits_for(validation), latent=latent, progress=False)
    turned = evaluate(Turned(model), validation, batch=batch_limits_for(validation), symmetry=False, progress=False)
    assert found.symmetry is not None
    looked = [line for line in lines if line["kind"] == "evaluation"]
    logged = [line for line in lines if line["kind"] == "train"]
    last, last_logged, tail = looked[-1], logged[-1], logged[-max(1, len(logged) // 10) :]
    return {
        "steps": last["step"],
        "forward_passes": last["forward_passes"],
        "atoms_processed": last["atoms_processed"],
        "seconds": last["time_s"],
        **errors_in_mev(found.overall, found.symmetry),
        "force_mae_turned_mev_per_angstrom": 1e3 * turned.overall["force_mae"],
        "train_force_mae_mev_per_angstrom": 1e3 * last["train_force_mae"],
        "structures_evaluated": found.overall["structures"],
        # mean over the last tenth of training, of the terms with their weights
        "training_loss": {
            key.removesuffix("_loss"): float(np.mean([line[key] for line in tail]))
            for key in last_logged
            if key.endswith("_loss")
        },
        "layers": [{key: _rounded(value) for key, value in layer.items()} for layer in found.symmetry["layers"]],
        "curve": {
            "step": [line["step"] for line in looked],
            "force_mae": [_rounded(1e3 * line["force_mae"]) for line in looked],
            "train_force_mae": [_rounded(1e3 * line["train_force_mae"]) for line in looked],
            "force_rotation_error": [_rounded(1e3 * line["force_rotation_error"]) for line in looked],
            "invariant_share": [[_rounded(share) for share in line["invariant_share"]] for line in looked],
        },
    }


def sample_of(data: Dataset, most: int) -> Dataset:
    """A few structures, the same ones whenever they are asked for."""
    return data.select(np.sort(np.random.default_rng(0).permutation(len(data))[:most]))


def summary(result: Record) -> str:
    copied = f", copied from {result['copied_from']}" if "copied_from" in result else ""
    return (
        f"forces {result['force_mae_mev_per_angstrom']:.1f} meV/Å, energy {result['energy_mae_mev_per_atom']:.2f} "
        f"meV/atom, rotation error {result['force_rotation_error_mev_per_angstrom']:.1f} meV/Å, "
        f"{result['forward_passes']:,} passes in {result['cpu_seconds']:.0f} s of one core{copied}"
    )


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _source() -> str:
    """Of the source code: results made with another one may not compare."""
    package = Path(transip.__file__).parent
    return _digest(b"".join(path.read_bytes() for path in sorted(package.rglob("*.py"))))


SOURCE = _source()

if __name__ == "__main__":
    main()
