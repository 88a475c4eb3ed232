"""Read a folder of `.aselmdb` shards with fairchem's own `AseDBDataset` and write its numbers to an .npz.

Runs in fairchem's environment; knows nothing of transip.

    python -m benchmarks.omol_format.dump_fairchem FOLDER OUT.npz
"""

import sys
from importlib.metadata import version

import numpy as np
import torch
from fairchem.core.datasets import AseDBDataset


def main() -> None:
    folder, output = sys.argv[1:]
    # float64, or fairchem rounds total energies; no molecule_cell_size, or it moves the molecules into a box
    arguments = {
        "target_dtype": torch.float64,
        "r_energy": True,
        "r_forces": True,
        "r_data_keys": ["charge", "spin"],
    }
    dataset = AseDBDataset({"src": folder, "a2g_args": arguments})
    items = [dataset[i] for i in range(len(dataset))]
    infos = [dataset.get_atoms(i).info for i in range(len(dataset))]
    np.savez(
        output,
        counts=np.array([int(item.natoms) for item in items]),
        metadata_counts=np.array([dataset.get_metadata("natoms", i) for i in range(len(dataset))]),
        numbers=np.concatenate([item.atomic_numbers.numpy() for item in items]),
        positions=np.concatenate([item.pos.numpy() for item in items]),
        energy=np.array([float(item.energy) for item in items]),
        forces=np.concatenate([item.forces.numpy() for item in items]),
        charge=np.array([int(item.charge) for item in items]),
        spin=np.array([int(item.spin) for item in items]),
        domain=np.array([info["data_id"] for info in infos]),
        source=np.array([info["source"] for info in infos]),
        versions=np.array([f"{name} {version(name)}" for name in ("fairchem-core", "torch", "ase", "ase-db-backends")]),
    )


if __name__ == "__main__":
    main()
