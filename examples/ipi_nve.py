"""
Molecular dynamics in i-PI
==========================

At constant energy: i-PI moves the atoms, the model answers through a Unix socket. ::

    pip install -c constraints.txt ".[ipi]"   # in the repository's folder
    python examples/ipi_nve.py MODEL [FILE] [--charge 0] [--spin 1] [--steps 200]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import ase.units
import numpy as np

from transip import TransIPCalculator
from transip.engines.ipi import run_client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder or name of a model")
parser.add_argument("file", nargs="?", default=Path(__file__).with_name("fluorotoluene.extxyz"))
parser.add_argument("--charge", type=int, default=0)
parser.add_argument("--spin", type=int, default=1)
parser.add_argument("--steps", type=int, default=200)
given = parser.parse_args()

INPUT = """<simulation verbosity="quiet">
  <output prefix="run"><properties stride="1" filename="out"> [step, conserved, potential] </properties></output>
  <total_steps>{steps}</total_steps>
  <prng><seed>1</seed></prng>
  <ffsocket name="transip" mode="unix" pbc="False"><address>{address}</address></ffsocket>
  <system>
    <initialize nbeads="1">
      <file mode="ase" units="angstrom">molecule.extxyz</file>
      <cell mode="abc" units="angstrom">[100, 100, 100]</cell>
      <velocities mode="thermal" units="kelvin">300</velocities>
    </initialize>
    <forces><force forcefield="transip"/></forces>
    <motion mode="dynamics"><dynamics mode="nve"><timestep units="femtosecond">0.5</timestep></dynamics></motion>
  </system>
</simulation>
"""

atoms = ase.io.read(given.file)
calculator = TransIPCalculator(given.model, charge=given.charge, spin=given.spin)
with tempfile.TemporaryDirectory() as folder:
    address = f"transip-{Path(folder).name}"
    Path(folder, "input.xml").write_text(INPUT.format(steps=given.steps, address=address))
    ase.io.write(Path(folder, "molecule.extxyz"), ase.Atoms(atoms.symbols, atoms.positions))
    ipi = subprocess.Popen([Path(sys.executable).with_name("i-pi"), "input.xml"], cwd=folder)
    try:
        run_client(atoms, calculator, socket=address)
        ipi.wait(timeout=60)
    finally:
        ipi.terminate()  # if it waits for an answer that will not come
    _, conserved, potential = np.loadtxt(Path(folder, "run.out"), ndmin=2).T * ase.units.Hartree

expected = calculator.get_potential_energy(atoms)
print(f"energy {potential[0]:.5f} eV, {potential[0] - expected:+.1e} eV from ASE's")
drift = 1000 * (conserved[-1] - conserved[0]) / len(atoms)
print(f"{given.steps} steps of 0.5 fs: total energy changed by {drift:+.3f} meV/atom")
