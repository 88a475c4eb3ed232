"""OpenMM, the program itself, through OpenMM-ML: skipped where it is not installed."""

from importlib.metadata import entry_points

import ase
import ase.units
import numpy as np
import pytest
from ase.build import molecule

from transip.errors import InputError

openmm = pytest.importorskip("openmm", reason='needs pip install ".[openmm]"')
openmmml = pytest.importorskip("openmmml", reason='needs pip install ".[openmm]"')
from openmm import app, unit  # noqa: E402

from transip.engines.openmm import TransIPPotentialImplFactory  # noqa: E402

EV = ase.units.kJ / ase.units.mol  # of a kJ/mol


def topology_of(atoms: ase.Atoms) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(atoms.cell.array * unit.angstrom)
    return topology


def context_of(system: openmm.System, atoms: ase.Atoms, timestep: float = 0.0001) -> openmm.Context:
    integrator = openmm.VerletIntegrator(timestep * unit.picoseconds)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("Reference"))
    context.setPositions(atoms.positions * unit.angstrom)
    return context


def energy_and_forces(context: openmm.Context) -> tuple[float, np.ndarray]:
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * EV, forces * EV


@pytest.fixture
def create(gentle_model):
    """`createSystem` of a potential with the model."""
    potential = openmmml.MLPotential("transip", modelPath=gentle_model)
    return lambda atoms, **given: potential.createSystem(topology_of(atoms), device="cpu", **given)


def test_openmm_ml_knows_the_name():
    (found,) = entry_points(group="openmmml.potentials", name="transip")
    assert found.load() is TransIPPotentialImplFactory


def test_the_same_as_ase(create, case):
    system = create(case.atoms, charge=case.charge, multiplicity=case.spin)
    energy, forces = energy_and_forces(context_of(system, case.atoms))
    assert abs(energy - case.energy) < 1e-5
    np.testing.assert_allclose(forces, case.forces, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", [(1, 2)], indirect=True, ids=["cation"])
def test_energy_is_conserved(create, case):
    system = create(case.atoms, charge=case.charge, multiplicity=case.spin, dtype="float64", removeCMMotion=False)
    context = context_of(system, case.atoms)
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)

    def energies() -> np.ndarray:
        state = context.getState(getEnergy=True)
        both = state.getPotentialEnergy(), state.getKineticEnergy()
        return np.array([one.value_in_unit(unit.kilojoule_per_mole) for one in both]) * EV

    before = energies()
    context.getIntegrator().step(30)
    after = energies()
    assert abs(after[0] - before[0]) > 1e-3
    assert abs(after.sum() - before.sum()) < 1e-3


@pytest.mark.parametrize("case", [(1, 2)], indirect=True, ids=["cation"])
def test_only_some_of_the_atoms(create, gentle_model, case):
    """A molecule beside an atom that only an ordinary force holds."""
    both = case.atoms + ase.Atoms("Ar", [[9, 9, 9]])
    system = openmm.System()
    for atom in topology_of(both).atoms():
        system.addParticle(atom.element.mass)
    potential = openmmml.MLPotential("transip", modelPath=gentle_model)
    given = {"charge": case.charge, "multiplicity": case.spin, "device": "cpu"}
    system = potential.createMixedSystem(topology_of(both), system, list(range(len(case.atoms))), **given)
    energy, forces = energy_and_forces(context_of(system, both))
    assert abs(energy - case.energy) < 1e-5
    np.testing.assert_allclose(forces[:-1], case.forces, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(forces[-1], 0)


def test_what_cannot_be_is_named(create, tmp_path):
    water = molecule("H2O")
    with pytest.raises(InputError, match="charge is missing"):
        create(water, multiplicity=1)
    with pytest.raises(InputError, match="spin is missing"):
        create(water, charge=0)
    with pytest.raises(InputError, match="cannot have multiplicity 2"):
        create(water, charge=0, multiplicity=2)
    with pytest.raises(InputError, match="no model is given"):
        openmmml.MLPotential("transip")
    nothing = openmmml.MLPotential("transip", modelPath=tmp_path)
    with pytest.raises(InputError):
        nothing.createSystem(topology_of(water), charge=0, multiplicity=1, device="cpu")


def test_a_model_without_cutoff_refuses_periodic_boxes(create, crystal):
    with pytest.raises(InputError, match="without a cutoff"):
        create(crystal, charge=0, multiplicity=1)


def test_periodic_boxes_are_ases_and_may_change(periodic_model, crystal):
    potential = openmmml.MLPotential("transip", modelPath=periodic_model)
    system = potential.createSystem(topology_of(crystal), charge=0, multiplicity=1, device="cpu")
    assert system.usesPeriodicBoundaryConditions()
    context = context_of(system, crystal)
    for _ in range(2):
        energy, forces = energy_and_forces(context)
        assert abs(energy - crystal.get_potential_energy()) < 1e-5
        np.testing.assert_allclose(forces, crystal.get_forces(), rtol=0, atol=1e-5)
        crystal.set_cell(1.02 * crystal.cell.array, scale_atoms=True)
        context.setPeriodicBoxVectors(*crystal.cell.array * unit.angstrom)
        context.setPositions(crystal.positions * unit.angstrom)


def test_a_simulation_that_breaks_down_is_stopped(create):
    water = molecule("H2O")
    context = context_of(create(water, charge=0, multiplicity=1), water)
    context.setPositions(np.zeros((3, 3)))
    with pytest.raises(Exception, match="overlap"):
        energy_and_forces(context)


def test_the_example_runs(run_example):
    assert "total energy changed" in run_example("openmm_md.py", "--steps", "3")
