"""Vibrational frequencies of a model against GFN2-xTB, each at its own minimum, by the same finite differences.

    python -m benchmarks.simulation.vibrations MODEL [--data PACK ...] [--molecules 10] [--device cpu]

Needs tblite (`pip install ".[labels]"`). Without --data, molecules that MODEL's recipe held out, each of another
composition. Frequencies are compared in ascending order. The record `vibrations` goes
into benchmarks/simulation/results.jsonl.
"""

import json
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses
from ase.optimize import LBFGS
from rich.progress import track
from tblite.ase import TBLite

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from benchmarks.simulation.conservation import SEED, pick_diverse
from transip.evaluation.saved import load_validation_set
from transip.inference.ase import TransIPCalculator
from transip.inference.relax import relax
from transip.inference.vibrations import asymmetry, derivatives, finite_differences, normal_modes
from transip.structure import Structure

FMAX, STEPS, STEP = 0.01, 500, 0.005  # eV/Å; of the relaxations; Å


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", nargs="*", type=Path, default=[])
    parser.add_argument("--molecules", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    calculator = TransIPCalculator(arguments.model, device=arguments.device, dtype="float64", unseen="ignore")
    sample = pick_diverse(load_validation_set(arguments.model, arguments.data), arguments.molecules)
    rows = [compare(one, calculator) for one in track(sample, "vibrations")]
    errors = np.concatenate([row["errors_cm-1"] for row in rows])
    result = {
        "name": "vibrations",
        **provenance("ase", "tblite", device=arguments.device),
        "seed": SEED,
        "model": str(arguments.model),
        "forces": calculator.model.settings.forces,
        "frequency_mae_cm-1": float(np.abs(errors).mean()),
        "frequency_rmse_cm-1": float(np.sqrt(np.square(errors).mean())),
        "zero_point_energy_mae_mev": float(np.mean([abs(row["zero_point_energy_error_mev"]) for row in rows])),
        "molecules": rows,
    }
    save_results(results_file(__file__), [result])
    print(json.dumps({key: value for key, value in result.items() if key != "molecules"}, indent=1))


def compare(structure: Structure, calculator: TransIPCalculator) -> dict[str, Any]:
    masses = atomic_masses[structure.numbers]
    optimizer = "FIRE" if calculator.model.settings.forces == "direct" else "LBFGS"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        final, relaxation = relax(structure, calculator, fmax=FMAX, steps=STEPS, optimizer=optimizer)
        begin = time.perf_counter()
        second = derivatives(calculator.model, final.structure, STEP).hessian
        seconds = time.perf_counter() - begin
        modes = normal_modes(second, final.structure.positions, masses)
    theirs, reference_fmax = relaxed_with_gfn2(structure)
    begin = time.perf_counter()
    reference = normal_modes(-finite_differences(gfn2_forces, theirs, STEP), theirs.positions, masses)
    reference_seconds = time.perf_counter() - begin
    return {
        "source": structure.source,
        "formula": structure.formula,
        "fmax": relaxation["final_fmax"],
        "reference_fmax": reference_fmax,
        "hessian_asymmetry": asymmetry(second),
        "imaginary": int((modes.frequencies < 0).sum()),
        "reference_imaginary": int((reference.frequencies < 0).sum()),
        "errors_cm-1": (modes.frequencies - reference.frequencies).tolist(),
        "reference_frequencies_cm-1": reference.frequencies.tolist(),
        "zero_point_energy_error_mev": 1e3 * (modes.zero_point_energy - reference.zero_point_energy),
        "seconds": seconds,
        "reference_seconds": reference_seconds,
    }


def gfn2(structure: Structure) -> TBLite:
    return TBLite(method="GFN2-xTB", charge=structure.charge, multiplicity=structure.spin, accuracy=0.1, verbosity=0)


def relaxed_with_gfn2(structure: Structure) -> tuple[Structure, float]:
    atoms = structure.to_atoms()
    atoms.calc = gfn2(structure)
    LBFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
    return replace(structure, positions=atoms.positions), float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def gfn2_forces(structures: Iterable[Structure]) -> Iterator[np.ndarray]:
    calculator = None
    for structure in structures:
        calculator = calculator or gfn2(structure)
        yield calculator.get_forces(structure.to_atoms())


if __name__ == "__main__":
    main()
