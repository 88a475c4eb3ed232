"""
Dynamics that conserves energy
==============================

A quarter of a picosecond of three molecules at constant energy, all in one batch. Forces of this model are the exact
gradient of its energy, so that what kinetic energy gains, potential energy loses.
"""

import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

from transip import Structure, TransIPCalculator
from transip.inference.md import batched_nve

names = ("CH3CH2OH", "C6H6", "CH3CONH2")
structures = [Structure.from_atoms(molecule(name), charge=0, spin=1) for name in names]
model = TransIPCalculator("transip-s-gfn2").model
times, potential, total = [], [], []
for frame in batched_nve(model, structures, steps=500, timestep=0.5, temperature=300, interval=2):
    times.append(0.5 * frame.step)
    potential.append(frame.potential.numpy())
    total.append((frame.potential + frame.kinetic).numpy())

# %%
# The total energy wavers with the time step, by far less than the energies that it is the sum of.

figure, axes = plt.subplots(len(names), sharex=True)
for axis, one, sum_, name in zip(axes, np.transpose(potential), np.transpose(total), names, strict=True):
    axis.plot(times, one - total[0][names.index(name)], "C1", label="potential")
    axis.plot(times, sum_ - total[0][names.index(name)], "k", label="total")
    axis.set_title(name, loc="left", fontsize="small")
axes[-1].set_xlabel("time, fs")
axes[1].set_ylabel("energy − total energy at the start, eV")
axes[0].legend(loc="upper right", ncols=2, fontsize="small")
plt.show()
