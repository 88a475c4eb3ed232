"""`transip predict` over files that do not fit into memory: frames are read and written one by one, as ASE would."""

import io
import tracemalloc
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.io.extxyz import write_extxyz

from transip.data.read import read_structures
from transip.errors import InputError
from transip.inference import predict as predict_module
from transip.inference.ase import TransIPCalculator, attach_results
from transip.inference.predict import iter_predictions, predict_file
from transip.inference.result import Result
from transip.io.extxyz import format_frame
from transip.structure import Structure

NAMES = ({}, {"domain": "neutral_organics", "source": 'C=C "a" 0'}, {"source": "two words"})


def labelled(make_structure, atoms: int, **fields: object) -> Structure:
    forces = np.random.default_rng(atoms).normal(size=(atoms, 3))
    return make_structure(atoms, energy=-1234.56789012345 * atoms, forces=forces, **fields)


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("atoms", [1, 2, 30])
def test_frames_are_written_as_ase_writes_them(make_structure, atoms, names):
    plain = labelled(make_structure, atoms, **names)
    predicted = {"energy": plain.energy, "forces": plain.forces, "atom_energies": np.zeros(atoms)}
    bare = Result(plain, **predicted)
    for result in (bare, replace(bare, energy_std=0.25, forces_std=np.linspace(0, 1, atoms))):
        expected = io.StringIO()
        write_extxyz(expected, [attach_results(plain.to_atoms(), result)])
        assert format_frame(plain, *result.spreads) == expected.getvalue()


@pytest.mark.parametrize(
    "name", ["C/C=C\\C", 'C=C "a" \\ 0', "ends\\", "F", "T", "007", "1e5", "1 2 3", "true", "ä=[1]", "'"]
)
def test_names_come_back_to_the_letter(water, tmp_path, name):
    path, known = tmp_path / "in.xyz", replace(Structure.from_atoms(water), energy=0.0, forces=np.zeros((3, 3)))
    path.write_text(2 * format_frame(replace(known, source=name, domain=name)), encoding="utf-8")
    for found in read_structures(path, labels="ignored"):
        assert (found.source, found.domain, len(found)) == (name, name, 3)


def test_a_mark_of_the_byte_order_is_no_part_of_the_file(water, tmp_path):
    known = replace(Structure.from_atoms(water), energy=0.0, forces=np.zeros((3, 3)))
    (tmp_path / "in.xyz").write_text(format_frame(known), encoding="utf-8-sig")
    assert [len(found) for found in read_structures(tmp_path / "in.xyz", labels="ignored")] == [3]


@pytest.mark.parametrize(
    "label",
    [
        "energy=-3.0",
        "energy=-113.1 REF_energy=-113.2",
        "energy=nan",
        'energy=-1 stress="1 2 3 4 5 6 7 8 9"',
        "energy=a",
    ],
)
def test_labels_of_a_file_are_ignored_whatever_they_are(water, model_folder, tmp_path, label):
    (tmp_path / "in.xyz").write_text(f"2\ncharge=0 spin=1 {label}\nH 0 0 0\nH 0 0 0.7\n")
    calculator = TransIPCalculator(model_folder, unseen="ignore")
    predict_file(calculator, tmp_path / "in.xyz", tmp_path / "out.xyz", progress=False)
    found = ase.io.read(tmp_path / "out.xyz")
    assert "stress" not in found.info and "stress" not in found.calc.results
    calculator.calculate(found)
    assert found.get_potential_energy() == pytest.approx(calculator.results["energy"], abs=1e-4)


def test_a_stress_that_was_not_predicted_is_not_kept(make_model, make_structure):
    model = make_model(forces="direct", cutoff=4.0)
    crystal = make_structure(3, cell=9 * np.eye(3), energy=1.0, forces=np.ones((3, 3)), stress=np.eye(3))
    (found,) = iter_predictions(model, [crystal])
    assert found.energy != 1.0 and found.stress is None


def test_nothing_but_extxyz_is_written(water, model_folder, tmp_path):
    ase.io.write(tmp_path / "in.xyz", water, format="extxyz")
    with pytest.raises(InputError, match="going to be an extxyz file"):
        predict_file(TransIPCalculator(model_folder), tmp_path / "in.xyz", tmp_path / "out.db", progress=False)


def test_memory_does_not_grow_with_the_file(water, model_folder, tmp_path, monkeypatch):
    """Python's and NumPy's share of it, which is what reading and writing need."""
    monkeypatch.setattr(predict_module, "CHUNK", 64)
    text = format_frame(replace(Structure.from_atoms(water), energy=0.0, forces=np.zeros((3, 3))))

    def peak(frames: int) -> int:
        (tmp_path / "in.xyz").write_text(frames * text)
        calculator = TransIPCalculator(model_folder, unseen="ignore")
        tracemalloc.start()
        found = predict_file(calculator, tmp_path / "in.xyz", tmp_path / "out.xyz", overwrite=True, progress=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found["structures"] == frames
        return most

    peak(64)  # what is made once: imports, caches
    assert peak(768) - peak(256) < 0.2 * (768 - 256) * len(text)  # frames that are kept would be more than all of it
