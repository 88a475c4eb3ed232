"""How well spreads over rotations, models and both foretell errors on molecules that no model has seen.

    python -m benchmarks.uncertainty.run MODEL MODEL ... [--data PACK ...] [--elsewhere PACK ...]

Without --data, on what the recipe of the first run held out; all models must have held out the same. The maps from
spread to uncertainty are fitted on one half of the compositions and tested on the other, for many splits. What maps
fitted to all of them are worth on molecules of another kind is measured with --elsewhere. The record
`uncertainty` goes into benchmarks/uncertainty/results.jsonl.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy.stats import spearmanr

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.data.dataset import Dataset
from transip.evaluation.calibrate import CalibrationData, collect, uncalibrated
from transip.evaluation.saved import batch_limits_for, load_validation_set
from transip.model.calibration import LEVELS, SpreadToError

KINDS = ("forces", "energy")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", nargs="*", type=Path, default=[])
    parser.add_argument("--elsewhere", nargs="*", type=Path, default=[], help="packs of another kind of molecules")
    parser.add_argument("--average", type=int, default=12)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    models, average = arguments.models, arguments.average
    data = load_validation_set(models[0], arguments.data)
    elsewhere = Dataset.open(arguments.elsewhere) if arguments.elsewhere else None
    ways = {
        f"{average} rotations": (models[:1], average),
        f"{len(models)} models": (models, None),
        f"{len(models)} models × {average} rotations": (models, average),
    }
    rows = []
    for name, (members, rotations) in track(ways.items(), "uncertainty", len(ways)):
        predictor = uncalibrated(members, rotations, arguments.device)
        found = collect(predictor, data, batch_limits_for(data))
        passes = len(members) * (rotations or 1)
        rows.append({"spread": name, "forward_passes": passes, **summary(found, arguments.splits)})
        if elsewhere is not None:
            rows[-1]["elsewhere"] = transferred(found, collect(predictor, elsewhere, batch_limits_for(elsewhere)))
    result = {
        "name": "uncertainty",
        "models": [str(model) for model in models],
        "structures": len(data),
        "atoms": int(data.atom_counts.sum()),
        "compositions": len(np.unique(data.composition_hashes())),
        "elsewhere": [str(path) for path in arguments.elsewhere],
        "seeds": f"splits 0 to {arguments.splits - 1}",
        "rows": rows,
        **provenance("scipy", device=arguments.device),
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(rows, indent=1))


def summary(found: CalibrationData, splits: int) -> dict[str, Any]:
    """Correlations on all structures, coverage on the halves that the maps were not fitted to."""
    maps = [fitted_and_tested(found, seed) for seed in range(splits)]
    return {
        "force_error_length_mev_per_angstrom": 1e3 * float(found.forces_error.mean()),
        "energy_mae_mev_per_atom": 1e3 * float((found.energy_error / found.counts).mean()),
        "spearman_forces_per_atom": correlation(found.forces_std, found.forces_error),
        "spearman_forces_per_structure": correlation(*(rms(found, kind) for kind in ("forces_std", "forces_error"))),
        "spearman_largest_force_error": correlation(*(top(found, kind) for kind in ("forces_std", "forces_error"))),
        "spearman_energy": correlation(found.energy_std, found.energy_error),
        "coverage": {
            kind: {str(level): statistics([split[kind].coverage[str(level)] for split in maps]) for level in LEVELS}
            for kind in KINDS
        },
        "map_of_split_0": {kind: maps[0][kind].model_dump(exclude={"coverage", "spearman"}) for kind in KINDS},
        "coverage_by_fifth_of_spread": {kind: by_fifth(found, kind, splits) for kind in KINDS},
    }


def fitted_and_tested(found: CalibrationData, seed: int) -> dict[str, SpreadToError]:
    fitted, other = found.halves(seed)
    return {kind: SpreadToError.fit(*pair(fitted, kind)).with_test_scores(*pair(other, kind)) for kind in KINDS}


def transferred(found: CalibrationData, other: CalibrationData) -> dict[str, Any]:
    """What maps fitted to `found` are worth on molecules of another kind."""
    maps = {kind: SpreadToError.fit(*pair(found, kind)).with_test_scores(*pair(other, kind)) for kind in KINDS}
    return {
        "structures": len(other.counts),
        "force_error_length_mev_per_angstrom": 1e3 * float(other.forces_error.mean()),
        "energy_mae_mev_per_atom": 1e3 * float((other.energy_error / other.counts).mean()),
        **{kind: {"spearman": one.spearman, "coverage": one.coverage} for kind, one in maps.items()},
    }


def by_fifth(found: CalibrationData, kind: str, splits: int) -> list[float]:
    """% within the 68 % uncertainty among the smallest, …, largest spreads of the other half; mean over splits."""
    shares = []
    for seed in range(splits):
        fitted, other = found.halves(seed)
        spread, error = pair(other, kind)
        within = error <= SpreadToError.fit(*pair(fitted, kind))(spread)
        shares.append([100 * part.mean() for part in np.array_split(within[spread.argsort()], 5)])
    return np.mean(shares, 0).round(1).tolist()


def statistics(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std_over_splits": float(np.std(values))}


def pair(found: CalibrationData, kind: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(found, f"{kind}_std"), getattr(found, f"{kind}_error")


def rms(found: CalibrationData, name: str) -> np.ndarray:
    return np.sqrt(np.add.reduceat(getattr(found, name) ** 2, first_atoms(found)) / found.counts)


def top(found: CalibrationData, name: str) -> np.ndarray:
    return np.maximum.reduceat(getattr(found, name), first_atoms(found))


def first_atoms(found: CalibrationData) -> np.ndarray:
    return np.cumsum(found.counts) - found.counts


def correlation(spread: np.ndarray, error: np.ndarray) -> float:
    return float(spearmanr(spread, error).statistic)


if __name__ == "__main__":
    main()
