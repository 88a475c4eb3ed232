"""Assert that transip and fairchem read the same numbers from a folder of `.aselmdb` shards; write a result.

python compare.py FOLDER FAIRCHEM.npz RESULT.json
"""

import argparse
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from transip.data.pack import pack_files
from transip.data.read import read_structures
from transip.data.store import Pack
from transip.files import write_json

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
        batch = Pack.open(path).batch(range(len(Pack.open(path))))
    return {name: getattr(batch, name).numpy() for name in ("positions", "energy", "forces")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("fairchem", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    theirs = dict(np.load(options.fairchem, allow_pickle=False))
    ours = read(options.folder)
    exact = {name: bool(np.array_equal(ours[name], theirs[name])) for name in EXACT}
    exact["metadata_counts"] = bool(np.array_equal(ours["counts"], theirs["metadata_counts"]))
    difference = {name: float(np.abs(ours[name] - theirs[name]).max()) for name in ("positions", "energy", "forces")}
    rounding = {name: float(np.abs(values - theirs[name]).max()) for name, values in packed(options.folder).items()}
    same = all(exact.values()) and not any(difference.values()) and max(rounding.values()) < 1e-5
    result = {
        "command": "bash benchmarks/omol_format/run.sh",
        "structures": len(ours["counts"]),
        "atoms": int(ours["counts"].sum()),
        "shards": len(list(options.folder.glob("*.aselmdb"))),
        "charges": sorted({int(q) for q in ours["charge"]}),
        "spins": sorted({int(s) for s in ours["spin"]}),
        "exactly_equal": exact,
        "largest_difference": difference,
        "largest_difference_after_packing_float32": rounding,
        "same": same,
        "versions": {
            "fairchem": theirs["versions"].tolist(),
            "transip": [f"{name} {version(name)}" for name in ("transip", "ase", "ase-db-backends", "numpy")],
            "python": platform.python_version(),
        },
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    write_json(options.result, result)
    print(f"{result['structures']} structures, {result['atoms']} atoms: {'the same' if same else 'DIFFERENT'} numbers")
    sys.exit(not same)


if __name__ == "__main__":
    main()
