"""TorchSim, the program itself: skipped where it is not installed."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator

ts = pytest.importorskip("torch_sim", reason='needs pip install ".[torchsim]"')
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from transip.engines.torchsim import TransIPModel, nearest_images  # noqa: E402

NAMES = ("CH3OH", "H2O", "C6H6", "H2")


def state_of(atoms: list[ase.Atoms]):
    return ts.initialize_state(atoms, torch.device("cpu"), torch.float64)


@pytest.fixture
def molecules() -> list[ase.Atoms]:
    found = [molecule(name) for name in NAMES]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.03, seed=seed)
    return found


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_torchsims_own_validation(make_model, forces):
    model = TransIPModel(make_model(forces=forces), charge=0, spin=1, periodic="isolate", unseen="ignore")
    validate_model_outputs(model, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_torchsims_own_validation_of_crystals(make_model, forces):
    model = TransIPModel(make_model(forces=forces, cutoff=4.5), charge=0, spin=1, unseen="ignore")
    assert model.compute_stress == (forces == "conservative")
    validate_model_outputs(model, torch.device("cpu"), torch.float64)


def test_crystals_are_what_ase_says_of_them(make_model):
    crystals = [bulk("Si", "diamond", a=5.43, cubic=True), bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.05, seed=seed)
    model = make_model(forces="conservative", cutoff=4.5)
    options = {"charge": 0, "spin": 1, "unseen": "ignore"}
    found = TransIPModel(model, network="float64", **options)(state_of(crystals))
    calculator = TransIPCalculator(model, dtype="float64", **options)
    for i, atoms in enumerate(crystals):
        atoms.calc = calculator
        np.testing.assert_allclose(found["energy"][i], atoms.get_potential_energy(), rtol=0, atol=1e-8)
        np.testing.assert_allclose(found["stress"][i], atoms.get_stress(voigt=False), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["forces"], np.concatenate([a.get_forces() for a in crystals]), atol=1e-8)


def test_charges_and_dipoles_are_what_ase_says(charged_model, molecules):
    options = {"charge": 1, "spin": 2, "unseen": "ignore"}
    model = TransIPModel(charged_model, network="float64", **options)
    found, calculator = model(state_of(molecules)), TransIPCalculator(charged_model, dtype="float64", **options)
    np.testing.assert_allclose(found["charges"], np.concatenate([calculator.get_charges(a) for a in molecules]))
    magmoms = np.concatenate([calculator.get_magnetic_moments(a) for a in molecules])
    np.testing.assert_allclose(found["spin_populations"], magmoms)
    dipoles = [calculator.get_dipole_moment(a) - a.get_center_of_mass() for a in molecules]  # of ions, charge +1
    np.testing.assert_allclose(found["dipole"], dipoles, atol=1e-9)


@pytest.mark.parametrize("periodic", [False, True], ids=["molecule", "crystal"])
def test_far_from_the_origin_float32_says_the_same(make_model, periodic):
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.pbc = periodic
    model = TransIPModel(make_model(cutoff=4.5 if periodic else None), charge=0, spin=1, unseen="ignore")
    here = model(state_of([atoms]))
    atoms.positions += [30_000, -20_000, 10_000]  # where neighbours in float32 are 2 mÅ apart
    there = model(state_of([atoms]))
    np.testing.assert_allclose(there["forces"], here["forces"], rtol=0, atol=1e-4 * here["forces"].abs().max())


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_a_batch_is_what_ase_says_of_each(make_model, molecules, forces):
    model = make_model(forces=forces)
    found = TransIPModel(model, charge=0, spin=1)(state_of(molecules))
    calculator = TransIPCalculator(model, charge=0, spin=1)
    energies = [calculator.get_potential_energy(atoms) for atoms in molecules]
    np.testing.assert_allclose(found["energy"], energies, rtol=0, atol=1e-5)
    expected = np.concatenate([calculator.get_forces(atoms) for atoms in molecules])
    np.testing.assert_allclose(found["forces"], expected, rtol=0, atol=1e-5)
    assert found["energy"].dtype == found["forces"].dtype == torch.float64


def test_charge_and_multiplicity(gentle_model, case):
    found = TransIPModel(gentle_model, charge=case.charge, spin=case.spin)(state_of([case.atoms]))
    assert abs(float(found["energy"]) - case.energy) < 1e-5
    np.testing.assert_allclose(found["forces"], case.forces, rtol=0, atol=1e-5)


def test_a_state_may_have_a_charge_for_each_molecule(gentle_model, molecules):
    state = state_of(molecules)
    charges, spins = [0, 1, -1, 0], [1, 2, 2, 3]
    state.charge, state.spin = torch.tensor(charges, dtype=torch.float64), torch.tensor(spins, dtype=torch.float64)
    found = TransIPModel(gentle_model)(state)["energy"].tolist()
    for atoms, charge, spin, energy in zip(molecules, charges, spins, found, strict=True):
        calculator = TransIPCalculator(gentle_model, charge=charge, spin=spin)
        assert abs(energy - calculator.get_potential_energy(atoms)) < 1e-5


def test_a_batch_relaxes_and_moves_and_conserves_its_energy(gentle_model, molecules):
    model = TransIPModel(gentle_model, charge=0, spin=1, network="float64")
    state = state_of(molecules[:3])
    fire = ts.Optimizer.fire if hasattr(ts, "Optimizer") else ts.optimizers.fire
    criterion = ts.generate_force_convergence_fn(1e-9, include_cell_forces=False)
    with pytest.warns(UserWarning, match="reached"):
        relaxed = ts.optimize(state, model, optimizer=fire, max_steps=20, convergence_fn=criterion)
    assert (relaxed.energy < model(state)["energy"]).all()
    nve = ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve
    run = {"integrator": nve, "temperature": 300.0, "timestep": 1e-4}
    totals = []
    for steps in (1, 30):
        torch.manual_seed(0)
        end = ts.integrate(relaxed.clone(), model, n_steps=steps, **run)
        totals.append(end.energy + kinetic(end))
    assert (kinetic(end) > 0.01).all()
    np.testing.assert_allclose(*totals, rtol=0, atol=1e-3)
    assert float((end.energy - relaxed.energy).abs().max()) > 1e-3  # which is not for want of motion


def kinetic(state) -> torch.Tensor:
    each = (state.momenta.square() / (2 * state.masses[:, None])).sum(1)
    return torch.zeros(state.n_systems, dtype=each.dtype).index_add(0, state.system_idx, each)


def test_periodic_states_are_refused_or_taken_apart_on_request(gentle_model):
    water = molecule("H2O")
    water.center(vacuum=4)
    inside = TransIPModel(gentle_model, charge=0, spin=1)(state_of([water]))
    water.pbc = True
    with pytest.raises(InputError, match="without a cutoff"):
        TransIPModel(gentle_model, charge=0, spin=1)(state_of([water]))
    water.positions += 0.5 * water.cell.sum(0)
    water.wrap()  # torn in pieces
    assert water.get_all_distances().max() > 4
    found = TransIPModel(gentle_model, charge=0, spin=1, periodic="isolate")(state_of([water]))
    assert abs(float(found["energy"]) - float(inside["energy"])) < 1e-5


def test_nearest_images_do_not_depend_on_the_cell_in_which_atoms_are():
    crystal = bulk("Si", "diamond", a=5.43, cubic=True)  # atoms half a cell apart
    state = state_of([crystal])
    counts = torch.tensor([len(crystal)])
    expected = nearest_images(state.positions, state.cell, state.system_idx, counts)
    moved = state.positions + torch.randint(-3, 4, (len(crystal), 3)).double() @ state.cell[0].T
    found = nearest_images(moved, state.cell, state.system_idx, counts)
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-9)


def test_what_cannot_be_is_named(gentle_model, make_model, molecules):
    state = state_of(molecules)
    with pytest.raises(InputError, match="charge is missing"):
        TransIPModel(gentle_model, spin=1)(state)
    with pytest.raises(InputError, match=r"system 0.*cannot have multiplicity 2"):
        TransIPModel(gentle_model, charge=0, spin=2)(state)
    state.positions[-1] = state.positions[-2]
    with pytest.raises(InputError, match=r"system 3.*overlap"):
        TransIPModel(gentle_model, charge=0, spin=1)(state)
    model = make_model(seed=3)
    model.card.update(elements=["H", "C"])
    with pytest.warns(InputWarning, match=r"system 0.*element O"):
        TransIPModel(model, charge=0, spin=1)(state_of(molecules))


def test_a_simulation_that_breaks_down_is_stopped(gentle_model, molecules):
    model, state = TransIPModel(gentle_model, charge=0, spin=1), state_of(molecules)
    model(state)
    state.positions[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        model(state)


@pytest.mark.filterwarnings("ignore:.*reached")
def test_the_example_runs(run_example):
    assert "mean kinetic energy" in run_example("torchsim_batch.py", "--steps", "3")
