"""How right a model is about two molecules or ions from contact to 12 Å, against GFN2-xTB, which it may not have seen.

    python -m benchmarks.pairs.run MODEL ... [--device cpu]

MODEL is the folder or name of a model. The eight pairs and their labels are in benchmarks/pairs/scans.json (scans.py
says how they are made). `measure` takes any ASE calculator that reads charge and multiplicity from ``atoms.info``.
Records, one per model, go into benchmarks/pairs/results.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from benchmarks.pairs.scans import Point, Scan, axial_force, read_scans
from transip.inference.ase import TransIPCalculator
from transip.labels.pairs import SEPARATED

CalculatorOf = Callable[[ase.Atoms], Calculator]  # for atoms with charge and spin in their info


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="+", help="folder or name")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    records = []
    for model in arguments.models:
        calculator = TransIPCalculator(model, device=arguments.device, dtype="float64", unseen="ignore")
        pairs = {scan.name: measure(scan, lambda _, shared=calculator: shared) for scan in read_scans()}
        name = "/".join(part for part in Path(model).parts[-2:])
        records.append({"name": name, "pairs": pairs, **summary(pairs), **provenance(device=arguments.device)})
        print(name, json.dumps(summary(pairs), indent=1))
    save_results(results_file(__file__), records)


def measure(scan: Scan, calculator_of: CalculatorOf) -> dict[str, Any]:
    """Errors on one pair at the distances at which GFN2-xTB has a label.

    Energies are in eV, forces, on the second member along the axis, in eV/Å, distances in Å. Interaction energies are
    relative to the members alone, by the same method. Separated are members more than `SEPARATED` apart.

    Returns:
        force_mae_separated: None if GFN2-xTB has no label of the separated members.
        force_mae_coulomb: of separated members with a charge, whether or not there are labels, against Coulomb's law.
        largest_deviation: of the interaction energy.
        largest_deviation_from_far: of the energy relative to that at the largest distance.
        minimum, reference_minimum: distance and interaction energy where that is lowest.
        distances, interaction, force, reference_interaction, reference_force: the curves; None where there is no label.
    """
    alone = sum(_energy_and_force(scan.alone(member), calculator_of)[0] for member in (0, 1))
    first, shifts = len(scan.numbers[0]), [point.shift for point in scan.points]
    found = np.array([_energy_and_force(scan.together(shift), calculator_of, first) for shift in shifts])
    interaction, force = found[:, 0] - alone, found[:, 1]
    reference = np.array([_label(scan, point) for point in scan.points])
    labelled = np.isfinite(reference[:, 0])
    distances = np.array([point.distance for point in scan.points])
    separated = distances > SEPARATED
    coulomb = np.array([scan.coulomb(shift)[1] for shift in shifts])
    error = (interaction - reference[:, 0])[labelled]
    return {
        "ionic": scan.ionic,
        "labelled": int(labelled.sum()),
        "force_mae_separated": _mean_absolute((force - reference[:, 1])[separated & labelled]),
        "force_mae_coulomb": _mean_absolute((force - coulomb)[separated]) if scan.ionic else None,
        "largest_deviation": float(np.abs(error).max()),
        "largest_deviation_from_far": float(np.abs(error - error[-1]).max()),
        "minimum": _minimum(distances[labelled], interaction[labelled]),
        "reference_minimum": _minimum(distances[labelled], reference[labelled, 0]),
        "distances": distances.tolist(),
        "interaction": np.round(interaction, 5).tolist(),
        "force": np.round(force, 5).tolist(),
        "reference_interaction": _none_if_nan(reference[:, 0]),
        "reference_force": _none_if_nan(reference[:, 1]),
    }


def summary(pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the force errors and the largest deviations, of pairs with an ion and of neutral ones."""
    found = {}
    for kind in ("ionic", "neutral"):
        of_kind = [pair for pair in pairs.values() if pair["ionic"] == (kind == "ionic")]
        forces = {
            key: [pair[key] for pair in of_kind if pair[key] is not None]
            for key in ("force_mae_separated", "force_mae_coulomb")
        }
        found[kind] = {
            **{key: float(np.mean(values)) for key, values in forces.items() if values},
            "largest_deviation": max(pair["largest_deviation"] for pair in of_kind),
            "largest_deviation_from_far": max(pair["largest_deviation_from_far"] for pair in of_kind),
        }
    return found


def _label(scan: Scan, point: Point) -> tuple[float, float]:
    """Interaction energy and force; NaN if they are no label."""
    if not scan.has_label(point) or point.energy is None or point.force is None:
        return np.nan, np.nan
    return point.energy - sum(scan.energies), point.force


def _mean_absolute(errors: np.ndarray) -> float | None:
    return float(np.abs(errors).mean()) if len(errors) else None


def _none_if_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]


def _minimum(distances: np.ndarray, energies: np.ndarray) -> dict[str, float]:
    lowest = int(energies.argmin())
    return {"distance": float(distances[lowest]), "energy": float(energies[lowest])}


def _energy_and_force(atoms: ase.Atoms, calculator_of: CalculatorOf, num_first: int = 0) -> tuple[float, float]:
    atoms.calc = calculator_of(atoms)
    return atoms.get_potential_energy(), axial_force(atoms, num_first)


if __name__ == "__main__":
    main()
