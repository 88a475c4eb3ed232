"""Element references: exact on linear data, harmless where the data do not determine them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_molecules import ATOMIC_ENERGIES, real

from transip.batch import TERMS, Batch
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


def test_energy_of_a_structure():
    references = AtomicReferences(np.arange(87, dtype=np.float64), np.array([100.0, 1000.0, 10_000.0]))
    water = next(s for s in real(48) if s.formula == "H2O")
    energies = references.energy(Batch.collate([water, replace(water, charge=2, spin=3)]))
    assert energies.tolist() == [10.0, 10.0 + 2 * 100 + 2 * 1000 + 4 * 10_000]


def test_statistics_against_numpy(tmp_path):
    structures = real(30)
    references = AtomicReferences(np.array([ATOMIC_ENERGIES.get(z, 0.0) for z in range(87)]))
    found = statistics(dataset_of(tmp_path, structures), references)
    per_atom = [(s.energy - references.values[s.numbers].sum()) / len(s) for s in structures]
    forces = np.concatenate([s.forces for s in structures])
    assert np.isclose(found["energy_mean"], np.mean(per_atom))
    assert np.isclose(found["energy_std"], np.std(per_atom))
    assert np.isclose(found["reference_mae_per_atom"], np.abs(per_atom).mean())
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


TRUE = {"charge": 11.0, "unpaired_electrons": 1.5, "charge_squared": 2.5}
SPANNED = {  # (charge, multiplicity) that occur → terms that they determine
    "neutral singlets": ([(0, 1)], set()),
    "all of one charge": ([(1, 1)], set()),
    "all radicals": ([(0, 2)], set()),
    "charges 0 and 1": ([(0, 1), (1, 1)], {"charge"}),
    "charges 1 and 2": ([(1, 1), (2, 1)], {"charge"}),
    "charges of both signs": ([(0, 1), (1, 1), (-1, 1)], {"charge", "charge_squared"}),
    "doublets": ([(0, 1), (0, 2)], {"unpaired_electrons"}),
    "radical cations": ([(0, 1), (1, 2)], {"charge"}),
    "radicals and cations": ([(0, 1), (1, 1), (0, 2)], {"charge", "unpaired_electrons"}),
    "all": ([(0, 1), (1, 1), (-1, 1), (0, 2), (0, 3), (2, 1)], set(TERMS)),
}


def in_states(count, states, true, noise=0.0, seed=0):
    """Molecules in these states of charge and spin, dealt out in turn, with energies linear but for noise (eV)."""
    generator, found = np.random.default_rng(seed), []
    for k, structure in enumerate(s for s in real(count) if 1 in s.numbers):
        charge, spin = states[(k + k // 12) % len(states)]
        if (structure.numbers.sum() - charge - spin + 1) % 2:  # a proton or a hydrogen atom has gone
            gone = np.flatnonzero(structure.numbers == 1)[0]
            left = {key: np.delete(getattr(structure, key), gone, 0) for key in ("numbers", "positions", "forces")}
        else:
            left = {}
        structure = replace(structure, charge=charge, spin=spin, **left)
        linear = {"charge": charge, "charge_squared": charge**2, "unpaired_electrons": spin - 1}
        energy = sum(ATOMIC_ENERGIES[z] for z in structure.numbers.tolist()) + noise * generator.normal()
        found.append(replace(structure, energy=energy + sum(true[term] * linear[term] for term in true)))
    return found


@pytest.mark.parametrize(("states", "spanned"), SPANNED.values(), ids=SPANNED.keys())
def test_terms_that_the_data_span_are_recovered_and_others_are_zero(tmp_path, states, spanned):
    true = {term: TRUE[term] * (term in spanned) for term in TERMS}
    found = AtomicReferences.fit(dataset_of(tmp_path, in_states(120, states, true)), terms=TERMS)
    assert np.flatnonzero(found.terms).tolist() == [k for k, term in enumerate(TERMS) if term in spanned]
    assert np.allclose(found.terms, list(true.values()), rtol=0, atol=1e-7)
    assert np.allclose([found.values[z] for z in (1, 6)], [ATOMIC_ENERGIES[z] for z in (1, 6)], rtol=0, atol=1e-7)


def test_charges_that_follow_from_the_elements_but_for_one_structure_are_left_to_the_elements(tmp_path):
    """200 salts in which each chlorine brings a charge, and one that is 5 eV off and neutral."""
    salts = [replace(s, charge=int((s.numbers == 17).sum())) for s in real(1200)]
    salts = [replace(s, spin=1 + s.charge) for s in salts]
    neutral = next(s for s in real(12) if 17 in s.numbers)
    dataset = dataset_of(tmp_path, [*salts, replace(neutral, energy=neutral.energy + 5.0)])
    assert not AtomicReferences.fit(dataset, terms=TERMS).terms.any()


def test_the_order_of_structures_does_not_matter(tmp_path):
    structures = in_states(96, SPANNED["all"][0], TRUE, noise=0.3)
    one, other = (
        AtomicReferences.fit(dataset_of(tmp_path, order), terms=TERMS) for order in (structures, structures[::-1])
    )
    assert np.allclose(one.terms, other.terms, rtol=0, atol=1e-7)
    assert np.allclose(one.values, other.values, rtol=0, atol=1e-7)


def test_default_terms_add_up_over_fragments_far_apart(tmp_path):
    """Two cations far from each other are a dication, two radicals a triplet; their squared charges do not add up."""
    dataset = dataset_of(tmp_path, in_states(120, SPANNED["all"][0], TRUE))
    ion = next(s for s in in_states(120, [(1, 2)], TRUE))
    both = {key: np.concatenate([getattr(ion, key)] * 2) for key in ("numbers", "forces")}
    far = replace(ion, **both, positions=np.concatenate([ion.positions, ion.positions + 50.0]), charge=2, spin=3)
    for terms, excess in ((ReferenceSettings().terms, 0.0), (TERMS, 2 * TRUE["charge_squared"])):
        references = AtomicReferences.fit(dataset, terms=terms)
        one, two = references.energy(Batch.collate([ion, far]))
        assert np.isclose(two - 2 * one, excess, rtol=0, atol=1e-6)


def test_tables_of_elements_get_the_terms_of_the_least_squares(tmp_path):
    dataset = dataset_of(tmp_path, in_states(96, SPANNED["all"][0], TRUE, noise=0.3))
    fitted = AtomicReferences.fit(dataset)
    symbols = {ELEMENTS[z]: e + 1.0 for z, e in ATOMIC_ENERGIES.items()}
    for kind, values in (("given", symbols), ("omol25", {})):
        with_terms, without = (
            AtomicReferences.from_settings(ReferenceSettings(kind=kind, values=values, **more), dataset)
            for more in ({}, {"terms": ()})
        )
        assert np.array_equal(with_terms.terms, fitted.terms) and fitted.terms.any() and not without.terms.any()
        assert np.array_equal(with_terms.values, without.values)
