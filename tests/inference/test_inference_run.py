"""What stands behind `transip predict`, `relax` and `md`."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from transip.data.read import read_structures
from transip.errors import InputError, InputWarning
from transip.inference import predict as predict_module
from transip.inference.ase import TransIPCalculator
from transip.inference.md import energy_drift, maxwell_boltzmann_velocities, run_md
from transip.inference.predict import predict_file
from transip.inference.relax import OPTIMIZERS, relax_file
from transip.inference.torque import RemoveNetTorque
from transip.io.extxyz import format_frame
from transip.model.files import save_model
from transip.structure import Structure


def only_inputs(folder) -> bool:
    return sorted(path.name for path in folder.iterdir()) == ["in.xyz", "model"]


@pytest.fixture
def full_disk(monkeypatch):
    """Every written frame fails as if the disk were full."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("predict.format_frame", "relax.format_frame", "md.write_extxyz"):
        monkeypatch.setattr(f"transip.inference.{name}", full)


def test_choices_that_do_not_exist(model_folder, source, tmp_path):
    """In a process of its own: here, beartype would object first."""
    code = """
        import sys
        from transip.inference.ase import TransIPCalculator
        from transip.inference.md import run_md
        from transip.inference.relax import relax_file
        from transip.errors import InputError
        model, *files = sys.argv[1:]
        for attempt in (
            lambda: TransIPCalculator(model, dtype="float16"),
            lambda: TransIPCalculator(model, unseen="no"),
            lambda: relax_file(TransIPCalculator(model), *files, optimizer="BFGS"),
            lambda: run_md(TransIPCalculator(model), *files, ensemble="npt", steps=1),
        ):
            try:
                attempt()
            except InputError as error:
                print(error.problem)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), model_folder, source, tmp_path / "o.xyz"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [line.split(" is ")[0] for line in output.splitlines()] == ["dtype", "unseen", "optimizer", "ensemble"]
    assert only_inputs(tmp_path)


@pytest.fixture
def breaks_down(monkeypatch):
    """The fourth calculation of the test fails."""
    calculate, calls = TransIPCalculator.calculate, 0

    def calculate_or_fail(self, *arguments, **named):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise InputError("the model's energy or forces are not finite")
        calculate(self, *arguments, **named)

    monkeypatch.setattr(TransIPCalculator, "calculate", calculate_or_fail)


# ------------------------------------------------------------------------------------------ predict


def test_predict_file_labels_every_structure_in_order(model_folder, source, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "CHUNK", 8)
    calculator = TransIPCalculator(model_folder, dtype="float64")
    summary = predict_file(calculator, source, tmp_path / "o.xyz", progress=False)
    before, after = ase.io.read(source, ":"), ase.io.read(tmp_path / "o.xyz", ":")
    assert summary["structures"] == len(after) == 30
    assert summary["atoms"] == sum(len(atoms) for atoms in before)
    for old, new in zip(before, after, strict=True):
        assert new.get_chemical_symbols() == old.get_chemical_symbols()
        assert (new.info["charge"], new.info["spin"]) == (old.info["charge"], old.info["spin"])
        assert abs(new.get_potential_energy() - calculator.get_potential_energy(old)) < 1e-5
        np.testing.assert_allclose(new.get_forces(), calculator.get_forces(old), atol=1e-5)


def test_charge_and_spin_can_be_given_for_files_without(model_folder, tmp_path):
    ase.io.write(tmp_path / "bare.xyz", molecule("H2O"), format="xyz")
    files = tmp_path / "bare.xyz", tmp_path / "o.xyz"
    with pytest.raises(InputError, match="charge is missing"):
        predict_file(TransIPCalculator(model_folder), *files, progress=False)
    assert not (tmp_path / "o.xyz").exists()
    predict_file(TransIPCalculator(model_folder, charge=-1, spin=2), *files, progress=False)
    written = ase.io.read(tmp_path / "o.xyz")
    assert (written.info["charge"], written.info["spin"]) == (-1, 2)


def test_a_bad_structure_leaves_nothing_half_written(model_folder, source, tmp_path):
    structures = ase.io.read(source, ":")
    structures[20].info["spin"] += 1
    ase.io.write(source, structures, format="extxyz")
    with pytest.raises(InputError, match=r"structure 20.*cannot have multiplicity"):
        predict_file(TransIPCalculator(model_folder), source, tmp_path / "o.xyz", progress=False)
    assert only_inputs(tmp_path)


def test_a_full_disk_leaves_nothing_behind(model_folder, source, tmp_path, full_disk):
    for verb in (predict_file, relax_file):
        with pytest.raises(InputError, match="No space left"):
            verb(TransIPCalculator(model_folder), source, tmp_path / "o.xyz", progress=False)
        assert only_inputs(tmp_path)


def test_an_existing_output_survives_a_failure(model_folder, source, tmp_path, full_disk):
    (tmp_path / "o.xyz").write_text("precious")
    with pytest.raises(InputError):
        predict_file(TransIPCalculator(model_folder), source, tmp_path / "o.xyz", progress=False)
    assert (tmp_path / "o.xyz").read_text() == "precious"


def test_models_that_cannot_be_used(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(InputError, match="pickled"):
        TransIPCalculator(tmp_path / "old.pt")


def test_unseen_elements_are_warned_of(make_model, source, tmp_path):
    model = make_model(seed=5)
    model.card.update(elements=["H"])
    save_model(model, tmp_path / "narrow")
    with pytest.warns(InputWarning, match="do not trust"):
        predict_file(TransIPCalculator(tmp_path / "narrow"), source, tmp_path / "o.xyz", progress=False)


def test_refused_elements_stop_every_verb(make_model, source, tmp_path):
    model = make_model(forces="conservative", seed=6)
    model.card.update(elements=["Rn"])
    save_model(model, tmp_path / "model")
    calculator = TransIPCalculator(tmp_path / "model", unseen="refuse")
    for verb, settings in ((predict_file, {}), (relax_file, {}), (run_md, {"steps": 1})):
        with pytest.raises(InputError, match=r"in\.xyz, structure 0: element . is not in"):
            verb(calculator, source, tmp_path / "o.xyz", progress=False, **settings)
    assert only_inputs(tmp_path)


# ------------------------------------------------------------------------------------------ relax


@pytest.mark.parametrize("optimizer", ["LBFGS", "FIRE"])
def test_relaxing_lowers_the_energy(model_folder, make_structure, tmp_path, optimizer):
    ase.io.write(tmp_path / "in.xyz", [make_structure(n, 1).to_atoms() for n in (1, 4)], format="extxyz")
    output = tmp_path / "o.xyz"
    calculator, limits = TransIPCalculator(model_folder), {"fmax": 0.05, "steps": 30}
    summary = relax_file(calculator, tmp_path / "in.xyz", output, optimizer=optimizer, progress=False, **limits)
    atom, four = summary["rows"]
    assert atom["converged"] and atom["steps"] == 0 and atom["initial_energy"] == atom["final_energy"]
    assert four["final_energy"] < four["initial_energy"] and 0 < four["steps"] <= 30
    assert summary["structures"] == 2 and summary["converged"] == 1 + four["converged"]
    last = ase.io.read(output, 1)
    assert last.get_potential_energy() == pytest.approx(four["final_energy"])
    last.set_constraint(RemoveNetTorque())  # what is followed, and measured; the file has all of the forces
    assert np.linalg.norm(last.get_forces(), axis=1).max() == pytest.approx(four["final_fmax"], abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*not converged")
def test_a_relaxation_that_breaks_down_keeps_the_last_sound_geometry(
    model_folder, make_structure, tmp_path, breaks_down
):
    path = tmp_path / "in.xyz"
    ase.io.write(path, [make_structure(4, seed).to_atoms() for seed in (1, 2)], format="extxyz")
    summary = relax_file(TransIPCalculator(model_folder), path, tmp_path / "o.xyz", fmax=1e-3, steps=5, progress=False)
    broken, other = summary["rows"]
    assert "not finite" in broken["note"] and not broken["converged"] and broken["steps"] == 2
    assert other["note"] == ""
    assert ase.io.read(tmp_path / "o.xyz", 0).get_potential_energy() == pytest.approx(broken["final_energy"])


def test_structures_that_do_not_converge_are_named_with_the_force_that_is_left(model_folder, make_structure, tmp_path):
    ase.io.write(tmp_path / "in.xyz", make_structure(4, 1).to_atoms(), format="extxyz")
    with pytest.warns(InputWarning) as caught:
        files = tmp_path / "in.xyz", tmp_path / "o.xyz"
        summary = relax_file(TransIPCalculator(model_folder), *files, fmax=1e-9, steps=3, progress=False)
    (row,) = summary["rows"]
    (message,) = (str(warning.message) for warning in caught)
    assert not row["converged"]
    assert message.startswith(f"{row['source']}: not converged after 3 steps of LBFGS: ")
    assert f"largest force {row['final_fmax']:.3f} eV/Å (asked for 1e-09;" in message


@pytest.mark.filterwarnings("ignore:.*not converged", "ignore:this model predicts forces directly")
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_the_optimizer_suits_the_kind_of_forces(make_model, make_structure, tmp_path, monkeypatch, forces):
    used = []
    for name, kind in OPTIMIZERS.items():
        record = lambda *given, name=name, kind=kind, **options: used.append(name) or kind(*given, **options)  # noqa: E731
        monkeypatch.setitem(OPTIMIZERS, name, record)
    save_model(make_model(forces=forces, scale=0.1), tmp_path / "model")
    ase.io.write(tmp_path / "in.xyz", make_structure(5, 1).to_atoms(), format="extxyz")
    for choice in (None, "LBFGS", "FIRE"):
        files = tmp_path / "in.xyz", tmp_path / "o.xyz"
        relax_file(
            TransIPCalculator(tmp_path / "model"), *files, steps=1, optimizer=choice, overwrite=True, progress=False
        )
    assert used == ["FIRE" if forces == "direct" else "LBFGS", "LBFGS", "FIRE"]


@pytest.mark.filterwarnings("ignore:.*not converged", "ignore:this model predicts forces directly")
def test_direct_forces_do_not_turn_the_molecule(make_model, make_structure, tmp_path):
    """The step of FIRE, at rest, is along the forces: no torque in them, no turn."""
    save_model(make_model(scale=0.1), tmp_path / "model")
    before = make_structure(6, 1).to_atoms()
    ase.io.write(tmp_path / "in.xyz", before, format="extxyz")
    calculator = TransIPCalculator(tmp_path / "model")
    assert np.linalg.norm(torque(before, calculator.get_forces(before))) > 1e-3
    relax_file(calculator, tmp_path / "in.xyz", tmp_path / "o.xyz", fmax=1e-3, steps=1, progress=False)
    step = ase.io.read(tmp_path / "o.xyz").positions - ase.io.read(tmp_path / "in.xyz").positions
    assert np.abs(step).max() > 1e-4
    np.testing.assert_allclose(torque(before, step), 0, atol=1e-6)
    np.testing.assert_allclose(step.sum(0), 0, atol=1e-6)


def torque(atoms, forces):
    return np.cross(atoms.positions - atoms.positions.mean(0), forces).sum(0)


def test_direct_forces_are_warned_of(make_model, make_structure, tmp_path):
    save_model(make_model(scale=0.1), tmp_path / "model")
    ase.io.write(tmp_path / "in.xyz", make_structure(5, 1).to_atoms(), format="extxyz")
    files = tmp_path / "in.xyz", tmp_path / "o.xyz"
    for verb in (relax_file, run_md):
        with pytest.warns(InputWarning, match="not exactly the derivative"):
            verb(TransIPCalculator(tmp_path / "model"), *files, steps=1, overwrite=True, progress=False)


@pytest.mark.parametrize("settings", [{"fmax": 0.0}, {"steps": -1}])
def test_relax_settings_that_cannot_be(model_folder, source, tmp_path, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        relax_file(TransIPCalculator(model_folder), source, tmp_path / "o.xyz", progress=False, **settings)


# ------------------------------------------------------------------------------------------ molecular dynamics


@pytest.fixture
def molecule_file(tmp_path, make_structure):
    ase.io.write(tmp_path / "in.xyz", make_structure(5, 1).to_atoms(), format="extxyz")
    return tmp_path / "in.xyz"


def test_nve_with_gradient_forces_conserves_energy(model_folder, molecule_file, tmp_path):
    """Velocity Verlet's error is of second order: a quarter of the timestep leaves a sixteenth of the spread."""
    calculator, spreads = TransIPCalculator(model_folder, dtype="float64"), []
    for timestep in (0.4, 0.1):
        steps = round(6 / timestep)
        run = {
            "steps": steps,
            "timestep": timestep,
            "interval": 1,
            "ensemble": "nve",
            "overwrite": True,
            "progress": False,
        }
        summary = run_md(calculator, molecule_file, tmp_path / "o.xyz", **run)
        frames = ase.io.read(tmp_path / "o.xyz", ":")
        assert len(frames) == summary["frames"] == steps + 1
        kinetic = [frame.get_kinetic_energy() for frame in frames]
        total = [frame.get_potential_energy() + k for frame, k in zip(frames, kinetic, strict=True)]
        spreads.append(np.ptp(total))
        assert np.ptp(kinetic) > 1e-3
    assert spreads[1] < spreads[0] / 8
    assert spreads[1] < 0.02 * np.ptp(kinetic)


def test_the_trajectory_says_what_happened(model_folder, molecule_file, tmp_path):
    run = {"steps": 25, "interval": 10, "timestep": 0.5, "seed": 1, "progress": False}
    summary = run_md(TransIPCalculator(model_folder), molecule_file, tmp_path / "o.xyz", **run)
    frames = ase.io.read(tmp_path / "o.xyz", ":")
    assert [frame.info["time"] for frame in frames] == [0.0, 5.0, 10.0]
    assert summary["time"] == 12.5 and summary["energy_drift"] is None and summary["mean_temperature"] > 0
    for frame in frames:
        assert (frame.info["charge"], frame.info["spin"]) == (0, ase.io.read(molecule_file).info["spin"])
        expected = TransIPCalculator(model_folder).get_forces(frame)
        np.testing.assert_allclose(frame.get_forces(), expected, atol=1e-4)
        assert np.abs(frame.get_momenta()).max() > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.xyz", "model", "o.xyz"]
    run_md(TransIPCalculator(model_folder), molecule_file, tmp_path / "same.xyz", **run)
    assert (tmp_path / "same.xyz").read_text() == (tmp_path / "o.xyz").read_text()


def test_names_in_a_trajectory_are_those_of_the_molecule(model_folder, water, tmp_path):
    name = 'C/C=C\\C "x" y'
    known = replace(Structure.from_atoms(water), energy=0.0, forces=np.zeros((3, 3)), source=name, domain=name)
    (tmp_path / "in.xyz").write_text(format_frame(known), encoding="utf-8")
    run_md(
        TransIPCalculator(model_folder), tmp_path / "in.xyz", tmp_path / "o.xyz", steps=2, interval=1, progress=False
    )
    found = [(s.source, s.domain) for s in read_structures(tmp_path / "o.xyz", labels="ignored")]
    assert found == 3 * [(name, name)]


def test_a_simulation_that_breaks_down_says_when_and_keeps_its_frames(
    model_folder, molecule_file, tmp_path, breaks_down
):
    message = r"broke down after step 2: .* not finite\n.*frames so far are in .*o\.partial\.xyz"
    with pytest.raises(InputError, match=message):
        run_md(TransIPCalculator(model_folder), molecule_file, tmp_path / "o.xyz", steps=9, interval=1, progress=False)
    assert not (tmp_path / "o.xyz").exists()
    assert len(ase.io.read(tmp_path / "o.partial.xyz", ":")) == 3


def test_a_killed_simulation_leaves_whole_frames(model_folder, molecule_file, tmp_path):
    code = (
        "from transip.inference.ase import TransIPCalculator\n"
        "from transip.inference.md import run_md\n"
        f"calculator = TransIPCalculator({str(model_folder)!r})\n"
        f"run_md(calculator, {str(molecule_file)!r}, {str(tmp_path / 'o.xyz')!r}, steps=10**6, interval=1)"
    )
    partial = tmp_path / "o.partial.xyz"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size > 3000):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    frames = ase.io.read(partial, ":")
    assert len(frames) > 3 and all(np.isfinite(frame.get_forces()).all() for frame in frames)
    assert not (tmp_path / "o.xyz").exists()


def test_a_full_disk_stops_the_simulation(model_folder, molecule_file, tmp_path, full_disk):
    with pytest.raises(InputError, match="No space left"):
        run_md(TransIPCalculator(model_folder), molecule_file, tmp_path / "o.xyz", steps=2, progress=False)
    assert not (tmp_path / "o.xyz").exists()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"interval": 0}, {"timestep": -1.0}, {"temperature": -1.0}])
def test_md_settings_that_cannot_be(model_folder, molecule_file, tmp_path, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        run = {"steps": 1, "progress": False} | settings
        run_md(TransIPCalculator(model_folder), molecule_file, tmp_path / "o.xyz", **run)


@pytest.mark.parametrize(("name", "freedom"), [("H2O", 3), ("CO2", 4), ("N2", 1), ("C6H6", 30)])
def test_velocities_are_thermal_without_motion_of_the_whole(name, freedom):
    atoms, temperatures = molecule(name), []
    generator = np.random.default_rng(0)
    for _ in range(400):
        maxwell_boltzmann_velocities(atoms, 300.0, generator)
        np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-10)
        np.testing.assert_allclose(atoms.get_angular_momentum(), 0, atol=1e-10)
        temperatures.append(2 * atoms.get_kinetic_energy() / (freedom * ase.units.kB))
    assert abs(np.mean(temperatures) - 300) < 4 * 300 * np.sqrt(2 / freedom / 400)


def test_a_lone_atom_rests_and_can_be_simulated(model_folder, make_structure, tmp_path):
    ase.io.write(tmp_path / "in.xyz", make_structure(1).to_atoms(), format="extxyz")
    for ensemble in ("nve", "nvt"):
        run = {"steps": 3, "interval": 1, "progress": False, "ensemble": ensemble, "overwrite": True}
        summary = run_md(TransIPCalculator(model_folder), tmp_path / "in.xyz", tmp_path / "o.xyz", **run)
        assert np.isfinite(summary["mean_temperature"])
    assert summary["frames"] == 4


def test_drift_is_the_slope_per_atom_and_picosecond():
    energies = 5.0 + 0.002 * np.arange(101)  # 2 meV each 0.5 fs
    assert energy_drift(energies, 0.5, num_atoms=4) == pytest.approx(1000.0)


# ------------------------------------------------------------------------------------------ rotational averages


@pytest.mark.parametrize("verb", [predict_file, relax_file, run_md])
def test_averages_write_their_spread(model_folder, molecule_file, tmp_path, verb):
    options = {predict_file: {}, relax_file: {"steps": 1}, run_md: {"steps": 1, "interval": 1}}[verb]
    calculator = TransIPCalculator(model_folder, average=12)
    verb(calculator, molecule_file, tmp_path / "o.xyz", progress=False, **options)
    verb(TransIPCalculator(model_folder), molecule_file, tmp_path / "plain.xyz", progress=False, **options)
    for frame in ase.io.read(tmp_path / "o.xyz", ":"):
        np.testing.assert_allclose(frame.get_forces(), calculator.get_forces(frame), atol=1e-4)
        np.testing.assert_allclose(frame.arrays["forces_std"], calculator.results["forces_std"], atol=1e-4)
        assert abs(frame.info["energy_std"] - calculator.results["energy_std"]) < 1e-4
    plain = ase.io.read(tmp_path / "plain.xyz")
    assert "energy_std" not in plain.info and "forces_std" not in plain.arrays
