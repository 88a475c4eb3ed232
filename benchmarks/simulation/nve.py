"""Dynamics at constant energy of many structures in one batch, by TorchSim."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch_sim
from ase import units
from torch_sim.integrators.nve import nve

from transip.engines.torchsim import TransIPModel
from transip.inference.md import maxwell_boltzmann_velocities
from transip.structure import Structure


class Frame(NamedTuple):
    """Positions in Å, (atoms, 3), and energies in eV, each (structures,)."""

    positions: torch.Tensor
    potential: torch.Tensor
    kinetic: torch.Tensor


def simulate(
    model: TransIPModel,
    structures: Sequence[Structure],
    *,
    steps: int,
    temperature: float,
    timestep: float,
    interval: int,
    seed: int,
) -> Iterator[Frame]:
    """Velocity Verlet from velocities of `temperature` (K) without motion or rotation of the whole.

    Yields the start and every `interval`th of the `steps` of `timestep` fs.
    """
    generator, molecules = np.random.default_rng(seed), [structure.to_atoms() for structure in structures]
    for atoms in molecules:
        maxwell_boltzmann_velocities(atoms, temperature, generator)
    device = model.device
    state = torch_sim.initialize_state(molecules, device, torch.float64)
    state.charge, state.spin = (
        torch.tensor([getattr(s, n) for s in structures], device=device) for n in ("charge", "spin")
    )
    state.momenta = torch.from_numpy(np.concatenate([atoms.get_momenta() for atoms in molecules])).to(device)
    start, update = nve(model, dt=torch.tensor(timestep * units.fs, device=device), kT=torch.tensor(0.0, device=device))
    state = start(state)
    for step in range(steps + 1):
        if step:
            state = update(state)
        if step % interval == 0:
            each = (state.momenta.square() / (2 * state.masses[:, None])).sum(1)
            kinetic = torch.zeros_like(state.energy).index_add(0, state.system_idx, each)
            yield Frame(state.positions.clone(), state.energy, kinetic)
