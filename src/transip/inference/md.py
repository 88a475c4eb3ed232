"""`transip md`: molecular dynamics of one structure; and, in Python, of many at constant energy as one batch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ase
import numpy as np
import torch
from ase import units
from ase.data import atomic_masses
from ase.io.extxyz import write_extxyz
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from jaxtyping import Float64
from torch import Tensor, nn

from transip.batch import Batch, segment_sum
from transip.config import KeySettings
from transip.data.read import DEFAULT_KEYS
from transip.errors import InputError
from transip.files import output_lock, resolve_output, unwritable, write_all
from transip.inference.ase import TransIPCalculator, attach
from transip.inference.inference import warn_if_direct
from transip.inference.predict import check_extxyz, counted, escaped
from transip.inference.torque import NoTorque
from transip.model.potential import centred
from transip.structure import Structure, rigid_body_modes

Ensemble = Literal["nve", "nvt"]
FRICTION = 0.01  # 1/fs, of the Langevin thermostat


def md_file(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    steps: int,
    temperature: float = 300.0,
    timestep: float = 0.5,
    ensemble: Ensemble = "nvt",
    interval: int = 10,
    seed: int = 0,
    keys: KeySettings = DEFAULT_KEYS,
    progress: bool = True,
) -> dict[str, Any]:
    """Simulate the first structure of `source` and write its trajectory to extxyz `output`.

    Frames carry momenta, energy, forces, charge, spin and ``time`` (fs), from a rotational average or several models
    also spreads and uncertainties. Until the end they are in ``NAME.partial.xyz`` beside `output`, each written at
    once; they stay there if the simulation is stopped, until it is started again: from the beginning, and to the same
    frames.

    Args:
        calculator: says which model, how, and what about structures outside its scope.
        source: any file that `transip.data.read` reads.
        output: the trajectory.
        steps: of the integration.
        temperature: K; velocities are drawn from it, and ``nvt`` keeps it.
        timestep: fs.
        ensemble: ``nve`` (velocity Verlet; a molecule's forces without their net torque, see `NoTorque`) or ``nvt``
            (Langevin).
        interval: steps between frames.
        seed: of velocities and thermostat.
        keys: where charge and spin are stored in `source`.
        progress: show a progress bar.

    Returns:
        ``steps``, ``frames``, ``time`` (fs), ``mean_temperature`` (K), ``energy_drift`` (meV/atom/ps: slope
        of the total energy; None unless ``nve``), ``output``.

    Raises:
        InputError: a setting, the structure or the output cannot be used, another process is writing the output, or the
            simulation broke down.
    """
    _check_settings(steps, temperature, timestep, ensemble, interval)
    warn_if_direct(calculator.model)
    atoms = next(calculator.read_file(source, keys)).to_atoms()
    atoms.calc = calculator
    atoms.get_forces()  # a structure that the model refuses is no breakdown of the simulation
    generator = np.random.default_rng(seed)
    draw_velocities(atoms, temperature, generator)
    if ensemble == "nve" and not atoms.pbc.any():
        atoms.set_constraint(NoTorque(atoms.get_masses()))
    dynamics = _integrator(atoms, ensemble, timestep, temperature, generator)
    energies = np.empty((steps + 1, 2))  # potential, kinetic
    frames = 0
    with _trajectory(resolve_output(check_extxyz(output))) as (write, partial):
        try:
            for step, _ in enumerate(counted(dynamics.irun(steps), "md", progress, total=steps + 1)):
                energies[step] = atoms.get_potential_energy(), atoms.get_kinetic_energy()
                if step % interval == 0:
                    write(_frame(atoms, calculator, step * timestep))
                    frames += 1
        except InputError as error:
            raise InputError(
                f"the simulation broke down after step {dynamics.nsteps}: {error.problem}",
                where=str(source),
                remedy=f"use a shorter timestep, a relaxed start or a better model; frames so far are in {partial}",
            ) from error
    # Velocity Verlet keeps total and angular momentum at zero; the thermostat heats every degree of freedom.
    rigid = rigid_body_modes(atoms.positions, atoms.get_masses(), periodic=bool(atoms.pbc.any()))
    freedom = 3 * len(atoms) - (rigid.shape[1] if ensemble == "nve" else 0)
    return {
        "steps": steps,
        "frames": frames,
        "time": steps * timestep,
        "mean_temperature": float(2 * energies[:, 1].mean() / (units.kB * max(freedom, 1))),
        "energy_drift": energy_drift(energies.sum(1), timestep, len(atoms)) if ensemble == "nve" else None,
        "output": str(output),
    }


def _integrator(
    atoms: ase.Atoms, ensemble: Ensemble, timestep: float, temperature: float, generator: np.random.Generator
) -> MolecularDynamics:
    time = timestep * units.fs
    if ensemble == "nve":
        return VelocityVerlet(atoms, time)
    friction = FRICTION / units.fs
    return Langevin(atoms, time, temperature_K=temperature, friction=friction, fixcm=False, rng=generator)


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the molecules of a batch are at one time of a simulation.

    Attributes:
        step: of the integration; 0 is the start.
        positions: Å, (atoms, 3).
        potential: energies in eV, (structures,).
        kinetic: energies in eV, (structures,).
    """

    step: int
    positions: Float64[Tensor, "atoms 3"]
    potential: Float64[Tensor, "structures"]
    kinetic: Float64[Tensor, "structures"]


def batched_nve(
    model: nn.Module,
    structures: Sequence[Structure],
    *,
    steps: int,
    temperature: float = 300.0,
    timestep: float = 0.5,
    interval: int = 10,
    seed: int = 0,
) -> Iterator[Frame]:
    """Simulate many molecules at constant energy, each on its own, in one forward pass per step (velocity Verlet).

    One that breaks apart, or whose energy is not finite any more, does not disturb the others.

    Args:
        model: a potential, ready for inference; the batch must fit into its device's memory.
        structures: the molecules.
        steps: of the integration.
        temperature: K, from which velocities are drawn, without motion or rotation of the whole.
        timestep: fs.
        interval: steps between the frames that are yielded; the start is one, and the end if it is a multiple.
        seed: of the velocities.
    """
    _check_settings(steps, temperature, timestep, "nve", interval)
    weight = next(model.parameters())
    batch = Batch.collate(structures, torch.float64).to(weight.device)
    masses = torch.from_numpy(atomic_masses).to(weight.device)[batch.numbers, None]
    momenta = torch.from_numpy(_thermal_momenta(structures, temperature, seed)).to(weight.device)
    positions, dt = batch.positions, timestep * units.fs

    def energy_and_forces() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            near = centred(positions, batch)  # or float32 could not tell atoms far from the origin apart
            prediction = model(replace(batch, positions=near).to(dtype=weight.dtype))
        return prediction.energy, prediction.forces.double()

    potential, forces = energy_and_forces()
    for step in range(steps + 1):
        if step:
            momenta = momenta + 0.5 * dt * forces
            positions = positions + dt * momenta / masses
            potential, forces = energy_and_forces()
            momenta = momenta + 0.5 * dt * forces
        if step % interval == 0:
            kinetic = segment_sum((momenta.square() / (2 * masses)).sum(1), batch)
            yield Frame(step, positions, potential, kinetic)


def _thermal_momenta(structures: Sequence[Structure], temperature: float, seed: int) -> Float64[np.ndarray, "atoms 3"]:
    generator = np.random.default_rng(seed)
    molecules = [structure.to_atoms() for structure in structures]
    for atoms in molecules:
        draw_velocities(atoms, temperature, generator)
    return np.concatenate([atoms.get_momenta() for atoms in molecules])


def draw_velocities(atoms: ase.Atoms, temperature: float, generator: np.random.Generator) -> None:
    """Give `atoms` thermal momenta (K), without motion or rotation of the whole; a lone atom rests."""
    masses = atoms.get_masses()[:, None]
    weighted = generator.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature)  # p / √m
    rigid = rigid_body_modes(atoms.positions, atoms.get_masses(), periodic=bool(atoms.pbc.any()))
    flat = weighted.ravel()
    atoms.set_momenta((flat - rigid @ (rigid.T @ flat)).reshape(-1, 3) * np.sqrt(masses))


def energy_drift(energies: Float64[np.ndarray, "steps"], timestep: float, atoms: int) -> float:
    """Slope in meV/atom/ps of total energies in eV that are `timestep` fs apart."""
    if len(energies) < 2:
        return 0.0
    picoseconds = np.arange(len(energies)) * timestep / 1000
    return float(np.polyfit(picoseconds, energies - energies[0], 1)[0] * 1000 / atoms)


def _frame(atoms: ase.Atoms, calculator: TransIPCalculator, time: float) -> ase.Atoms:
    frame = attach(atoms.copy(), calculator.labelled(atoms))
    names = {key: escaped(frame.info[key]) for key in ("data_id", "source") if key in frame.info}
    frame.info |= names | {"time": time}
    frame.set_constraint()
    return frame


@contextmanager
def _trajectory(output: Path) -> Iterator[tuple[Any, Path]]:
    """Yield a function that appends a frame in one write; the file gets its name when all are there."""
    partial = output.parent / f"{output.stem}.partial.xyz"

    def write(frame: ase.Atoms) -> None:
        text = io.StringIO()
        write_extxyz(text, [frame])
        begin = handle.tell()
        try:
            write_all(handle, text.getvalue())
        except OSError:
            handle.truncate(begin)  # whole frames only
            raise

    with output_lock(partial):
        try:
            with partial.open("wb", buffering=0) as handle:
                yield write, partial
                os.fsync(handle.fileno())
            os.replace(partial, output)
        except OSError as error:
            raise unwritable(output, error, f"frames so far are in {partial}") from error


def _check_settings(steps: int, temperature: float, timestep: float, ensemble: str, interval: int) -> None:
    if ensemble not in ("nve", "nvt"):
        raise InputError(f"ensemble is {ensemble!r}", remedy="choose nve or nvt")
    if steps < 1 or interval < 1 or not (timestep > 0 and temperature >= 0):
        raise InputError(
            f"steps {steps}, interval {interval}, timestep {timestep} fs, temperature {temperature} K cannot be",
            remedy="steps, interval and timestep must be positive, the temperature at least 0",
        )
