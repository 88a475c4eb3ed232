"""Assert that transip and fairchem read the same numbers from a folder of `.aselmdb` shards; write a result.

python -m benchmarks.omol_format.compare FOLDER FAIRCHEM.npz
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.data.pack import pack_files
from transip.data.read import read_structures
from transip.data.store import Pack

EXACT = ("counts", "numbers", "charge", "spin", "domain", "source")


def read(folder: Path) -> dict[str, np.ndarray]:
    """What transip reads, in the layout of `dump_fairchem.py`."""
    structures = list(read_structures(folder))
    columns = {
        name: np.array([getattr(s, name) for s in structures])
        for name in ("charge", "spin", "energy", "domain", "source")
    }
    per_atom = {
        name: np.concatenate([getattr(s, name) for s in structures]) for name in ("numbers", "positions", "forces")
    }
    return columns | per_atom | {"counts": np.array([len(s) for s in structures])}


def packed(folder: Path) -> dict[str, np.ndarray]:
    """The same numbers after a way through a packed dataset, which keeps positions and forces in float32."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "x.pack"
        pack_files([folder], path, level_of_theory="ωB97M-V/def2-TZVPD")
        batch = Pack.open(path).get_batch(range(len(Pack.open(path))))
    return {name: getattr(batch, name).numpy() for name in ("positions", "energy", "forces")}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("fairchem", type=Path)
    options = parser.parse_args()
    theirs = dict(np.load(options.fairchem, allow_pickle=False))
    ours = read(options.folder)
    exact = {name: bool(np.array_equal(ours[name], theirs[name])) for name in EXACT}
    exact["metadata_counts"] = bool(np.array_equal(ours["counts"], theirs["metadata_counts"]))
    difference = {name: float(np.abs(ours[name] - theirs[name]).max()) for name in ("positions", "energy", "forces")}
    rounding = {name: float(np.abs(values - theirs[name]).max()) for name, values in packed(options.folder).items()}
    same = all(exact.values()) and not any(difference.values()) and max(rounding.values()) < 1e-5
    result = {
        "name": "same_numbers",
        "structures": len(ours["counts"]),
        "atoms": int(ours["counts"].sum()),
        "shards": len(list(options.folder.glob("*.aselmdb"))),
        "charges": sorted({int(q) for q in ours["charge"]}),
        "spins": sorted({int(s) for s in ours["spin"]}),
        "exactly_equal": exact,
        "largest_difference": difference,
        "largest_difference_after_packing_float32": rounding,
        "same": same,
        "versions_of_fairchem": theirs["versions"].tolist(),
        **provenance("ase", "ase-db-backends"),
        "command": "bash benchmarks/omol_format/run.sh",
    }
    save_results(results_file(__file__), [result])
    print(f"{result['structures']} structures, {result['atoms']} atoms: {'the same' if same else 'DIFFERENT'} numbers")
    sys.exit(not same)


if __name__ == "__main__":
    main()
