"""
Where not to trust it
=====================

The O–H bond of ethanol is pulled until it breaks. Predictions from different orientations agree near the
training data and differ more and more as the bond is stretched, and the uncertainty calibrated from these differences
grows with the error. This does not hold everywhere: for a bond compressed to 0.8 Å, all orientations agree on a force
that is far too small.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

from transip import Structure, TransIPCalculator
from transip.labels.methods import gfn2_xtb

ethanol = molecule("CH3CH2OH", info={"charge": 0, "spin": 1})
oxygen, hydrogen = 2, 3
lengths = np.linspace(0.8, 2.4, 33)
pulled = []
for length in lengths:
    pulled.append(ethanol.copy())
    pulled[-1].set_distance(oxygen, hydrogen, length, fix=0)

predicted = TransIPCalculator("transip-s-gfn2", average=12).predict(pulled)
uncertainty = [atoms.info["max_force_uncertainty"] for atoms in predicted]
labels = [gfn2_xtb(Structure.from_atoms(atoms)).forces for atoms in pulled]
forces = [atoms.get_forces() for atoms in predicted]
error = np.linalg.norm(np.subtract(forces, labels), axis=2).max(1)

# %%
# The picture shows the largest uncertainty and the largest error of the forces. With
# ``max_uncertainty=…`` and ``uncertain="refuse"``, a calculator stops where this becomes too large.

plt.semilogy(lengths, error, "k", label="largest error")
plt.semilogy(lengths, uncertainty, "C1", label="largest uncertainty")
plt.axvline(ethanol.get_distance(oxygen, hydrogen), color="gray", linestyle=":")
plt.xlabel("length of the O–H bond, Å")
plt.ylabel("force, eV/Å")
plt.legend()
plt.show()
