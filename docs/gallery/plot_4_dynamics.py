"""
Dynamics that conserves energy
==============================

Three molecules are simulated for a quarter of a picosecond at constant energy. The forces of this model are the exact
negative gradient of its energy, so the potential energy loses what the kinetic energy gains.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from transip import TransIPCalculator

names = ("CH3CH2OH", "C6H6", "CH3CONH2")
calculator = TransIPCalculator("transip-s-gfn2", charge=0, spin=1)
times, potential, total = np.arange(501) * 0.5, [], []
for name in names:
    atoms = molecule(name)
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    Stationary(atoms)
    ZeroRotation(atoms)
    steps = VelocityVerlet(atoms, 0.5 * fs).irun(500)
    energies = np.array([(atoms.get_potential_energy(), atoms.get_total_energy()) for _ in steps])
    potential.append(energies[:, 0])
    total.append(energies[:, 1])

# %%
# The total energy fluctuates because of the finite time step, but far less than the potential and kinetic energies.

figure, axes = plt.subplots(len(names), sharex=True)
for axis, below, sum_, name in zip(axes, potential, total, names, strict=True):
    axis.plot(times, below - sum_[0], "C1", label="potential")
    axis.plot(times, sum_ - sum_[0], "k", label="total")
    axis.set_title(name, loc="left", fontsize="small")
axes[-1].set_xlabel("time, fs")
axes[1].set_ylabel("energy − total energy at the start, eV")
axes[0].legend(loc="upper right", ncols=2, fontsize="small")
plt.show()
