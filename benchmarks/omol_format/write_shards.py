"""Write labelled structures as OMol25 ships them: `.aselmdb` shards and a `metadata.npz`.

Each row is a zlib-compressed JSON document written by ase-db-backends: atoms without a cell, energy and forces of a
SinglePointCalculator, and OMol25's `atoms.info` in `data`.

    python -m benchmarks.omol_format.write_shards FOLDER [--pack NAME.pack] [--structures 200] [--shards 4]
"""

from pathlib import Path

import ase.build
import ase.collections
import ase.db
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks.common.records import argument_parser
from transip.data.store import Pack
from transip.structure import Structure

DOMAINS = ("elytes", "biomolecules", "metal_complexes", "reactivity", "spice", "ani2x", "orbnet_denali")
SEED = 0


def synthetic(count: int) -> list[Structure]:
    """Distorted molecules of the G2 set in several charges and multiplicities, with random labels."""
    generator = np.random.default_rng(SEED)
    names = [name for name in ase.collections.g2.names if len(ase.collections.g2[name]) > 1]
    structures = []
    for i in range(count):
        atoms = ase.build.molecule(names[i % len(names)])
        charge = int(generator.integers(-2, 3))
        electrons = int(atoms.numbers.sum()) - charge
        structures.append(
            Structure(
                numbers=atoms.numbers.astype(np.int64),
                positions=atoms.positions + generator.normal(scale=0.03, size=(len(atoms), 3)),
                charge=charge,
                spin=1 + electrons % 2 + (2 * int(generator.integers(0, 2)) if electrons > 3 else 0),
                energy=float(-13.6 * (atoms.numbers**2.4).sum() * (1 + 1e-3 * generator.normal())),
                forces=generator.normal(size=(len(atoms), 3)),
                domain=DOMAINS[i % len(DOMAINS)],
                source=f"{DOMAINS[i % len(DOMAINS)]}/{names[i % len(names)]}_{i}",
            )
        )
    return structures


def info(structure: Structure) -> dict:
    """OMol25's `atoms.info`; what only the quantum-chemistry program knows is made up."""
    atoms = structure.to_atoms()
    electrons = int(structure.numbers.sum()) - structure.charge
    per_atom = np.zeros(len(structure)).tolist()
    return {
        "source": structure.source,
        "reference_source": "synthetic",
        "data_id": structure.domain,
        "charge": structure.charge,
        "spin": structure.spin,
        "num_atoms": len(structure),
        "num_electrons": electrons,
        "num_ecp_electrons": 0,
        "n_scf_steps": 14,
        "n_basis": 20 * len(structure),
        "unrestricted": structure.spin > 1,
        "nl_energy": 1.25,
        "integrated_densities": [electrons / 2, electrons / 2, float(electrons)],
        "homo_energy": [-8.0],
        "homo_lumo_gap": [9.0],
        "s_squared": 0.0,
        "s_squared_dev": 0.0,
        "warnings": [],
        "mulliken_charges": per_atom,
        "lowdin_charges": per_atom,
        "nbo_charges": per_atom,
        "composition": atoms.get_chemical_formula(),
    }


def write(folder: Path, structures: list[Structure], shards: int) -> None:
    """Write `structures` in order to `folder`/data0000.aselmdb, data0001.aselmdb, … and their metadata."""
    folder.mkdir(parents=True)
    for shard, part in enumerate(np.array_split(np.arange(len(structures)), shards)):
        with ase.db.connect(folder / f"data{shard:04d}.aselmdb", type="aselmdb", use_lock_file=False) as database:
            for i in part:
                structure = structures[i]
                atoms = structure.to_atoms()
                atoms.calc = SinglePointCalculator(atoms, energy=structure.energy, forces=structure.forces)
                database.write(atoms, data=info(structure))
    np.savez_compressed(
        folder / "metadata.npz",
        natoms=np.array([len(s) for s in structures]),
        data_ids=np.array([s.domain for s in structures]),
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", type=Path, help="labelled structures to write; without it, synthetic ones")
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    if options.pack:
        pack = Pack.open(options.pack)
        structures = [pack[i] for i in range(min(options.structures, len(pack)))]
    else:
        structures = synthetic(options.structures)
    write(options.folder, structures, options.shards)
    print(f"{len(structures)} structures in {options.shards} shards: {options.folder}")


if __name__ == "__main__":
    main()
