"""What the net torque of a learned energy does: relaxation and dynamics with and without it.

    python -m benchmarks.simulation.torque transip-s-gfn2

Small molecules of ASE's collection, neutral singlets. Relaxations: LBFGS to 0.001 eV/Å. Dynamics: from the relaxed
geometry, 2 ps at constant energy in steps of 0.5 fs, velocities of 300 K without angular momentum. The record
`torque` goes into benchmarks/simulation/results.jsonl.
"""

import json
from typing import Any

import ase
import numpy as np
from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import LBFGS
from rich.progress import track

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.inference.ase import TransIPCalculator
from transip.inference.md import energy_drift, maxwell_boltzmann_velocities
from transip.inference.torque import RemoveNetTorque

MOLECULES = ("CH3OH", "CH3CH2OH", "C6H6", "CH3COOH", "CH3CONH2", "C3H8")
MOST = 1000  # steps of a relaxation
STEPS, TIMESTEP, TEMPERATURE, SEED = 4000, 0.5, 300.0, 0  # fs, K


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model")
    arguments = parser.parse_args()
    calculator = TransIPCalculator(arguments.model, charge=0, spin=1, dtype="float64")
    rows = [measured(name, calculator, free) for name in track(MOLECULES, "torque") for free in (False, True)]
    result = {
        "name": "torque",
        **provenance("ase"),
        "model": arguments.model,
        "seed": SEED,
        "molecules": rows,
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(rows, indent=1))


def measured(name: str, calculator: TransIPCalculator, free: bool) -> dict[str, Any]:
    """One molecule, `free` of torque or not."""
    steps = {f"steps_to_{fmax}": relax(molecule(name), calculator, fmax, free)[1] for fmax in (0.01, 0.001)}
    start, _ = relax(molecule(name), calculator, 0.01, True)
    return {"molecule": name, "torque": not free, **steps, **simulated(start, free)}


def relax(atoms: ase.Atoms, calculator: TransIPCalculator, fmax: float, free: bool) -> tuple[ase.Atoms, int | None]:
    """`atoms` relaxed, in place, and in how many steps; None if in too many."""
    atoms.calc = calculator
    atoms.set_constraint(RemoveNetTorque() if free else None)
    optimizer = LBFGS(atoms, logfile=None)
    settled = optimizer.run(fmax=fmax, steps=MOST)
    return atoms, optimizer.nsteps if settled else None


def simulated(atoms: ase.Atoms, free: bool) -> dict[str, Any]:
    """Energy drift, and the temperature of rotation at the end."""
    atoms.set_constraint()
    maxwell_boltzmann_velocities(atoms, TEMPERATURE, np.random.default_rng(SEED))
    atoms.set_constraint(RemoveNetTorque(atoms.get_masses()) if free else None)
    energies = [atoms.get_total_energy() for _ in VelocityVerlet(atoms, TIMESTEP * units.fs).irun(STEPS)]
    momentum, arms = atoms.get_angular_momentum(), atoms.positions - atoms.get_center_of_mass()
    squares = np.einsum("a,ai,aj->ij", atoms.get_masses(), arms, arms)
    inertia = np.trace(squares) * np.eye(3) - squares
    rotation = momentum @ np.linalg.solve(inertia, momentum) / 2
    return {
        "rotational_temperature_k": float(2 * rotation / (3 * units.kB)),
        "drift_mev_per_atom_per_ps": energy_drift(np.array(energies), TIMESTEP, len(atoms)),
    }


if __name__ == "__main__":
    main()
