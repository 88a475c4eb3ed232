"""Outputs that nobody loses: what exists, what was stopped, what is bad among much that is good."""

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from commands import call
from transip.errors import InputError, InputWarning
from transip.inference import predict as predict_module
from transip.inference.ase import TransIPCalculator
from transip.inference.md import run_md
from transip.inference.predict import pick_device, predict_file, warn_of_size
from transip.inference.progress import count_structures
from transip.inference.relax import relax_file
from transip.inference.vibrations import vibrations_file

VERBS = {predict_file: {}, relax_file: {"steps": 1}, run_md: {"steps": 2, "interval": 1}, vibrations_file: {}}
pytestmark = pytest.mark.filterwarnings("ignore:.*not converged", "ignore:.*not a minimum", "ignore:.*check the units")


@pytest.fixture
def calculator(model_folder) -> TransIPCalculator:
    return TransIPCalculator(model_folder, device="cpu")


@pytest.fixture
def few(tmp_path, make_structure):
    """Four molecules."""
    ase.io.write(tmp_path / "in.xyz", [make_structure(3, seed).to_atoms() for seed in range(4)], format="extxyz")
    return tmp_path / "in.xyz"


@pytest.mark.parametrize("verb", VERBS)
def test_what_exists_is_replaced_on_request_only(calculator, few, tmp_path, verb):
    output = tmp_path / ("o.json" if verb is vibrations_file else "o.xyz")
    output.write_text("precious")
    with pytest.raises(InputError, match=r"exists already\n.*--overwrite"):
        verb(calculator, few, output, progress=False, **VERBS[verb])
    assert output.read_text() == "precious"
    verb(calculator, few, output, progress=False, overwrite=True, **VERBS[verb])
    assert output.read_text() != "precious"


@pytest.mark.parametrize("verb", VERBS)
def test_folders_are_not_made_up(calculator, few, tmp_path, verb):
    with pytest.raises(InputError, match="is not an existing folder"):
        verb(calculator, few, tmp_path / "mistyped" / "o.xyz", progress=False, **VERBS[verb])
    assert not (tmp_path / "mistyped").exists()


def test_bad_structures_are_left_out_and_listed(calculator, few, tmp_path):
    frames = ase.io.read(few, ":")
    frames[1].info["spin"] += 1
    frames[2].positions[0] = frames[2].positions[1]
    ase.io.write(few, frames, format="extxyz")
    for verb in (predict_file, relax_file):
        output = tmp_path / f"{verb.__name__}.xyz"
        done = verb(calculator, few, output, progress=False, skip_bad=True, **VERBS[verb])
        assert done["structures"] == len(ase.io.read(output, ":")) == 2
        assert [error.where for error in done["skipped"]] == [f"{few}, structure {i}" for i in (1, 2)]


def test_what_the_model_cannot_predict_is_left_out_too(calculator, few, tmp_path, monkeypatch):
    forward = predict_module.forward_structures

    def broken(model, structures):
        prediction = forward(model, structures)
        prediction.energy[0] = torch.nan
        return prediction

    monkeypatch.setattr(predict_module, "forward_structures", broken)
    done = predict_file(calculator, few, tmp_path / "o.xyz", progress=False, skip_bad=True)
    assert done["structures"] == 3 and "not finite" in done["skipped"][0].problem


@pytest.mark.parametrize("verb", [predict_file, relax_file, run_md])
@pytest.mark.parametrize("average", [None, 2])
def test_files_hold_charges_and_dipoles_as_ases_results(charged_model, few, tmp_path, verb, average):
    calculator = TransIPCalculator(charged_model, dtype="float64", average=average, unseen="ignore")
    verb(calculator, few, tmp_path / "o.xyz", progress=False, **VERBS[verb])
    for frame in ase.io.read(tmp_path / "o.xyz", ":"):
        assert {"energy", "forces", "charges", "magmoms", "dipole"} <= set(frame.calc.results)
        assert frame.info["charge"] == 0 and ("energy_std" in frame.info) == (average is not None)
        for get in ("get_charges", "get_magnetic_moments", "get_dipole_moment"):
            expected = getattr(calculator, get)(frame)
            np.testing.assert_allclose(getattr(frame, get)(), expected, atol=1e-5)  # the file has eight decimals


# ------------------------------------------------------------------------------------------ stopped and resumed


@pytest.fixture
def stop(monkeypatch):
    """Press Ctrl-C at the nth calculation of the test."""

    def at(number: int) -> None:
        calculate, calls = TransIPCalculator.calculate, 0

        def calculate_or_stop(self, *arguments, **named):
            nonlocal calls
            calls += 1
            if calls == number:
                raise KeyboardInterrupt
            calculate(self, *arguments, **named)

        monkeypatch.setattr(TransIPCalculator, "calculate", calculate_or_stop)

    return at


def test_a_stopped_relaxation_goes_on_after_what_is_finished(calculator, few, tmp_path, stop):
    settings = {"steps": 1, "progress": False}  # two calculations a structure
    whole = relax_file(calculator, few, tmp_path / "whole.xyz", **settings)
    stop(6)
    with pytest.raises(KeyboardInterrupt, match=r"2 relaxed structures are kept in .*o.partial.xyz; .*--resume"):
        relax_file(calculator, few, tmp_path / "o.xyz", **settings)
    with pytest.raises(InputError, match=r"holds 2 frames of a run that was stopped\n.*--resume.*--overwrite"):
        relax_file(calculator, few, tmp_path / "o.xyz", **settings)
    done = relax_file(calculator, few, tmp_path / "o.xyz", resume=True, **settings)
    assert (done["structures"], len(done["rows"]), done["converged"]) == (4, 2, whole["converged"])
    assert (tmp_path / "o.xyz").read_text() == (tmp_path / "whole.xyz").read_text()
    assert not (tmp_path / "o.partial.xyz").exists()


def test_a_stopped_simulation_goes_on_from_its_last_frame(calculator, few, tmp_path, stop):
    settings = {"steps": 12, "interval": 2, "ensemble": "nve", "progress": False}
    whole = run_md(calculator, few, tmp_path / "whole.xyz", **settings)
    stop(8)
    with pytest.raises(KeyboardInterrupt, match=r"after step 6 of 12: 4 frames are kept .*o.partial.xyz; .*--resume"):
        run_md(calculator, few, tmp_path / "o.xyz", **settings)
    with (tmp_path / "o.partial.xyz").open("a") as handle:
        handle.write("3\nwritten when the power failed")
    with pytest.raises(InputError, match="another simulation"):
        run_md(calculator, few, tmp_path / "o.xyz", resume=True, **settings | {"timestep": 0.3})
    done = run_md(calculator, few, tmp_path / "o.xyz", resume=True, **settings)
    assert done["frames"] == whole["frames"] == 7
    ours, theirs = (ase.io.read(tmp_path / f"{name}.xyz", ":") for name in ("o", "whole"))
    assert [frame.info["time"] for frame in ours] == [frame.info["time"] for frame in theirs]
    np.testing.assert_allclose(ours[-1].positions, theirs[-1].positions, atol=1e-5)  # the file has eight decimals
    np.testing.assert_allclose(ours[-1].get_momenta(), theirs[-1].get_momenta(), atol=1e-4)


def test_frames_of_a_stopped_simulation_are_not_deleted_unasked(calculator, few, tmp_path):
    (tmp_path / "o.partial.xyz").write_text(few.read_text())
    with pytest.raises(InputError, match="holds 4 frames"):
        run_md(calculator, few, tmp_path / "o.xyz", steps=1, progress=False)
    assert (tmp_path / "o.partial.xyz").read_text() == few.read_text()
    run_md(calculator, few, tmp_path / "o.xyz", steps=1, overwrite=True, progress=False)
    assert not (tmp_path / "o.partial.xyz").exists()


def test_the_command_says_in_one_line_what_is_kept(model_folder, few, tmp_path, stop, capfd):
    stop(4)
    assert call("md", model_folder, few, "-o", tmp_path / "o.xyz", "--steps", 9, "--interval", 1) == 130
    (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("stopped after step 2 of 9: 3 frames are kept in") and "--resume" in line


# ------------------------------------------------------------------------------------------ before it begins


def test_from_a_minimum_the_mean_temperature_is_what_was_asked_for(tmp_path):
    """Half of the kinetic energy goes into the bonds: velocities are drawn at twice the temperature."""
    calculator = TransIPCalculator("transip-xs-gfn2", device="cpu")
    ase.io.write(tmp_path / "in.xyz", molecule("CH3OH", info={"charge": 0, "spin": 1}), format="extxyz")
    relax_file(calculator, tmp_path / "in.xyz", tmp_path / "minimum.xyz", progress=False)
    settings = {"ensemble": "nve", "temperature": 300.0, "progress": False, "overwrite": True}
    found = [
        run_md(calculator, tmp_path / "minimum.xyz", tmp_path / "md.xyz", steps=200, seed=seed, **settings)
        for seed in range(3)
    ]
    assert all(done["initial_temperature"] == 600 for done in found)
    assert np.mean([done["mean_temperature"] for done in found]) == pytest.approx(300, rel=0.25)
    settings["initial_temperature"] = 100.0
    cold = run_md(calculator, tmp_path / "minimum.xyz", tmp_path / "md.xyz", steps=1, **settings)
    assert cold["initial_temperature"] == 100 and cold["mean_temperature"] < 200


def test_structures_are_counted_without_parsing_them(few, tmp_path):
    assert count_structures(few) == 4
    (tmp_path / "cut.xyz").write_text(few.read_text()[:-9])
    assert count_structures(tmp_path / "cut.xyz") == 3
    (tmp_path / "none.xyz").write_text("not a number\n")
    assert count_structures(tmp_path / "none.xyz") is None and count_structures(tmp_path / "missing.db") is None


def test_a_large_structure_is_announced_with_its_time(make_model, make_structure, monkeypatch):
    monkeypatch.setattr(predict_module, "LARGE", 8)
    with pytest.warns(InputWarning, match=r"12 atoms: energy and forces will take about \d+ s"):
        warn_of_size(make_model(), make_structure(12))
    assert warn_of_size(make_model(), structure := make_structure(8)) is structure


def test_the_device_is_a_gpu_if_there_is_one(monkeypatch):
    for cuda, xpu, expected in ((True, True, "cuda"), (False, True, "xpu"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.xpu, "is_available", lambda there=xpu: there)
        assert pick_device("auto").type == expected
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="cannot be used"):
        pick_device("abacus")


def test_a_bound_says_for_what_a_model_is_calibrated():
    with pytest.raises(InputError, match=r"no calibrated uncertainties\n.*calibrated for average=12: predict so"):
        TransIPCalculator("transip-s-gfn2", max_uncertainty=0.2, device="cpu")


def test_the_shell_completes_names_of_models_and_folders(tmp_path, monkeypatch):
    from transip.cli_options import _complete_model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "transip-mine").mkdir()
    assert {"transip-s-gfn2", "transip-xs-gfn2", "transip-mine/"} <= set(_complete_model("transip-"))
    assert _complete_model("transip-m") == ["transip-mine/"]
