"""
Rotation about a bond
=====================

The middle bond of butane is rotated in steps of five degrees. The model predicts these 73 geometries as one batch, and
the energies are compared with those of GFN2-xTB, from which the model has learned.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

from transip import Structure, TransIPCalculator
from transip.labels.methods import gfn2_xtb

butane = molecule("trans-butane", info={"charge": 0, "spin": 1})
angles = np.linspace(0, 360, 73)
turned = []
for angle in angles:
    butane.set_dihedral(0, 1, 2, 3, angle, indices=[3, 5, 8, 9, 12, 13])
    turned.append(butane.copy())

predicted = TransIPCalculator("transip-s-gfn2").predict(turned)
energies = np.array([atoms.get_potential_energy() for atoms in predicted])
labels = np.array([gfn2_xtb(Structure.from_atoms(atoms)).energy for atoms in turned])

# %%
# Bond lengths and angles are kept fixed, so barriers are higher than those of relaxed butane.

plt.plot(angles, 1000 * (labels - labels.min()), "k", label="GFN2-xTB")
plt.plot(angles, 1000 * (energies - energies.min()), "C1.", label="transip-s-gfn2")
plt.xlabel("dihedral angle C–C–C–C, degrees")
plt.ylabel("energy, meV")
plt.xticks(range(0, 361, 60))
plt.legend()
plt.show()
