"""
Molecular dynamics in OpenMM
============================

The model is a potential of OpenMM-ML. ::

    pip install -c constraints.txt ".[openmm]"   # in the repository's folder
    python examples/openmm_md.py MODEL [FILE] [--charge 0] [--spin 1] [--steps 200]
"""

import argparse
from pathlib import Path

import ase.io
import ase.units
import openmm
from openmm import app, unit
from openmmml import MLPotential

from transip import TransIPCalculator

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder or name of a model")
parser.add_argument("file", nargs="?", default=Path(__file__).with_name("fluorotoluene.extxyz"))
parser.add_argument("--charge", type=int, default=0)
parser.add_argument("--spin", type=int, default=1)
parser.add_argument("--steps", type=int, default=200)
given = parser.parse_args()

atoms = ase.io.read(given.file)
topology = app.Topology()
residue = topology.addResidue("MOL", topology.addChain())
for symbol in atoms.symbols:
    topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)

potential = MLPotential("transip", modelPath=given.model)
system = potential.createSystem(topology, charge=given.charge, multiplicity=given.spin, device="cpu")
integrator = openmm.VerletIntegrator(0.5 * unit.femtosecond)
simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
simulation.context.setPositions(atoms.positions * unit.angstrom)


def energies() -> tuple[float, float]:
    """Potential and kinetic energy in eV."""
    state = simulation.context.getState(getEnergy=True)
    one = unit.kilojoule_per_mole / (ase.units.kJ / ase.units.mol)
    return state.getPotentialEnergy() / one, state.getKineticEnergy() / one


expected = TransIPCalculator(given.model, charge=given.charge, spin=given.spin).get_potential_energy(atoms)
print(f"energy {energies()[0]:.5f} eV, {energies()[0] - expected:+.1e} eV from ASE's")
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 0)
simulation.step(1)  # of a leapfrog, which takes the velocities given for those of half a step before
before = sum(energies())
simulation.step(given.steps)
drift = 1000 * (sum(energies()) - before) / len(atoms)
print(f"{given.steps} steps of 0.5 fs: total energy changed by {drift:+.3f} meV/atom")
