"""i-PI, the program itself: skipped where it is not installed."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
import threading

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.socketio import SocketClosed, SocketServer
from ase.units import Bohr, Hartree

from transip.engines.ipi import run_client
from transip.errors import InputError
from transip.inference.ase import TransIPCalculator
from transip.model.files import save_model

needs_ipi = pytest.mark.skipif(importlib.util.find_spec("ipi") is None, reason='needs pip install ".[ipi]"')


@needs_ipi
def test_the_example_runs(run_example, gentle_model, monkeypatch):
    """i-PI writes nine digits, too few for the energies of a model with large references."""
    without = copy.deepcopy(gentle_model)
    without.references.zero_()
    monkeypatch.setitem(run_example.__globals__, "save_model", lambda _, folder: save_model(without, folder))
    assert "total energy changed" in run_example("ipi_nve.py", "--steps", "3")


@pytest.mark.parametrize("case", [(1, 2)], indirect=True, ids=["cation"])
def test_the_command_answers_through_the_protocol(gentle_model, case, tmp_path):
    """ASE's server speaks i-PI's protocol; energies and forces arrive exactly."""
    save_model(gentle_model, tmp_path / "model")
    ase.io.write(tmp_path / "molecule.xyz", case.atoms, format="extxyz")
    name = f"transip-test-{os.getpid()}"
    command = [sys.executable, "-m", "transip.engines.ipi", tmp_path / "model", tmp_path / "molecule.xyz"]
    command += ["--socket", name, "--charge", str(case.charge), "--spin", str(case.spin)]
    with SocketServer(unixsocket=name, timeout=120) as server:
        process = subprocess.Popen(command)
        found = server.calculate(case.atoms)
    assert process.wait(timeout=60) == 0
    assert abs(found["energy"] - case.energy) < 1e-5
    assert abs(found["forces"] - case.forces).max() < 1e-5
    assert abs(found["energy"]) > Hartree


def test_of_cells_the_virial_is_sent(periodic_model, crystal, tmp_path):
    save_model(periodic_model, tmp_path / "model")
    ase.io.write(tmp_path / "crystal.xyz", crystal, format="extxyz", write_results=False)
    name = f"transip-test-{os.getpid()}"
    command = [sys.executable, "-m", "transip.engines.ipi", tmp_path / "model", tmp_path / "crystal.xyz"]
    with SocketServer(unixsocket=name, timeout=120) as server:
        process = subprocess.Popen([*command, "--socket", name, "--charge", "0", "--spin", "1"])
        found = server.calculate(crystal)
    assert process.wait(timeout=60) == 0
    assert abs(found["energy"] - crystal.get_potential_energy()) < 1e-5
    np.testing.assert_allclose(found["forces"], crystal.get_forces(), rtol=0, atol=1e-5)
    stress = -found["virial"] / crystal.get_volume()
    np.testing.assert_allclose(stress, crystal.get_stress(voigt=False), rtol=0, atol=1e-7)


def test_of_molecules_the_dipole_is_sent(charged_model):
    """In i-PI's extras, as JSON, in atomic units; ASE's server hands them on as bytes."""
    water = molecule("H2O")
    calculator = TransIPCalculator(charged_model, charge=0, spin=1, dtype="float64", unseen="ignore")
    name = f"transip-test-{os.getpid()}"
    with SocketServer(unixsocket=name, timeout=120) as server:
        thread = threading.Thread(target=run_client, args=(water, calculator), kwargs={"socket": name})
        thread.start()
        for shift in (0.0, 0.1):
            water.positions[0] += shift
            extras = json.loads(server.calculate(water)["morebytes"].tobytes())
            np.testing.assert_allclose(np.array(extras["dipole"]) * Bohr, calculator.get_dipole_moment(water))
    thread.join(60)


def test_a_cell_that_changes_needs_a_stress(make_model, crystal):
    """Without one a barostat would be told that there is no pressure."""
    calculator = TransIPCalculator(make_model(forces="direct", cutoff=4.5), charge=0, spin=1, unseen="ignore")
    name = f"transip-test-{os.getpid()}"
    problems = []

    def client() -> None:
        with pytest.raises(InputError, match="the cell changes, and there is no stress") as caught:
            run_client(crystal, calculator, socket=name)
        problems.append(caught)

    with SocketServer(unixsocket=name, timeout=120) as server:
        thread = threading.Thread(target=client)
        thread.start()
        server.calculate(crystal)
        larger = crystal.copy()
        larger.set_cell(1.1 * crystal.cell, scale_atoms=True)
        with pytest.raises((OSError, SocketClosed)):
            server.calculate(larger)
    thread.join(60)
    assert problems


def test_what_cannot_be_is_named(gentle_model):
    water = molecule("H2O")
    with pytest.raises(InputError, match="charge is missing"):
        run_client(water, TransIPCalculator(gentle_model), socket="nobody")
    water.set_cell([9, 9, 9])
    water.pbc = True
    with pytest.raises(InputError, match="without a cutoff"):
        run_client(water, TransIPCalculator(gentle_model, charge=0, spin=1), socket="nobody")


def test_a_server_that_is_not_there(gentle_model):
    calculator = TransIPCalculator(gentle_model, charge=0, spin=1)
    with pytest.raises(InputError, match="i-PI cannot be reached"):
        run_client(molecule("H2O"), calculator, socket="transip-nobody", timeout=0.1)
