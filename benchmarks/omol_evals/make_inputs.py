"""Small inputs of the seven tasks, and an S2EF split, in the formats of the published ones, for GFN2-xTB to label.

    python -m benchmarks.omol_evals.make_inputs FOLDER

Leaves TASK.pkl of each task and s2ef.extxyz. The molecules have a dozen atoms at most; geometries come from RDKit and
ASE, displacements from SEED.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import ase
import ase.build
import numpy as np
from ase.io import write
from rdkit import Chem
from rdkit.Chem import AllChem

from transip.files import atomic_path

SEED = 0
generator = np.random.default_rng(SEED)


def main() -> None:
    folder = Path(sys.argv[1])
    inputs = {
        "conformers": conformers(),
        "distance_scaling": distance_scaling(),
        "ieea": ieea(),
        "ligand_pocket": ligand_pocket(),
        "ligand_strain": ligand_strain(),
        "protonation": protonation(),
        "spin_gap": spin_gap(),
    }
    for task, value in inputs.items():
        with atomic_path(folder / f"{task}.pkl") as partial:
            partial.write_bytes(pickle.dumps(value))
    split = [
        molecule(smiles, number) for number in range(3) for smiles in ("CCO", "CC(=O)O", "c1ccccc1", "CC#N", "CSC")
    ]
    for number, atoms in enumerate(split):
        atoms.info |= {"source": f"small/{number}", "data_id": ("geom_orca6", "ani2x")[number % 2]}
    with atomic_path(folder / "s2ef.extxyz") as partial:
        write(partial, split, format="extxyz")


def embedded(smiles: str, number: int, charge: int = 0, spin: int = 1) -> list[ase.Atoms]:
    """Conformers as RDKit's force field leaves them."""
    bonds = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(bonds, number, randomSeed=SEED + 1)  # with 0 all are the same
    AllChem.UFFOptimizeMoleculeConfs(bonds)
    numbers = [atom.GetAtomicNum() for atom in bonds.GetAtoms()]
    info = {"charge": charge, "spin": spin}
    return [ase.Atoms(numbers, one.GetPositions(), info=dict(info)) for one in bonds.GetConformers()]


def molecule(smiles: str, number: int = 0) -> ase.Atoms:
    """A shaken molecule; other ones for other numbers."""
    (atoms,) = embedded(smiles, 1)
    atoms.positions += np.random.default_rng((SEED, number)).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def conformers() -> dict[str, Any]:
    return {
        smiles: [{"sid": f"{smiles}_{k}", "initial_atoms": atoms} for k, atoms in enumerate(embedded(smiles, 3))]
        for smiles in ("CCCO", "OCCO")
    }


def protonation() -> dict[str, Any]:
    """Named name_charge_spin, from which the evaluator takes the charges."""
    families = {"acid": {0: "CC(=O)O", -1: "CC(=O)[O-]"}, "amine": {0: "CN", 1: "C[NH3+]"}}
    return {
        family: {
            f"{family}_{charge}_1": {"initial_atoms": embedded(smiles, 1, charge)[0]}
            for charge, smiles in states.items()
        }
        for family, states in families.items()
    }


def ieea() -> dict[str, Any]:
    """One spin of the neutral molecule, one or two of its ions; keys are text."""
    spins = {"-1": ("2",), "0": ("1",), "1": ("2", "4")}
    return {
        name: {
            charge: {spin: {"atoms": charged(name, int(charge), int(spin))} for spin in several}
            for charge, several in spins.items()
        }
        for name in ("H2CO", "C2H4")
    }


def spin_gap() -> dict[str, Any]:
    spins = {"O2": ("1", "3"), "CH2_s3B1d": ("1", "3"), "C2H4": ("1", "3", "5")}
    return {name: {spin: {"atoms": charged(name, 0, int(spin))} for spin in several} for name, several in spins.items()}


def charged(name: str, charge: int, spin: int) -> ase.Atoms:
    return ase.build.molecule(name, info={"charge": charge, "spin": spin})


def ligand_pocket() -> dict[str, Any]:
    """A molecule between two waters; positions in the parts are exactly those in the whole."""
    found = {}
    for smiles in ("CO", "CC=O"):
        (ligand,), pocket = embedded(smiles, 1), two_waters()
        whole = ligand + pocket
        for part in (pocket, whole):
            part.info = {"charge": 0, "spin": 1}
        found[smiles] = {"ligand": ligand, "pocket": pocket, "ligand_pocket": whole}
    return found


def two_waters() -> ase.Atoms:
    first, second = ase.build.molecule("H2O"), ase.build.molecule("H2O")
    first.positions += (0, 0, 4.0)
    second.positions -= (0, 0, 4.0)
    return first + second


def ligand_strain() -> dict[str, Any]:
    found = {}
    for smiles in ("CCCO", "OCCN"):
        bioactive, *others = embedded(smiles, 3)
        bioactive.positions += generator.normal(scale=0.05, size=bioactive.positions.shape)
        found[smiles] = {"bioactive_conf": bioactive, "conformers": others}
    return found


def distance_scaling() -> dict[str, Any]:
    """Two molecules ever farther apart; the evaluator knows the range by the name of each point."""
    pairs = {
        "neutral_organics": {"water_water": ("H2O", "H2O"), "water_methane": ("H2O", "CH4")},
        "elytes": {"water_chloromethane": ("H2O", "CH3Cl")},
    }
    return {vertical: {name: curve(*pair) for name, pair in systems.items()} for vertical, systems in pairs.items()}


def curve(first: str, second: str) -> dict[str, ase.Atoms]:
    points = {}
    for distance in (3.0, 3.5, 4.0, 5.0, 7.0, 9.0):
        other = ase.build.molecule(second)
        other.positions += (0, 0, distance)
        both = ase.build.molecule(first) + other
        both.info = {"charge": 0, "spin": 1}
        points[f"{'short' if distance < 6 else 'long'}_range_scaled_complex_{distance:g}"] = both
    return points


if __name__ == "__main__":
    main()
