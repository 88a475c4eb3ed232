"""Element references: exact on linear data, harmless where the data do not determine them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_molecules import ATOMIC_ENERGIES, real

from transip.config import ReferenceSettings
from transip.data.dataset import Dataset
from transip.data.references import OMOL25, AtomicReferences, statistics
from transip.data.store import write_pack
from transip.errors import InputError
from transip.structure import ELEMENTS


def dataset_of(folder, structures) -> Dataset:
    write_pack(folder / "x.pack", structures, level_of_theory="test", overwrite=True)
    return Dataset.open([folder / "x.pack"])


def with_energy(structure, values):
    return replace(structure, energy=float(sum(values[z] for z in structure.numbers.tolist())))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-1e5, 1e2), min_size=6, max_size=6))
def test_fit_recovers_linear_energies(tmp_path_factory, energies):
    values = dict(zip(ATOMIC_ENERGIES, energies, strict=True))
    dataset = dataset_of(tmp_path_factory.mktemp("x"), [with_energy(s, values) for s in real(24)])
    fitted = AtomicReferences.fit(dataset)
    assert fitted.values.shape == (87,)
    assert np.allclose([fitted.values[z] for z in values], energies, rtol=1e-10, atol=1e-7)
    assert np.count_nonzero(fitted.values) <= len(values)
    assert statistics(dataset, fitted)["energy_std"] < 1e-7


def test_fit_is_the_least_squares_solution_however_blocks_fall(tmp_path, monkeypatch):
    structures = real(48)
    dataset = dataset_of(tmp_path, structures)
    rows = np.array([np.bincount(s.numbers, minlength=87) for s in structures], dtype=np.float64)
    expected = np.linalg.lstsq(rows, np.array([s.energy for s in structures]))[0]
    monkeypatch.setattr(Dataset.iter_batches, "__defaults__", (5,))
    assert np.allclose(AtomicReferences.fit(dataset).values, expected, rtol=1e-10, atol=1e-8)


def test_undetermined_elements_share_the_energy(tmp_path):
    water = [with_energy(s, {1: 0.0, 8: -5.0}) for s in real(48) if s.formula == "H2O"]
    values = AtomicReferences.fit(dataset_of(tmp_path, water)).values
    assert np.isclose(2 * values[1] + values[8], -5.0)
    assert np.isclose(values[1], 2 * values[8])  # the least norm


def test_sum_by_structure():
    references = AtomicReferences(np.arange(87, dtype=np.float64))
    total = references.sum(np.array([1, 1, 8, 6]), np.array([0, 0, 0, 2]), 3)
    assert total.tolist() == [10.0, 0.0, 6.0]


def test_statistics_against_numpy(tmp_path):
    structures = real(30)
    references = AtomicReferences(np.array([ATOMIC_ENERGIES.get(z, 0.0) for z in range(87)]))
    found = statistics(dataset_of(tmp_path, structures), references)
    per_atom = [(s.energy - references.values[s.numbers].sum()) / len(s) for s in structures]
    forces = np.concatenate([s.forces for s in structures])
    assert np.isclose(found["energy_mean"], np.mean(per_atom))
    assert np.isclose(found["energy_std"], np.std(per_atom))
    assert np.isclose(found["force_rms"], np.sqrt((forces**2).sum(1).mean()))


def test_given_and_built_in_tables(tmp_path):
    dataset = dataset_of(tmp_path, real(12))
    symbols = {ELEMENTS[z]: e for z, e in ATOMIC_ENERGIES.items()}
    given_table = AtomicReferences.from_settings(ReferenceSettings(kind="given", values=symbols), dataset)
    assert given_table.values[6] == ATOMIC_ENERGIES[6]
    omol = AtomicReferences.from_settings(ReferenceSettings(kind="omol25"), dataset)
    assert omol.values[8] == OMOL25["O"] == -2047.656475
    assert list(OMOL25) == ELEMENTS[1:87]
    fitted = AtomicReferences.from_settings(ReferenceSettings(), dataset)
    assert np.array_equal(fitted.values, AtomicReferences.fit(dataset).values)


def test_bad_tables(tmp_path):
    structures = real(12)
    dataset = dataset_of(tmp_path, structures)
    with pytest.raises(InputError, match="no reference energy for C, N, O, S, Cl"):
        AtomicReferences.from_settings(ReferenceSettings(kind="given", values={"H": -13.6}), dataset)
    with pytest.raises(InputError, match=r"Xx: 1\.0 is not the energy of an element"):
        AtomicReferences.from_settings(ReferenceSettings(kind="given", values={"Xx": 1.0}), dataset)
    with pytest.raises(InputError, match="set kind: given"):
        AtomicReferences.from_settings(ReferenceSettings(values={"H": -13.6}), dataset)
    unlabelled = [replace(s, energy=None, forces=None) for s in structures]
    with pytest.raises(InputError, match="need energies"):
        AtomicReferences.fit(dataset_of(tmp_path, unlabelled))
