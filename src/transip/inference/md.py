"""`transip md`: molecular dynamics of one structure."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ase
import ase.io
import numpy as np
from ase import units
from ase.io.extxyz import write_extxyz
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from jaxtyping import Float64

from transip.config import KeySettings
from transip.data.read import DEFAULT_KEYS
from transip.errors import InputError
from transip.inference.ase import TransIPCalculator, attach_results
from transip.inference.predict import warn_of_direct_forces, warn_of_size
from transip.inference.progress import FrameWriter, check_output, frame_writer, progress_bar
from transip.inference.torque import RemoveNetTorque
from transip.io.extxyz import check_extxyz, escape
from transip.structure import rigid_body_modes

Ensemble = Literal["nve", "nvt"]
FRICTION = 0.01  # 1/fs, of the Langevin thermostat
AT_REST = 0.1  # eV/Å; a structure with smaller forces only is at a minimum, and its vibrations have no energy yet


def run_md(
    calculator: TransIPCalculator,
    source: str | Path,
    output: str | Path,
    *,
    steps: int,
    temperature: float = 300.0,
    initial_temperature: float | None = None,
    timestep: float = 0.5,
    ensemble: Ensemble = "nvt",
    interval: int = 10,
    seed: int = 0,
    keys: KeySettings = DEFAULT_KEYS,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Simulate the first structure of `source` and write its trajectory to extxyz `output`.

    Frames carry momenta, energy, forces, charge, spin and ``time`` (fs), from a rotational average or several models
    also spreads and uncertainties. Until the end they are in ``NAME.partial.xyz`` beside `output`, each written at
    once; they stay there if the simulation is stopped.

    Args:
        calculator: says which model, how, and what about structures outside its domain.
        source: any file that `transip.data.read` reads.
        output: the trajectory, in a folder that exists.
        steps: of the integration.
        temperature: K, which ``nvt`` keeps.
        initial_temperature: K, which the velocities drawn have exactly; None: `temperature`, or twice as much where the
            structure is at a minimum (no force above `AT_REST`): half of the kinetic energy then goes into the bonds at
            once, so that `temperature` is what remains.
        timestep: fs.
        ensemble: ``nve`` (velocity Verlet; a molecule's forces without their net torque, see `RemoveNetTorque`) or
            ``nvt`` (Langevin).
        interval: steps between frames.
        seed: of velocities and thermostat.
        keys: where charge and spin are stored in `source`.
        resume: go on from the last frame that a stopped run has left, with the same arguments: its positions and
            momenta to eight decimals, while the thermostat draws other numbers than it would have. With no frames left,
            begin.
        overwrite: replace an `output` that exists, and what a stopped run has left.
        progress: show a progress bar.

    Returns:
        ``steps``, ``frames``, ``time`` (fs), ``initial_temperature`` (K; None if it was resumed), ``output`` and, of
        the steps made now, ``mean_temperature`` (K) and ``energy_drift`` (meV/atom/ps: slope of the total energy; None
        unless ``nve``).

    Raises:
        InputError: a setting, the structure or the output cannot be used, another process is writing the output, or the
            simulation broke down.
        KeyboardInterrupt: it was stopped; says what is kept.
    """
    _check_settings(steps, temperature, timestep, ensemble, interval)
    target = check_output(check_extxyz(output), overwrite)
    warn_of_direct_forces(calculator.model)
    structure = next(calculator.read_file(source, keys))
    atoms = warn_of_size(calculator.predictor, structure).to_atoms()
    atoms.calc = calculator
    at_rest = np.linalg.norm(atoms.get_forces(), axis=1).max() < AT_REST  # fails here, if the model refuses it
    with frame_writer(target, resume=resume, overwrite=overwrite) as writer:
        start = _continue(atoms, writer, interval * timestep) * interval if writer.resumed else 0
        generator = np.random.default_rng((seed, start) if start else seed)
        if writer.resumed:
            initial_temperature = None
        else:
            if initial_temperature is None:
                initial_temperature = (2 if at_rest else 1) * temperature
            maxwell_boltzmann_velocities(atoms, initial_temperature, generator)
            if drawn := _temperature(atoms, float(atoms.get_kinetic_energy()), "nve"):  # a lone atom rests
                atoms.set_momenta(atoms.get_momenta() * np.sqrt(initial_temperature / drawn))
        if ensemble == "nve" and not atoms.pbc.any():
            atoms.set_constraint(RemoveNetTorque(atoms.get_masses()))
        simulation = _Simulation(atoms, calculator, writer, start, interval, timestep)
        integrator = _integrator(atoms, ensemble, timestep, temperature, generator)
        try:
            for _ in progress_bar(integrator.irun(steps - start), "md", progress, total=steps - start + 1):
                simulation.record()
        except (InputError, KeyboardInterrupt) as error:
            done = f"after step {start + integrator.nsteps:,}"
            if isinstance(error, InputError):
                raise InputError(
                    f"the simulation broke down {done}: {error.problem}",
                    where=str(source),
                    remedy="use a shorter timestep, a relaxed start or a better model; frames so far are in "
                    f"{writer.partial}",
                ) from error
            kept = f"{simulation.frames} frames are kept in {writer.partial}; go on with --resume"
            raise KeyboardInterrupt(f"stopped {done} of {steps:,}: {kept}") from None
    energies = np.array(simulation.energies)
    return {
        "steps": steps,
        "frames": simulation.frames,
        "time": steps * timestep,
        "initial_temperature": initial_temperature,
        "mean_temperature": _temperature(atoms, energies[:, 1].mean(), ensemble),
        "energy_drift": energy_drift(energies.sum(1), timestep, len(atoms)) if ensemble == "nve" else None,
        "output": str(output),
    }


@dataclass
class _Simulation:
    """Writes frames and keeps energies as `atoms` move."""

    atoms: ase.Atoms
    calculator: TransIPCalculator
    writer: FrameWriter
    step: int
    interval: int
    timestep: float
    energies: list[tuple[float, float]] = field(default_factory=list)  # potential, kinetic

    def __post_init__(self) -> None:
        self.frames, self._written = self.writer.resumed, self.step if self.writer.resumed else -1

    def record(self) -> None:
        """Take note of a step."""
        self.energies.append((self.atoms.get_potential_energy(), float(self.atoms.get_kinetic_energy())))
        if self.step % self.interval == 0 and self.step > self._written:
            self.writer.write(self._frame())
            self.frames += 1
        self.step += 1

    def _frame(self) -> str:
        frame = attach_results(self.atoms.copy(), self.calculator.result(self.atoms))
        names = {key: escape(frame.info[key]) for key in ("data_id", "source") if key in frame.info}
        frame.info |= names | {"time": self.step * self.timestep}
        frame.set_constraint()
        text = io.StringIO()
        write_extxyz(text, [frame])
        return text.getvalue()


def _continue(atoms: ase.Atoms, writer: FrameWriter, frame_time: float) -> int:
    """Set `atoms` to the last frame of a stopped run; returns its number.

    Raises:
        InputError: the run was of another structure, or with other settings.
    """
    last = ase.io.read(writer.partial, -1, format="extxyz")
    number = writer.resumed - 1
    assert isinstance(last, ase.Atoms)  # not several
    if not np.array_equal(last.numbers, atoms.numbers) or abs(last.info.get("time", -1) - number * frame_time) > 1e-6:
        raise InputError(
            "holds another simulation: the structure, the timestep or the interval differs",
            where=str(writer.partial),
            remedy="go on with the arguments of the run that was stopped, or begin anew with --overwrite",
        )
    atoms.positions = last.positions
    atoms.set_momenta(last.get_momenta())
    return number


def _integrator(
    atoms: ase.Atoms, ensemble: Ensemble, timestep: float, temperature: float, generator: np.random.Generator
) -> MolecularDynamics:
    time = timestep * units.fs
    if ensemble == "nve":
        return VelocityVerlet(atoms, time)
    friction = FRICTION / units.fs
    return Langevin(atoms, time, temperature_K=temperature, friction=friction, fixcm=False, rng=generator)


def _temperature(atoms: ase.Atoms, kinetic: float, ensemble: Ensemble) -> float:
    """Kelvin of a kinetic energy in eV.

    Velocity Verlet keeps total and angular momentum at zero; the thermostat heats every degree of freedom.
    """
    rigid = rigid_body_modes(atoms.positions, atoms.get_masses(), periodic=bool(atoms.pbc.any()))
    freedom = 3 * len(atoms) - (rigid.shape[1] if ensemble == "nve" else 0)
    return float(2 * kinetic / (units.kB * max(freedom, 1)))


def maxwell_boltzmann_velocities(atoms: ase.Atoms, temperature: float, generator: np.random.Generator) -> None:
    """Give `atoms` thermal momenta (K), without motion or rotation of the whole; a lone atom rests."""
    masses = atoms.get_masses()[:, None]
    weighted = generator.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature)  # p / √m
    rigid = rigid_body_modes(atoms.positions, atoms.get_masses(), periodic=bool(atoms.pbc.any()))
    flat = weighted.ravel()
    atoms.set_momenta((flat - rigid @ (rigid.T @ flat)).reshape(-1, 3) * np.sqrt(masses))


def energy_drift(energies: Float64[np.ndarray, "steps"], timestep: float, num_atoms: int) -> float:
    """Slope in meV/atom/ps of total energies in eV that are `timestep` fs apart."""
    if len(energies) < 2:
        return 0.0
    picoseconds = np.arange(len(energies)) * timestep / 1000
    return float(np.polyfit(picoseconds, energies - energies[0], 1)[0] * 1000 / num_atoms)


def _check_settings(steps: int, temperature: float, timestep: float, ensemble: str, interval: int) -> None:
    if ensemble not in ("nve", "nvt"):
        raise InputError(f"ensemble is {ensemble!r}", remedy="choose nve or nvt")
    if steps < 1 or interval < 1 or not (timestep > 0 and temperature >= 0):
        raise InputError(
            f"steps {steps}, interval {interval}, timestep {timestep} fs, temperature {temperature} K cannot be",
            remedy="steps, interval and timestep must be positive, the temperature at least 0",
        )
