"""
Screen and relax conformers
===========================

This example generates a thousand conformers of a flexible molecule with RDKit, predicts their energies in batches,
relaxes those of lowest energy, and prints a measure of trust for each. On one core a thousand conformers take some
minutes; ``python 06_screen_and_relax_conformers.py 50`` uses fifty.

It needs the extra ``labels``, which brings RDKit. It writes ``example-06.extxyz``.
"""

import sys

import ase
import ase.io
import numpy as np
from ase.optimize import LBFGS
from rdkit import Chem
from rdkit.Chem import AllChem

from transip import TransIPCalculator
from transip.symmetry.any_calculator import rotation_error

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
KEPT = min(5, COUNT // 2)

# %%
# Conformers
# ----------
#
# Distance geometry gives diverse start structures; RDKit's force field removes clashes. The total charge and the
# multiplicity go into ``atoms.info``: they are never guessed.

bonds = Chem.AddHs(Chem.MolFromSmiles("OCC(O)CNC(=O)C"))
AllChem.EmbedMultipleConfs(bonds, COUNT, randomSeed=1)
AllChem.MMFFOptimizeMoleculeConfs(bonds, maxIters=50)
numbers = [atom.GetAtomicNum() for atom in bonds.GetAtoms()]
conformers = [
    ase.Atoms(numbers, conformer.GetPositions(), info={"charge": 0, "spin": 1}) for conformer in bonds.GetConformers()
]

# %%
# Screen
# ------
#
# ``predict`` puts molecules into batches, which is many times faster than predicting them one by one. It returns copies
# with energy, forces and, because of ``average``, the spread over orientations.

model = TransIPCalculator("transip-s-gfn2", average=12)
screened = sorted(model.predict(conformers), key=lambda atoms: atoms.get_potential_energy())
energies = np.array([atoms.get_potential_energy() for atoms in screened])
print(f"{len(screened)} conformers, {energies[-1] - energies[0]:.2f} eV between the first and the last")

# %%
# Relax
# -----
#
# The conformers of lowest energy are relaxed to 0.05 eV/Å. The averaged forces are the exact derivative of the averaged
# energy, so the optimiser converges as on any potential.

relaxed = []
for atoms in screened[:KEPT]:
    candidate = atoms.copy()
    candidate.calc = model
    optimizer = LBFGS(candidate, logfile=None)
    optimizer.run(fmax=0.05, steps=200)
    spread = model.results["energy_std"]
    print(f"{candidate.get_potential_energy():.3f} ± {spread:.3f} eV after {optimizer.get_number_of_steps()} steps")
    relaxed.append(candidate)

relaxed.sort(key=lambda atoms: atoms.get_potential_energy())
ase.io.write("example-06.extxyz", relaxed)

# %%
# How far to trust it
# -------------------
#
# Energy differences that are smaller than the energy's rotation error do not say which conformer is lower.

errors = rotation_error(TransIPCalculator("transip-s-gfn2"), relaxed, rotations=4)
print(f"Rotation error of a single orientation: {1000 * errors['energy_rotation_spread']:.1f} meV")
