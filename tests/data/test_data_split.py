"""Splits that share no composition, and what recipes make of them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_molecules import real

from transip.batch import Batch
from transip.config import DataSettings
from transip.data.dataset import Dataset
from transip.data.split import load_full_splits, load_splits, load_unlabelled, split_by_composition
from transip.data.store import write_pack
from transip.errors import InputError, InputWarning


def sources(dataset: Dataset) -> list[str]:
    return [dataset[i].source for i in range(len(dataset))]


@settings(max_examples=25, deadline=None)
@given(fraction=st.floats(0.05, 0.4), seed=st.integers(0, 1000), how=st.sampled_from(["random", "hash"]))
def test_no_composition_is_in_both_parts(paths, fraction, seed, how):
    dataset = Dataset.open(paths)
    train, held_out = split_by_composition(dataset, fraction, seed, how)
    assert len(train) + len(held_out) == len(dataset)
    assert len(train) and len(held_out)
    assert not np.isin(held_out.composition_hashes(), train.composition_hashes()).any()


@settings(max_examples=25, deadline=None)
@given(fraction=st.floats(0.05, 0.4), seed=st.integers(0, 1000))
def test_a_random_split_holds_out_the_fraction_but_for_one_composition(paths, fraction, seed):
    """Sixty structures of twelve compositions: five of each."""
    dataset = Dataset.open(paths)
    _, held_out = split_by_composition(dataset, fraction, seed, "random")
    assert abs(len(held_out) - fraction * len(dataset)) <= 5


@pytest.mark.parametrize("how", ["random", "hash"])
def test_the_split_does_not_depend_on_the_order_of_the_data(paths, how):
    def held_out(order):
        return set(sources(split_by_composition(Dataset.open(order), 0.3, 4, how)[1]))

    assert held_out(paths) == held_out(paths[::-1])


class TestHashed:
    def test_compositions_stay_on_their_side_when_packs_are_added(self, paths):
        for seed in range(10):
            (few_train, few_out), (train, held_out) = (
                split_by_composition(Dataset.open(some), 0.3, seed, "hash") for some in (paths[:1], paths)
            )
            assert set(sources(few_out)) <= set(sources(held_out))
            assert set(sources(few_train)) <= set(sources(train))

    def test_about_the_share_asked_for_is_held_out(self, structures, tmp_path):
        """Of 400 compositions of two elements, so that no element is ever at stake."""
        line = 1.5 * np.arange(42)[:, None] * [1.0, 0, 0]
        many = []
        for n, m in product(range(1, 21), repeat=2):
            atoms = {"numbers": np.repeat([1, 6], [n, m]), "positions": line[: n + m], "forces": 0 * line[: n + m]}
            many.append(replace(structures[0], **atoms, charge=0, spin=1 + n % 2))
        write_pack(tmp_path / "many.pack", many, level_of_theory="test")
        dataset = Dataset.open([tmp_path / "many.pack"])
        held_out = [len(split_by_composition(dataset, 0.3, seed, "hash")[1]) for seed in range(30)]
        assert np.mean(held_out) == pytest.approx(120, abs=7)  # four standard errors
        assert 4 < np.std(held_out) < 16  # seeds differ, as binomial draws do: by 9

    def test_recipes_ask_for_it(self, paths):
        _, expected = split_by_composition(Dataset.open(paths), 0.3, 5, "hash")
        _, held_out = load_splits(DataSettings(train=paths, validation_fraction=0.3, seed=5, split="hash"))
        assert sources(held_out) == sources(expected)


def test_one_composition_cannot_be_split(tmp_path):
    write_pack(tmp_path / "x.pack", [real(1)[0]] * 3, level_of_theory="test")
    with pytest.raises(InputError, match=r"one composition(.|\n)*data\.validation: \[held-out\.pack\]"):
        split_by_composition(Dataset.open([tmp_path / "x.pack"]), 0.5, 0)


def test_prepare_splits_and_cuts(paths):
    train, validation = load_splits(
        DataSettings(train=paths, validation_fraction=0.3, max_train=20, max_val_structures=7)
    )
    assert (len(train), len(validation)) == (20, 7)
    assert not np.isin(validation.composition_hashes(), train.composition_hashes()).any()
    again, _ = load_splits(DataSettings(train=paths, validation_fraction=0.3, max_train=20, max_val_structures=7))
    other, _ = load_splits(
        DataSettings(train=paths, validation_fraction=0.3, max_train=20, max_val_structures=7, seed=1)
    )
    sources = [[part[i].source for i in range(20)] for part in (train, again, other)]
    assert sources[0] == sources[1] != sources[2]


def test_nothing_is_cut_from_what_is_held_out_when_all_is_asked_for(paths):
    settings = DataSettings(train=paths, validation_fraction=0.3)
    cut = settings.model_copy(update={"max_train": 20, "max_val_structures": 7})
    assert [len(part) for part in load_full_splits(cut)] == [len(part) for part in load_splits(settings)]
    assert len(load_full_splits(cut)[1]) > 7


def test_prepare_warns_of_shared_compositions(paths):
    with pytest.warns(InputWarning, match="25 of 25 validation structures"):
        train, validation = load_splits(DataSettings(train=(paths[0],), validation=(paths[1],)))
    assert (len(train), len(validation)) == (35, 25)


def test_prepare_refuses_to_leave_nothing(paths):
    for fraction, name in ((0.0, "validation"), (1.0, "training")):
        with pytest.raises(InputError, match=f"no structures are left for {name}"):
            load_splits(DataSettings(train=paths, validation_fraction=fraction))


def test_an_element_is_never_held_out_whole(tmp_path, structures):
    """Rare elements stay in training whatever the seed; common compositions are held out all the same."""
    place = np.array([[0.0, 0, 0], [1.5, 0, 0]])
    rare = [
        replace(structures[0], numbers=np.array([z, 1]), positions=place, forces=0 * place) for z in (3, 11, 19, 37)
    ]
    rare = [replace(s, charge=0, spin=1) for s in rare]
    write_pack(tmp_path / "rare.pack", [*structures, *rare], level_of_theory="test")
    dataset = Dataset.open([tmp_path / "rare.pack"])
    for seed, how in product(range(10), ("random", "hash")):
        train, held_out = split_by_composition(dataset, 0.4, seed, how)
        assert len(held_out) and set(held_out.elements()) <= set(train.elements())
        assert len(train) + len(held_out) == len(dataset)


class TestUnlabelledPool:
    def test_is_everything_but_the_compositions_held_out(self, paths, structures):
        """Also those held-out structures that `max_val_structures` leaves out, and however few are trained on."""
        settings_ = DataSettings(
            train=paths, validation_fraction=0.3, max_train=5, max_val_structures=2, unlabelled=paths[::-1]
        )
        _, held_out = split_by_composition(Dataset.open(paths), 0.3, settings_.seed)
        assert len(held_out) > 2
        expected = {s.source for s in structures} - set(sources(held_out))
        pool = load_unlabelled(settings_)
        assert set(sources(pool)) == expected and len(pool) == len(expected)
        assert not np.isin(pool.composition_hashes(), held_out.composition_hashes()).any()

    def test_shares_no_composition_with_validation_packs(self, paths, structures, tmp_path):
        some = [s for s in structures if s.formula == structures[0].formula]
        write_pack(tmp_path / "validation.pack", some, level_of_theory="test")
        validation = (str(tmp_path / "validation.pack"),)
        pool = load_unlabelled(DataSettings(train=paths, validation=validation, unlabelled=paths))
        assert len(pool) == len(structures) - len(some)
        with pytest.raises(
            InputError, match=r"validation\.pack: all \d+ structures have a composition that is held out"
        ):
            load_unlabelled(DataSettings(train=paths, validation=validation, unlabelled=validation))

    def test_needs_no_labels_nor_one_level_of_theory(self, paths, structures, tmp_path):
        bare = [replace(s, energy=None, forces=None) for s in structures[:20]]
        write_pack(tmp_path / "bare.pack", bare, level_of_theory="none")
        write_pack(tmp_path / "other.pack", structures[20:40], level_of_theory="another")
        packs = (str(tmp_path / "bare.pack"), str(tmp_path / "other.pack"))
        settings_ = DataSettings(train=paths, validation_fraction=0.2, unlabelled=packs)
        pool = load_unlabelled(settings_)
        place = {s.source: s for s in structures}
        batch = pool.get_batch(range(len(pool)))
        expected = Batch.collate([place[source] for source in sources(pool)])
        assert batch.energy is None and len(batch) > 20
        assert torch.equal(batch.positions, expected.positions) and torch.equal(batch.numbers, expected.numbers)
