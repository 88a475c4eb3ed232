"""
Vibrations
==========

This example compares the harmonic frequencies of ethanol from the model with those from GFN2-xTB, each at its own
minimum. Both Hessians are computed by finite differences of forces.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.data import atomic_masses
from ase.optimize import LBFGS
from tblite.ase import TBLite

from transip import TransIPCalculator
from transip.inference.vibrations import finite_differences, normal_modes

calculators = {
    "GFN2-xTB": TBLite(method="GFN2-xTB", verbosity=0),
    "transip-s-gfn2": TransIPCalculator("transip-s-gfn2", charge=0, spin=1, dtype="float64"),
}
found = {}
for name, calculator in calculators.items():
    atoms = molecule("CH3CH2OH", info={"charge": 0, "spin": 1}, calculator=calculator)
    LBFGS(atoms, logfile=None).run(fmax=0.005)
    structure = calculators["transip-s-gfn2"].structure(atoms)

    def forces(displaced, calculator=calculator):
        return [calculator.get_forces(one.to_atoms()) for one in displaced]

    hessian = -finite_differences(forces, structure)
    found[name] = normal_modes(hessian, atoms.positions, atomic_masses[atoms.numbers]).frequencies

# %%
# Each line is one of the 21 vibrations.

difference = np.abs(found["transip-s-gfn2"] - found["GFN2-xTB"]).mean()
for side, (name, frequencies) in zip((1, -1), found.items(), strict=True):
    plt.vlines(frequencies, 0, side, "k" if side == 1 else "C1", label=name)
plt.axhline(0, color="gray", linewidth=0.5)
plt.yticks([])
plt.xlabel("wavenumber, cm⁻¹")
plt.title(f"mean difference {difference:.0f} cm⁻¹")
plt.legend(loc="upper center", bbox_to_anchor=(0.58, 1))
plt.show()
