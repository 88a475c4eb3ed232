"""Views over several packs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_molecules import real

from transip.batch import Batch
from transip.config import DataSettings
from transip.data.dataset import Dataset
from transip.data.split import load_splits
from transip.data.store import write_pack
from transip.errors import InputError


@settings(max_examples=20, deadline=None)
@given(indices=st.lists(st.integers(0, 59), min_size=1, max_size=12))
def test_batches_over_two_packs_keep_the_order(paths, structures, indices):
    dataset = Dataset.open(paths)
    found, expected = dataset.get_batch(indices), Batch.collate([structures[i] for i in indices])
    assert found.index.tolist() == indices
    for name in (
        "numbers",
        "positions",
        "structure_index",
        "atom_counts",
        "charge",
        "spin",
        "energy",
        "forces",
        "max_num_atoms",
    ):
        assert torch.equal(torch.as_tensor(getattr(found, name)), torch.as_tensor(getattr(expected, name))), name
    selection = dataset.select(indices)
    assert torch.equal(selection.get_batch(range(len(indices))).positions, expected.positions)
    assert selection.domains.tolist() == [structures[i].domain for i in indices]
    assert selection.atom_counts.tolist() == [len(structures[i]) for i in indices]
    assert selection.elements() == sorted({int(z) for i in indices for z in structures[i].numbers})


def test_structures_containing_an_element(paths, structures):
    dataset = Dataset.open(paths)
    for elements in ([8], [7, 8], [92]):
        expected = [i for i, s in enumerate(structures) if np.isin(s.numbers, elements).any()]
        found = dataset.with_elements(elements)
        assert [found.describe(i) for i in range(len(found))] == [dataset.describe(i) for i in expected]


def test_describe_names_pack_structure_and_source(paths):
    dataset = Dataset.open(paths)
    assert dataset.describe(36) == "b.pack, structure 1 (H2O, source molecule-36)"


def test_charges_and_spins(tmp_path):
    charged = replace(real(1)[0], charge=1, spin=2)
    write_pack(tmp_path / "x.pack", [real(1)[0], charged], level_of_theory="test")
    dataset = Dataset.open([tmp_path / "x.pack"])
    assert dataset.charge.tolist() == [0, 1]
    assert dataset.spin.tolist() == [1, 2]


def test_packs_that_do_not_fit_together(paths, tmp_path):
    write_pack(tmp_path / "other.pack", real(2), level_of_theory="another")
    with pytest.raises(InputError, match=r"levels of theory cannot be mixed: 'test' in a\.pack, 'another' here"):
        Dataset.open([paths[0], tmp_path / "other.pack"])
    unlabelled = [replace(s, energy=None, forces=None) for s in real(2)]
    write_pack(tmp_path / "unlabelled.pack", unlabelled, level_of_theory="test")
    with pytest.raises(InputError, match="labelled and unlabelled"):
        Dataset.open([paths[0], tmp_path / "unlabelled.pack"])
    with pytest.raises(InputError, match="has no energies and forces"):
        load_splits(DataSettings(train=(str(tmp_path / "unlabelled.pack"),)))
    with pytest.raises(InputError, match="no packed dataset"):
        Dataset.open([])
