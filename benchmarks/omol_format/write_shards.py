"""Write structures as OMol25 ships them: `.aselmdb` shards, with OMol25's `atoms.info`, and a `metadata.npz`.

python -m benchmarks.omol_format.write_shards FOLDER [--pack NAME.pack] [--structures 200] [--shards 4]
"""

from pathlib import Path

import ase.db
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks.common.records import argument_parser
from tests.toy import toy_structure
from transip.data.store import Pack
from transip.structure import Structure

MADE_UP = {  # entries of OMol25's `atoms.info` that only the quantum-chemistry program knows
    "reference_source": "synthetic", "num_ecp_electrons": 0, "n_scf_steps": 14, "n_basis": 200, "nl_energy": 1.25,
    "homo_energy": [-8.0], "homo_lumo_gap": [9.0], "s_squared": 0.0, "s_squared_dev": 0.0, "warnings": [],
}  # fmt: skip


def info(structure: Structure) -> dict:
    """OMol25's `atoms.info`."""
    electrons = int(structure.numbers.sum()) - structure.charge
    charges = np.zeros(len(structure)).tolist()
    return {
        **MADE_UP,
        "source": structure.source,
        "data_id": structure.domain,
        "charge": structure.charge,
        "spin": structure.spin,
        "num_atoms": len(structure),
        "num_electrons": electrons,
        "unrestricted": structure.spin > 1,
        "integrated_densities": [electrons / 2, electrons / 2, float(electrons)],
        **{f"{kind}_charges": charges for kind in ("mulliken", "lowdin", "nbo")},
        "composition": structure.formula,
    }


def write(folder: Path, structures: list[Structure], shards: int) -> None:
    """Write `structures` in order to `folder`/data0000.aselmdb, data0001.aselmdb, … and their metadata."""
    folder.mkdir(parents=True)
    for shard, indices in enumerate(np.array_split(np.arange(len(structures)), shards)):
        with ase.db.connect(folder / f"data{shard:04d}.aselmdb", type="aselmdb", use_lock_file=False) as database:
            for structure in (structures[i] for i in indices):
                atoms = structure.to_atoms()
                atoms.calc = SinglePointCalculator(atoms, energy=structure.energy, forces=structure.forces)
                database.write(atoms, data=info(structure))
    np.savez_compressed(
        folder / "metadata.npz",
        natoms=np.array([len(structure) for structure in structures]),
        data_ids=np.array([structure.domain for structure in structures]),
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", type=Path, help="labelled structures to write; without it, synthetic ones")
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    pack = Pack.open(options.pack) if options.pack else None
    number = min(options.structures, len(pack)) if pack else options.structures
    structures = [pack[i] if pack else toy_structure(i) for i in range(number)]
    write(options.folder, structures, options.shards)
    print(f"{len(structures)} structures in {options.shards} shards: {options.folder}")


if __name__ == "__main__":
    main()
