"""A few labels of an unseen family: from scratch, and from a trained model in several ways; what each forgets.

    python -m benchmarks.fine_tuning.run --start runs/organics-seed0 --seeds 0 1 2
    python -m benchmarks.fine_tuning.run full adapters --start runs/organics-seed0 --seeds 0
    python -m benchmarks.fine_tuning.run --start runs/gfn2-s --family data/fine-tuning-boron.pack
    python -m benchmarks.fine_tuning.run scratch replay --start runs/gfn2-without-so --family data/fine-tuning-so.pack
    python -m benchmarks.fine_tuning.run --table

The family is that of `family.yaml` (built once) or any labelled pack, `--family`, such as that of `boron.yaml` or what
`leave_out.py` took from the data of the start model.
Replayed is what the run `--start` was trained on (or `--replay`), forgetting is measured on what it held out (or on
`--original`). If the family's level of theory is not that of the start model, nothing can be replayed, and errors on
the original data would compare two levels of theory: both are left out.

Each run adds the record GROUP/WAY-seedK to benchmarks/fine_tuning/results.jsonl, where GROUP is the family's pack
(FAMILY-N-steps with `--steps`) unless `--group` names it; a run that is there is not repeated. Force MAEs are in meV/Å,
energies in meV/atom, both of the last weights on compositions not trained on.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import Record, argument_parser, provenance, read_results, results_file, save_results
from transip.config import LabelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.data.split import load_splits
from transip.data.store import Pack, write_pack
from transip.errors import InputError
from transip.evaluation.saved import batch_limits_for, load_validation_set
from transip.labels.campaign import run_campaign
from transip.metrics.validation import validation_metrics
from transip.model.files import load_model
from transip.training.trainer import train

HERE, RESULTS = Path(__file__).parent, results_file(__file__)
FAMILY = Path("data/fine-tuning-family.pack")
KNOWN = "data/fine-tuning-known-{}.pack"  # training part of the run that is started from
ORIGINAL_SAMPLE = 300  # structures on which forgetting is measured, always the same ones

# An eighth of a new model's: larger steps gain nothing on the family, and more is forgotten.
GENTLE = {"training.optimizer.learning_rate": 2.5e-4, "training.optimizer.muon_learning_rate": 0.002}
ADAPTERS = {"training.optimizer.learning_rate": 5e-4, "fine_tuning.lora_rank": 8}
HALF = {"training.batch.batch_size": 8, "training.batch.replay": 8}
WAYS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "full": GENTLE,
    "frozen": GENTLE,  # and half of the blocks: see `settings_of`
    "adapters": ADAPTERS,
    "replay": {**GENTLE, **HALF},
    "adapters-replay": {**ADAPTERS, **HALF},
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("ways", nargs="*", help=f"of {', '.join(WAYS)}; all if not given")
    parser.add_argument("--start", default="runs/organics-seed0", help="trained model")
    parser.add_argument("--original", nargs="+", default=[], help="packs on which forgetting is measured")
    parser.add_argument("--replay", nargs="+", default=[], help="packs that the start model was trained on")
    parser.add_argument("--family", type=Path, default=FAMILY, help="labelled pack of the unseen family")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--structures", type=int, default=200, help="to learn from")
    parser.add_argument("--steps", type=int, help="instead of the base recipe's")
    parser.add_argument("--group", help="first part of the records' names (default: the family's)")
    parser.add_argument("--table", action="store_true", help="only print what has been found")
    arguments = parser.parse_args()
    if unknown := set(arguments.ways) - set(WAYS):
        parser.error(f"no such way: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    arguments.group = arguments.group or (
        arguments.family.stem + (f"-{arguments.steps}-steps" if arguments.steps else "")
    )
    if not arguments.table:
        if arguments.family == FAMILY and not FAMILY.exists():
            run_campaign(load(LabelSettings, HERE / "family.yaml"), FAMILY)
        run_all(arguments)
    print(table([result for name, result in read_results(RESULTS).items() if name.startswith(f"{arguments.group}/")]))


def run_all(arguments: argparse.Namespace) -> None:
    start, level = load_model(arguments.start), Pack.open(arguments.family).meta["level_of_theory"]
    same_level = start.card.get("level_of_theory") == level
    original = known_data(arguments) if same_level else None
    for seed in arguments.seeds:
        for way in ["start", *(arguments.ways or WAYS)]:
            name = f"{arguments.group}/{way}-seed{seed}"
            if name in read_results(RESULTS) or ("replay" in way and not same_level):
                continue
            print(name, "…", flush=True)
            save_results(RESULTS, [{"name": name, **run(way, seed, arguments, original)}])


def known_data(arguments: argparse.Namespace) -> Dataset:
    """A sample of what the start model was not trained on, of the domains that it knows."""
    data = load_validation_set(arguments.start, arguments.original)
    chosen = np.random.default_rng(0).permutation(len(data))[:ORIGINAL_SAMPLE]
    return data.select(np.sort(chosen))


def run(way: str, seed: int, arguments: argparse.Namespace, original: Dataset | None) -> dict[str, Any]:
    recipe = recipe_of(way, seed, arguments)
    family = load_splits(recipe.data)[1]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        if way == "start":  # as it is
            model, cost = load_model(arguments.start), {}
        else:
            model = load_model(train(recipe, Path(temporary) / "run", progress=False))
            cost = {key: model.card["training"][key] for key in ("step", "forward_passes", "time_s")}
    seconds = time.process_time() - began
    return {
        "way": way,
        "seed": seed,
        "start": str(arguments.start),
        "family": {
            "pack": arguments.family.name,
            "level_of_theory": Pack.open(arguments.family).meta["level_of_theory"],
        },
        "structures": arguments.structures,
        "settings": settings_of(way, arguments.start),
        "new": errors(model, family),
        "original": None if original is None or way == "scratch" else errors(model, original),
        "training": {**cost, "cpu_seconds": seconds},
        **provenance(),
    }


def settings_of(way: str, start: str) -> dict[str, Any]:
    """What is particular to one way."""
    frozen = {"fine_tuning.frozen_blocks": load_model(start).settings.depth // 2} if way == "frozen" else {}
    return {**WAYS.get(way, {}), **frozen}


def recipe_of(way: str, seed: int, arguments: argparse.Namespace) -> Recipe:
    """The recipe of one way; from scratch, the model is as large as the start model."""
    changes: dict[str, Any] = {
        "data.train": [str(arguments.family)],
        "data.max_train": arguments.structures,
        "data.seed": seed,
        "training.seed": seed,
        **settings_of(way, arguments.start),
    }
    if arguments.steps:
        changes["training.steps"] = arguments.steps
    if way == "scratch":
        changes["model"] = load_model(arguments.start).settings.model_dump(mode="json")
    else:
        changes["init_from"] = str(arguments.start)
    if "replay" in way:
        changes["data.replay"] = arguments.replay or [str(known_pack(arguments.start))]
    return load(Recipe, HERE / "base.yaml", [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def known_pack(start: str) -> Path:
    """What the run `start` was trained on, without what it held out: forgetting is measured on that."""
    recipe = Path(start) / "recipe.yaml"
    if not recipe.is_file():
        raise InputError("is not a run folder", where=start, remedy="name the packs it was trained on: --replay")
    known = Path(KNOWN.format(Path(start).name))
    if not known.exists():
        data = load_splits(load(Recipe, recipe).data)[0]
        structures = (data[i] for i in range(len(data)))
        write_pack(known, structures, level_of_theory=data.level_of_theory)
    return known


def errors(model: Any, data: Dataset) -> dict[str, float]:
    found = validation_metrics(model, data, batch_limits_for(data))
    return {**errors_in_mev(found), "structures": found["structures"]}


def table(found: Sequence[Record]) -> str:
    """Mean over the seeds, and how much lower the force error is than from scratch."""

    def mean(way: str, data: str, key: str) -> float:
        values = [result[data][key] for result in found if result["way"] == way and result[data]]
        return statistics.mean(values) if values else float("nan")

    force, energy = "force_mae_mev_per_angstrom", "energy_mae_mev_per_atom"
    lines = ["way             seeds | new: forces  energy  scratch/forces | original: forces  energy  change of forces"]
    for way in ["start", *WAYS]:
        if not any(result["way"] == way for result in found):
            continue
        new, old = mean(way, "new", force), mean(way, "original", force)
        lines.append(
            f"{way:15} {sum(result['way'] == way for result in found):5} | {new:11.1f} {mean(way, 'new', energy):7.2f} "
            f"{mean('scratch', 'new', force) / new:15.2f} | {old:16.1f} {mean(way, 'original', energy):7.2f} "
            f"{100 * (old / mean('start', 'original', force) - 1):15.1f} %"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
