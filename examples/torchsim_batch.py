"""
Many molecules at once in TorchSim
==================================

One batch is relaxed with FIRE, then simulated at constant energy. ::

    pip install -c constraints.txt ".[torchsim]"   # in the repository's folder
    python examples/torchsim_batch.py MODEL [--steps 100] [--device cuda]
"""

import argparse

import torch
import torch_sim as ts
from ase.build import molecule

from transip import TransIPCalculator
from transip.engines.torchsim import TransIPModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder or name of a model")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--device", default="cpu")
given = parser.parse_args()

molecules = [molecule(name) for name in ("CH3OH", "C2H6", "CH3CHO", "HCOOH", "C6H6")]
model = TransIPModel(given.model, charge=0, spin=1, device=given.device)
state = ts.initialize_state(molecules, model.device, model.dtype)
energies = model(state)["energy"].tolist()
calculator = TransIPCalculator(given.model, charge=0, spin=1, device=given.device)
for atoms, energy in zip(molecules, energies, strict=True):
    difference = energy - calculator.get_potential_energy(atoms)
    print(f"{atoms.get_chemical_formula():8} {energy:14.5f} eV, {difference:+.1e} eV from ASE's")

fire = ts.Optimizer.fire if hasattr(ts, "Optimizer") else ts.optimizers.fire  # TorchSim ≥ 0.4, and before
relaxed = ts.optimize(
    state,
    model,
    optimizer=fire,
    max_steps=given.steps,
    convergence_fn=ts.generate_force_convergence_fn(0.05, include_cell_forces=False),
)
for atoms, before, after in zip(molecules, energies, relaxed.energy.tolist(), strict=True):
    print(f"{atoms.get_chemical_formula():8} relaxed: {after - before:+.3f} eV")

nve = ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve
torch.manual_seed(0)
final = ts.integrate(relaxed, model, integrator=nve, n_steps=given.steps, temperature=300.0, timestep=0.0005)
kinetic = ts.calc_kinetic_energy(masses=final.masses, momenta=final.momenta, system_idx=final.system_idx)
print(f"{given.steps} steps of 0.5 fs: mean kinetic energy {float(kinetic.sum()) / final.n_atoms:.4f} eV/atom")
