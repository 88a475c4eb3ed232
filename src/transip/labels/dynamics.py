"""Short relaxations and molecular dynamics with GFN2-xTB, for ions and metals that no force field covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase.units import fs, kB
from jaxtyping import Float64

EnergyForceFn = Callable[[np.ndarray], tuple[float, np.ndarray]]  # positions in Å → energy in eV, forces in eV/Å

MASS = 12.0  # u, of every atom: where atoms are does not depend on masses, and slow hydrogens allow long steps
TIME_STEP = 2 * fs
FRICTION = 0.05 / fs
EQUILIBRATION = 20  # steps before the first frame
SPACING = 10  # steps between frames
EVALUATIONS = 25  # of a relaxation, at most


def relax(
    potential: EnergyForceFn, positions: Float64[np.ndarray, "atoms 3"], evaluations: int = EVALUATIONS
) -> Float64[np.ndarray, "atoms 3"]:
    """Walk downhill for `evaluations` evaluations at most: strain goes, the minimum need not be reached."""
    from scipy.optimize import minimize

    def energy_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = potential(x.reshape(-1, 3))
        return energy, -forces.ravel()

    options = {"maxfun": evaluations, "gtol": 0.05}
    minimum = minimize(energy_and_gradient, positions.ravel(), jac=True, method="L-BFGS-B", options=options)
    return minimum.x.reshape(-1, 3)


def langevin(
    potential: EnergyForceFn,
    positions: Float64[np.ndarray, "atoms 3"],
    temperature: float,
    frames: int,
    rng: np.random.Generator,
    equilibration: int = EQUILIBRATION,
    spacing: int = SPACING,
) -> Iterator[tuple[Float64[np.ndarray, "atoms 3"], float, Float64[np.ndarray, "atoms 3"]]]:
    """Yield `frames` labelled frames (Å, eV, eV/Å) of Langevin dynamics at `temperature` (K).

    The first comes `spacing` steps after `equilibration` steps, the others `spacing` steps after each other.
    The BAOAB scheme, whose distribution of positions is exact for harmonic motion at any stable time step.
    """
    thermal_speed = np.sqrt(kB * temperature / MASS)
    damping = np.exp(-FRICTION * TIME_STEP)
    velocities = thermal_speed * rng.normal(size=positions.shape)
    energy, forces = potential(positions)
    for step in range(1, equilibration + spacing * frames + 1):
        velocities = velocities + TIME_STEP / 2 * forces / MASS
        positions = positions + TIME_STEP / 2 * velocities
        kick = thermal_speed * rng.normal(size=positions.shape)
        velocities = damping * velocities + np.sqrt(1 - damping**2) * kick
        positions = positions + TIME_STEP / 2 * velocities
        energy, forces = potential(positions)
        velocities = velocities + TIME_STEP / 2 * forces / MASS
        if step > equilibration and (step - equilibration) % spacing == 0:
            yield positions, energy, forces
