"""Check ωB97M-V/def2-TZVPD with VV10 on water: forces against finite differences of the energy.

The differences are taken with two steps and extrapolated to none (Richardson), so that what is left is not the step's
error. Also: how much of energy and forces is VV10's, and what density fitting costs in accuracy. The record goes into
`results.jsonl`. One command, minutes on one core for a molecule, an hour for a dimer:

    python -m benchmarks.labelling.wb97mv_water --molecule water
"""

import json
import time
from dataclasses import replace

import numpy as np
from ase.units import Bohr, Hartree

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.labels.methods import level_of_theory, mean_field, wb97m_v
from transip.structure import Structure

STEP = 0.005  # Å; the other one is twice as long
DIMER = Structure(  # hydrogen-bonded, off its minimum so that every force is sizeable
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
MOLECULES = {
    "water": replace(DIMER, numbers=DIMER.numbers[:3], positions=DIMER.positions[:3]),
    "water_dimer": DIMER,
}
COORDINATES = [(0, 0), (0, 1), (2, 0)]  # (atom, axis)


def moved(structure, atom, axis, step):
    positions = structure.positions.copy()
    positions[atom, axis] += step
    return replace(structure, positions=positions)


def finite_difference(structure, basis, density, coordinate, step):
    """−ΔE / 2Δx along one coordinate, in eV/Å; self-consistency starts from `density`."""
    up, down = (mean_field(moved(structure, *coordinate, s * step), basis).kernel(dm0=density) for s in (1, -1))
    return -(up - down) * Hartree / (2 * step)


def without_vv10(structure, basis):
    field = mean_field(structure, basis)
    field.nlc = False
    energy = field.kernel()
    gradient = field.nuc_grad_method()
    gradient.grid_response = True
    return replace(structure, energy=energy * Hartree, forces=-gradient.kernel() * Hartree / Bohr)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--molecule", choices=MOLECULES, default="water")
    parser.add_argument("--basis", default="def2-tzvpd")
    arguments = parser.parse_args()
    basis, structure = arguments.basis, MOLECULES[arguments.molecule]
    started = time.perf_counter()
    exact = wb97m_v(structure, basis=basis, density_fitting=False)
    fitted = wb97m_v(structure, basis=basis)
    without = without_vv10(structure, basis)
    field = mean_field(structure, basis)
    field.kernel()
    short, long = (
        np.array([finite_difference(structure, basis, field.make_rdm1(), c, step) for c in COORDINATES])
        for step in (STEP, 2 * STEP)
    )
    analytic = np.array([fitted.forces[c] for c in COORDINATES])
    extrapolated = (4 * short - long) / 3  # the error of a central difference is of second order
    result = {
        "name": f"wb97mv_{arguments.molecule}",
        "molecule": arguments.molecule,
        "level_of_theory": level_of_theory("wb97m-v"),
        "basis": basis,
        **provenance("pyscf"),
        "seed": None,
        "steps_angstrom": [STEP, 2 * STEP],
        "coordinates_atom_axis": COORDINATES,
        "energy_ev": fitted.energy,
        "forces_ev_per_angstrom": fitted.forces.tolist(),
        "net_force_ev_per_angstrom": np.abs(fitted.forces.sum(0)).max(),
        "analytic": analytic.tolist(),
        "numerical": {"short": short.tolist(), "long": long.tolist(), "extrapolated": extrapolated.tolist()},
        "largest_difference_ev_per_angstrom": {
            "short": np.abs(short - analytic).max(),
            "long": np.abs(long - analytic).max(),
            "extrapolated": np.abs(extrapolated - analytic).max(),
        },
        "vv10_energy_ev": fitted.energy - without.energy,
        "vv10_largest_force_ev_per_angstrom": float(np.abs(fitted.forces - without.forces).max()),
        "density_fitting_energy_error_ev": fitted.energy - exact.energy,
        "density_fitting_largest_force_error_ev_per_angstrom": float(np.abs(fitted.forces - exact.forces).max()),
        "seconds": time.perf_counter() - started,
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
