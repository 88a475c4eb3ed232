"""The speedrun: the lowest force error on unseen compositions after twelve minutes of training on one core.

    python -m benchmarks.speedrun.run organics organics-latent --seeds 0 1 2
    python -m benchmarks.speedrun.run painn esen mace nequip allscaip pet --seeds 0 1 2
    python -m benchmarks.speedrun.run organics --set model.forces=direct --name=-direct
    python -m benchmarks.speedrun.run organics --steps 4800 --name=-4800-steps
    python -m benchmarks.speedrun.run esen --width 32 --name=-32-channels
    python -m benchmarks.speedrun.run organics esen --structures 1000

An entry is a recipe (recipes/NAME.yaml) or a peer (benchmarks/peers/adapters/NAME.py, trained inside its own
environment by benchmarks/peers/train.py, on the same structures, with the same loss). The task is
`recipes/data-organics.yaml`, built first, once, if it is not there. Errors are those on the compositions that it holds
out, by which settings are chosen, and, under "test", on the molecules of the same list that have one or two atoms more
than the task's, by which nothing is. Only training counts towards the budget, evaluations do not. Each run adds a
record to benchmarks/speedrun/results.jsonl: ENTRY-seedK, or ENTRY@N-seedK where it was given N of the structures only.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.errors import errors_in_mev
from benchmarks.common.records import ROOT, Record, argument_parser, provenance, results_file, save_results
from benchmarks.peers.environments import run_in_environment_of
from transip.config import DataSettings, LabelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.data.references import AtomicReferences, statistics
from transip.data.split import load_splits
from transip.evaluation.saved import Evaluation, evaluate_checkpoint
from transip.labels.campaign import run_campaign
from transip.labels.organics import molecules_up_to
from transip.training.trainer import train

ADAPTERS = ROOT / "benchmarks" / "peers" / "adapters"
DATA, TEST = Path("data/organics.pack"), Path("data/organics-test.pack")
TEST_STRUCTURES = 930  # as many as are held out
LABELS = "recipes/data-organics.yaml"
CHOICES = ("name", "width", "learning-rate", "energy-weight")  # what train.py lets one choose of a peer
EXPORT = "data/organics{}.npz"  # with "@N" for N of the structures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("entries", nargs="+", help="recipes or peers, by name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=12.0, help="budget of training")
    parser.add_argument("--steps", type=int, help="a budget of optimiser steps instead (recipes only)")
    parser.add_argument("--structures", type=int, help="train on so many of the structures")
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", help="override settings of recipes: a.b=c")
    parser.add_argument("--width", type=int, help="channels of a peer (default: its adapter's)")
    parser.add_argument("--learning-rate", type=float, help="peak rate of a peer (default: its adapter's)")
    parser.add_argument("--energy-weight", type=float, help="of a peer's loss, in Å (default: 2)")
    parser.add_argument("--keep", type=Path, help="keep the runs, models included, in this folder")
    parser.add_argument("--name", default="", help="appended to the entry's name, to tell overrides apart")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not DATA.exists():
        run_campaign(load(LabelSettings, LABELS), DATA)
    if not TEST.exists():
        build_test()
    fewer = "" if arguments.structures is None else f"@{arguments.structures}"
    for entry in arguments.entries:
        for seed in arguments.seeds:
            name = f"{entry}{arguments.name}{fewer}-seed{seed}"
            if (ADAPTERS / f"{entry}.py").exists():
                data = Path(EXPORT.format(fewer))
                if not data.exists():
                    export(data, arguments.structures)
                options = {"data": data, "minutes": arguments.minutes, "seed": seed}
                options |= {choice: getattr(arguments, choice.replace("-", "_")) for choice in CHOICES}
                result = run_in_environment_of(entry, "train", options)
            else:
                keep = arguments.keep and arguments.keep / name
                result = run_recipe(recipe_of(entry, seed, arguments), entry + arguments.name, keep)
            save_results(results_file(__file__), [{"name": name, **result}])
            print(name, summary(result))


def recipe_of(entry: str, seed: int, arguments: argparse.Namespace) -> Recipe:
    """The recipe of an entry, with the budget in the place of its own length."""
    budget = ["training.steps=null", f"training.minutes={arguments.minutes}"]
    if arguments.steps is not None:
        budget = ["training.minutes=null", f"training.steps={arguments.steps}"]
    if arguments.structures is not None:
        budget.append(f"data.max_train={arguments.structures}")
    return load(Recipe, f"recipes/{entry}.yaml", [*arguments.overrides, *budget, f"training.seed={seed}"])


def run_recipe(recipe: Recipe, entry: str, keep: Path | None) -> Record:
    """Train and evaluate."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = train(recipe, Path(temporary) / "run").parent
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        validation, test = evaluate_checkpoint(folder), evaluate_checkpoint(folder, [TEST])
        config = json.loads((folder / "model" / "config.json").read_text())
        if keep is not None:
            shutil.copytree(folder, keep, ignore=shutil.ignore_patterns("checkpoints"))
    return {
        "entry": entry,
        "kind": "recipe" if recipe.objective.latent.weight or "augment" not in entry else "control",
        "track": "cpu-1core",
        "seed": recipe.training.seed,
        "budget_minutes": recipe.training.minutes,
        "train_structures": config["data"]["structures"],
        "parameters": config["parameters"],
        "forward_passes": lines[-1]["forward_passes"],
        **errors(validation),
        "test": errors(test),
        "steps": lines[-1]["step"],
        "seconds": lines[-1]["time_s"],
        "atoms_processed": lines[-1]["atoms_processed"],
        "curve": [[line["time_s"], 1e3 * line["force_mae"]] for line in lines if line["kind"] == "evaluation"],
        "recipes": [recipe.model_dump(mode="json")],
        **provenance(),
    }


def errors(found: Evaluation) -> dict[str, float]:
    """What is reported of a model on a set of structures."""
    return {**errors_in_mev(found.overall, found.symmetry), "structures_evaluated": found.overall["structures"]}


def build_test() -> None:
    """Structures of the molecules that are one or two atoms larger than any of the task's, made in the same way."""
    settings, known = load(LabelSettings, LABELS), Dataset.open([DATA]).elements()
    (domain,) = settings.domains
    sizes = range(domain.max_atoms + 1, domain.max_atoms + 3)
    smiles = tuple(
        smiles
        for smiles, bonds in molecules_up_to(sizes[-1])
        if bonds.GetNumAtoms() in sizes and all(atom.GetAtomicNum() in known for atom in bonds.GetAtoms())
    )
    larger = {"smiles": smiles, "max_atoms": sizes[-1], "structures": TEST_STRUCTURES}
    run_campaign(settings.model_copy(update={"domains": (domain.model_copy(update=larger),)}), TEST)


def export(path: Path, structures: int | None) -> None:
    """The task as plain arrays, for programs that know nothing of transip."""
    train_data, validation = load_splits(DataSettings(train=(str(DATA),), max_train=structures))
    references = AtomicReferences.fit(train_data, terms=())  # peers subtract energies of elements only
    scale = statistics(train_data, references)["force_rms"]
    test = Dataset.open([TEST])
    arrays = _arrays("train", train_data) | _arrays("validation", validation) | _arrays("test", test)
    np.savez(path, references=references.values, scale=scale, **arrays)


def _arrays(split: str, data: Dataset) -> dict[str, np.ndarray]:
    batch = data.get_batch(np.arange(len(data)))
    assert batch.energy is not None and batch.forces is not None
    names = ("numbers", "positions", "forces", "energy", "charge", "spin")
    arrays = {name: getattr(batch, name) for name in names} | {"counts": batch.atom_counts}
    return {f"{split}_{name}": values.numpy() for name, values in arrays.items()}


def summary(result: Record) -> str:
    return (
        f"forces {result['force_mae_mev_per_angstrom']:.1f} meV/Å, energy {result['energy_mae_mev_per_atom']:.2f} "
        f"meV/atom, rotation error {result['force_rotation_error_mev_per_angstrom']:.1f} meV/Å"
    )


if __name__ == "__main__":
    main()
