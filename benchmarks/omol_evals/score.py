"""Score results of the seven tasks, and an S2EF submission, with OMol25's official evaluator.

    python -m benchmarks.omol_evals.score REFERENCE FOLDER [--name NAME]

In an environment with fairchem-data-omol and pymatgen (requirements.txt); transip is not needed. REFERENCE and FOLDER
hold TASK.json of each task, those from ORCA (or GFN2) and those from a model, and s2ef.npz. Tasks that are not in both
are left out. The scores are printed and, with `--name`, kept as that record in benchmarks/omol_evals/results.jsonl.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from fairchem.data.omol.modules import evaluator
from pymatgen.io.ase import MSONAtoms

from benchmarks.common.records import argument_parser, provenance, results_file, save_results

EVALUATORS = {  # as the leaderboard calls them
    "conformers": evaluator.geom_conformers,
    "distance_scaling": evaluator.distance_scaling,
    "ieea": evaluator.unoptimized_ie_ea,
    "ligand_pocket": evaluator.ligand_pocket,
    "ligand_strain": evaluator.ligand_strain,
    "protonation": evaluator.protonation_energies,
    "spin_gap": evaluator.unoptimized_spin_gap,
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", help="of the record that keeps the scores")
    parser.add_argument("--what", default="", help="a note on what is scored, kept with the scores")
    arguments = parser.parse_args()
    scores: dict[str, Any] = {}
    for task, evaluate in EVALUATORS.items():
        pair = [folder / f"{task}.json" for folder in (arguments.reference, arguments.folder)]
        if all(path.exists() for path in pair):
            loaded = [json.loads(path.read_text(encoding="utf-8")) for path in pair]
            check_molecules(loaded)
            scores[task] = {name: float(value) for name, value in evaluate(*loaded).items()}
    pair = [folder / "s2ef.npz" for folder in (arguments.reference, arguments.folder)]
    if all(path.exists() for path in pair):
        scores["s2ef"] = {name: float(value) for name, value in evaluator.singlepoint(*map(submission, pair)).items()}
    if arguments.name:
        origin = provenance("fairchem-data-omol", "pymatgen", "ase")
        record = {"name": arguments.name, "what": arguments.what, "scores": scores, **origin}
        save_results(results_file(__file__), [record])
    print(json.dumps(scores, indent=2))


def check_molecules(value: Any) -> None:
    """Every molecule is just what pymatgen itself would have written."""
    if isinstance(value, dict) and value.get("@class") == "MSONAtoms":
        again = MSONAtoms(MSONAtoms.from_dict(value)).as_dict()
        written = {**value, "atoms_json": json.loads(value["atoms_json"])}
        assert written == {**again, "atoms_json": json.loads(again["atoms_json"])}, (value, again)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            check_molecules(inner)


def submission(path: Path) -> dict[str, dict[str, Any]]:
    """The structures of an .npz file by identifier."""
    with np.load(path) as arrays:
        assert set(arrays.files) == {"ids", "energy", "forces", "natoms"}
        forces = np.split(arrays["forces"], np.cumsum(arrays["natoms"])[:-1])
        columns = zip(arrays["ids"], arrays["energy"], forces, strict=True)
        return {str(name): {"energy": energy, "forces": force} for name, energy, force in columns}


if __name__ == "__main__":
    main()
