"""Measure a trained model, complete its card with what was found, and put it into the package under a name.

    python -m benchmarks.released.release runs/gfn2-xs transip-xs-gfn2
    python -m benchmarks.released.release runs/gfn2-xs transip-xs-gfn2 --into OUT

Errors are those on what the run's recipe held out, domain by domain, and on organics at 300 K of compositions that it
has not trained on (recipes/data-gfn2-300k.yaml, built if it is not there), beside what GFN2-xTB itself costs.
What benchmarks/simulation/conservation.py has found of the same run goes onto its card. The record NAME goes into
benchmarks/released/results.jsonl, and the model, with card and checksums, into src/transip/models/NAME.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.hardware import measure
from benchmarks.common.records import argument_parser, provenance, read_results, results_file, save_results
from transip.config import LabelSettings, Recipe, load
from transip.data.dataset import Dataset
from transip.data.split import load_full_splits
from transip.evaluation.saved import batch_limits_for, evaluate
from transip.inference.predict import predict_batch
from transip.labels.campaign import run_campaign
from transip.labels.methods import GFN2
from transip.model.files import load_model, update_metadata
from transip.model.hub import export_for_release
from transip.model.potential import Potential
from transip.model.released import SHIPPED

RESULTS = results_file(__file__)
SIMULATIONS = RESULTS.parents[1] / "simulation" / RESULTS.name
TEST, TEST_RECIPE = Path("data/gfn2-300k.pack"), "recipes/data-gfn2-300k.yaml"
AT_300_K, HELD_OUT = "neutral organics at 300 K", "held out"
NOT_FOR = [
    "numbers that a publication rests on: GFN2-xTB itself is a semi-empirical method",
    "reactions, charged and open-shell molecules and metal complexes without a check: errors there are several times "
    "as large (above)",
    "energy differences between charge states: ionisation energies of transip-s-gfn2 were 0.8 to 2.8 eV too low in the "
    "three cases that were tried",
    "molecules much larger than those of training, and clusters whose parts are more than a few ångström apart",
]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="of the model in the package")
    parser.add_argument("--into", type=Path, default=SHIPPED, help="folder of released models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not TEST.exists():
        run_campaign(load(LabelSettings, TEST_RECIPE), TEST)
    model = load_model(arguments.run)
    data = load(Recipe, arguments.run / "recipe.yaml").data
    train, validation = load_full_splits(data)  # not only what training looked at in between
    test = Dataset.open([TEST])
    test = test.select(np.flatnonzero(~np.isin(test.composition_hashes(), train.composition_hashes())))
    domains, symmetry = errors(model, {"": validation, AT_300_K: test})
    conserved = conservation(arguments.run)
    folder = export_for_release(model, arguments.into / arguments.name)
    validation = model.card["validation"] | symmetry[HELD_OUT]  # of more structures than training looked at
    update_metadata(
        folder,
        name=arguments.name,
        domains=domains,
        validation=validation,
        conservation=conserved,
        not_for=NOT_FOR,
    )
    result = {
        "name": arguments.name,
        **provenance("tblite"),
        "model": arguments.name,
        "parameters": model.num_parameters,
        "megabytes": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        "level_of_theory": model.card["level_of_theory"],
        "elements": len(model.card["elements"]),
        "training": model.card["training"],
        "train_structures": len(train),
        "domains": domains,
        "symmetry": symmetry,
        "conservation": conserved,
        "cost": cost(model, test),
    }
    save_results(RESULTS, [result])
    print(json.dumps(result, indent=1))


def errors(model: Potential, sets: dict[str, Dataset]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics by name of the set or, for the set without a name, by domain; and rotation errors by name of the set."""
    domains: dict[str, Any] = {}
    symmetry: dict[str, Any] = {}
    for name, data in sets.items():
        found = evaluate(model, data, batch=batch_limits_for(data))
        domains |= {name: found.overall} if name else found.domains
        assert found.symmetry is not None
        symmetry[name or HELD_OUT] = {key: value for key, value in found.symmetry.items() if key != "layers"}
    return domains, symmetry


def conservation(run: Path) -> dict[str, str]:
    """How well this run's model conserves energy, in words; empty if it has not been simulated."""
    row = read_results(SIMULATIONS).get(f"conservation/{run.name}")
    if row is None:
        return {}
    mean, largest = (row[f"{which}_drift_mev_per_atom_per_ps"] for which in ("mean", "largest"))
    drift = "" if mean is None else f"; energy drift mean {mean:.3g}, largest {largest:.3g} meV/atom/ps"
    what = f"NVE of {len(row['molecules'])} unseen molecules, {row['picoseconds']:g} ps at 300 K in steps of 0.5 fs"
    return {what: f"{row['broken']} broken{drift}"}


def cost(model: Potential, data: Dataset) -> dict[str, Any]:
    """Milliseconds for energies and forces of one molecule, and of one among 64, ours and GFN2-xTB's."""
    middle = np.argsort(data.atom_counts, kind="stable")[len(data) // 2 :][:64]
    structures = [data[int(i)] for i in middle]
    one = structures[0]
    limits = {"repeats": 20, "seconds": 30.0}
    alone = measure(lambda: predict_batch(model, [one]), **limits)
    together = measure(lambda: predict_batch(model, structures), **limits)
    reference = measure(lambda: GFN2(one.numbers, one.charge, one.spin)(one.positions), **limits)
    return {
        "atoms": len(one),
        "one_milliseconds": alone["milliseconds"],
        "one_of_64_milliseconds": together["milliseconds"] / len(structures),
        "gfn2_milliseconds": reference["milliseconds"],
    }


if __name__ == "__main__":
    main()
