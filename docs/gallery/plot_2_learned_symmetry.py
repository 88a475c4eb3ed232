"""
How well symmetry is learned
============================

Rotation symmetry is not built into the network. If a molecule is rotated as a whole, its predicted energy
therefore changes a little. The average over the twelve rotations of a tetrahedron changes much less.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

from transip import TransIPCalculator

ethanol = molecule("CH3CH2OH", info={"charge": 0, "spin": 1})
angles = np.arange(0, 361, 5)
turned = []
for angle in angles:
    turned.append(ethanol.copy())
    turned[-1].rotate(angle, (1, 2, 3))

# %%
# All of ethanol's bonds together have an energy of about 33 eV, thousands of times the changes in this picture.

for rotations in (None, 12):
    calculator = TransIPCalculator("transip-s-gfn2", average=rotations)
    energies = np.array([atoms.get_potential_energy() for atoms in calculator.predict(turned)])
    name = f"average of {rotations} orientations" if rotations else "as it lies"
    plt.plot(angles, 1000 * (energies - energies.mean()), label=name)
plt.xlabel("rotated by, degrees")
plt.ylabel("energy − mean, meV")
plt.legend()
plt.show()
