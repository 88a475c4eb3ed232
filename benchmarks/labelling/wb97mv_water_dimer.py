"""Check ωB97M-V/def2-TZVPD with VV10 on a water dimer: forces against finite differences of the energy.

Also: how much of energy and forces is VV10's, and what density fitting costs in accuracy. Writes a JSON beside
this file's results. One command, some minutes on one core:

    python benchmarks/labelling/wb97mv_water_dimer.py
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase.units import Bohr, Hartree

from transip.labels.methods import level_of_theory, mean_field, wb97m_v
from transip.structure import Structure

STEP = 0.002  # Å
# a hydrogen-bonded dimer, off its minimum so that every force is sizeable
DIMER = Structure(
    numbers=np.array([8, 1, 1, 8, 1, 1]),
    positions=np.array(
        [
            [-1.55, -0.11, 0.02],
            [-1.95, 0.78, 0.05],
            [-0.56, 0.02, -0.03],
            [1.35, 0.11, 0.01],
            [1.70, -0.35, -0.78],
            [1.66, -0.43, 0.76],
        ]
    ),
    charge=0,
    spin=1,
)


def moved(atom, axis, step):
    positions = DIMER.positions.copy()
    positions[atom, axis] += step
    return replace(DIMER, positions=positions)


def finite_differences(density_fitting, basis, coordinates):
    """−ΔE / 2Δx of some coordinates (atom, axis), in eV/Å."""
    found = []
    for atom, axis in coordinates:
        up, down = (
            wb97m_v(moved(atom, axis, s * STEP), basis=basis, density_fitting=density_fitting).energy for s in (1, -1)
        )
        found.append(-(up - down) / (2 * STEP))
    return found


def without_vv10(basis):
    field = mean_field(DIMER, basis)
    field.nlc = False
    energy = field.kernel()
    gradient = field.nuc_grad_method()
    gradient.grid_response = True
    return replace(DIMER, energy=energy * Hartree, forces=-gradient.kernel() * Hartree / Bohr)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--basis", default="def2-tzvpd")
    parser.add_argument("--output", default=Path(__file__).parent / "results" / "wb97mv_water_dimer.json", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    coordinates = [(0, 0), (2, 0), (3, 2), (5, 1)]
    result = {
        "command": "python " + " ".join(sys.argv),
        "level_of_theory": level_of_theory("wb97m-v"),
        "basis": arguments.basis,
        "versions": {name: version(name) for name in ("pyscf", "numpy", "transip")},
        "hardware": platform.processor() or platform.machine(),
        "seed": None,
        "step_angstrom": STEP,
        "coordinates_atom_axis": coordinates,
    }
    exact = wb97m_v(DIMER, basis=arguments.basis, density_fitting=False)
    fitted = wb97m_v(DIMER, basis=arguments.basis)
    without = without_vv10(arguments.basis)
    analytic = [float(fitted.forces[c]) for c in coordinates]
    numerical = finite_differences(True, arguments.basis, coordinates)
    result |= {
        "energy_ev": fitted.energy,
        "forces_ev_per_angstrom": fitted.forces.tolist(),
        "net_force_ev_per_angstrom": np.abs(fitted.forces.sum(0)).max(),
        "analytic": analytic,
        "numerical": numerical,
        "largest_difference_ev_per_angstrom": float(np.abs(np.subtract(analytic, numerical)).max()),
        "vv10_energy_ev": fitted.energy - without.energy,
        "vv10_largest_force_ev_per_angstrom": float(np.abs(fitted.forces - without.forces).max()),
        "density_fitting_energy_error_ev": fitted.energy - exact.energy,
        "density_fitting_largest_force_error_ev_per_angstrom": float(np.abs(fitted.forces - exact.forces).max()),
        "seconds": time.perf_counter() - started,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
