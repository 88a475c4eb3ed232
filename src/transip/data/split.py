"""What a recipe trains on and what it validates with: packs split by composition, and cut."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from transip.config import DataSettings
from transip.data.dataset import Dataset
from transip.data.store import columns_checksum
from transip.errors import InputError, InputWarning
from transip.files import PACKS, read_json
from transip.structure import LABELS, MAX_ATOMIC_NUMBER

ATOMS = ("numbers", "offsets")  # columns of a pack
Present = Bool[np.ndarray, "compositions elements"]


def load_splits(settings: DataSettings) -> tuple[Dataset, Dataset]:
    """Open the packs of a recipe and return (training, validation) data, split and cut as it says.

    Warns (`InputWarning`) if validation packs share compositions with the training packs.

    Raises:
        InputError: a pack cannot be used, packs do not fit together, they are unlabelled, or nothing is left
            to train on or to validate with.
    """
    train, validation = load_full_splits(settings)
    return (
        _subset(train, settings.max_train, settings.seed),
        _subset(validation, settings.max_val_structures, settings.seed),
    )


def load_full_splits(settings: DataSettings) -> tuple[Dataset, Dataset]:
    """`load_splits` without `max_train` and `max_val_structures`: everything to train on, and everything held out."""
    train, validation = _split(settings)
    if settings.validation:
        _warn_of_overlap(train, validation)
    for name, dataset in (("training", train), ("validation", validation)):
        if not len(dataset):
            raise InputError(
                f"no structures are left for {name}",
                where=", ".join(settings.train),
                remedy="choose data.validation_fraction between 0 and 1, or give data.validation",
            )
    return train, validation


def load_unlabelled(settings: DataSettings) -> Dataset:
    """Open the packs of which a recipe uses only geometries, without the compositions held out for validation.

    Raises:
        InputError: a pack cannot be used, or nothing is left.
    """
    unlabelled = Dataset.open(settings.unlabelled, require_compatible=False)
    return _without_compositions(unlabelled, _split(settings)[1], settings.unlabelled)


def load_replay(settings: DataSettings) -> Dataset:
    """Open the packs that a recipe replays, without the compositions held out for validation.

    Raises:
        InputError: a pack cannot be used, its labels cannot be mixed with the training data's, or nothing is left.
    """
    replay = Dataset.open(settings.replay)
    train, held_out = _split(settings)
    train.check_compatible(replay)
    return _without_compositions(replay, held_out, settings.replay)


def fingerprints(settings: DataSettings) -> dict[str, str]:
    """Which structures each pack of a recipe holds, in which order: a checksum of their atoms, by the pack's path, and
    one of the labels that are learned."""
    learned = (*settings.train, *settings.replay)
    atoms = {path: columns_checksum(path, ATOMS) for path in (*learned, *settings.validation, *settings.unlabelled)}
    return atoms | {f"labels of {path}": columns_checksum(path, LABELS) for path in learned}


def changed_packs(settings: DataSettings, run: Path) -> list[str]:
    """Packs, and "labels of" packs, of the recipe of a run that do not hold what they held when it began."""
    if not (run / PACKS).is_file():  # of before it was written
        return []
    recorded = read_json(run / PACKS)
    return [name for name, current in fingerprints(settings).items() if recorded.get(name, current) != current]


def _without_compositions(data: Dataset, held_out: Dataset, packs: Sequence[str]) -> Dataset:
    """`data`, which `packs` hold, without the compositions of `held_out`."""
    left = np.flatnonzero(~np.isin(data.composition_hashes(), held_out.composition_hashes()))
    if not len(left):
        raise InputError(
            f"all {len(data)} structures have a composition that is held out for validation",
            where=", ".join(packs),
            remedy="give packs with other molecules, or hold out less (data.validation_fraction)",
        )
    return data.select(left)


def _split(settings: DataSettings) -> tuple[Dataset, Dataset]:
    """Training and held-out structures, before `max_train` and `max_val_structures` cut either."""
    train = Dataset.open(settings.train)
    if not train.labelled:
        raise InputError("has no energies and forces", where=", ".join(settings.train), remedy="give labelled packs")
    if not settings.validation:
        return split_by_composition(train, settings.validation_fraction, settings.seed, settings.split)
    validation = Dataset.open(settings.validation)
    train.check_compatible(validation)
    return train, validation


def _subset(dataset: Dataset, size: int | None, seed: int) -> Dataset:
    if size is None or size >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).choice(len(dataset), size, replace=False)
    return dataset.select(np.sort(chosen))  # ascending: neighbouring rows are read together


def _warn_of_overlap(train: Dataset, validation: Dataset) -> None:
    shared = np.isin(validation.composition_hashes(), train.composition_hashes()).sum()
    if shared:
        warnings.warn(
            f"{shared} of {len(validation)} validation structures have a composition that is "
            "also trained on: their errors say little about unseen molecules",
            InputWarning,
            stacklevel=3,
        )


def split_by_composition(
    dataset: Dataset, fraction: float, seed: int, how: Literal["random", "hash"] = "random"
) -> tuple[Dataset, Dataset]:
    """Split into (train, held out) so that no composition is in both.

    An element's last composition stays in training: errors on an element never seen would say nothing.

    Args:
        dataset: what to split; the order of its structures does not matter.
        fraction: share of the structures to hold out.
        seed: of the choice.
        how: "random" takes compositions at random until about `fraction` is held out, which depends on all of them.
            "hash" takes each by a hash of its atoms and the seed: it stays on its side when others come and go, but
            for one that an element needs in training, or that is held out for want of any other; the share held out is
            as near to `fraction` as chance is.

    Raises:
        InputError: a split with structures on both sides is asked for, but there is only one composition.
    """
    ids, examples, member, sizes = np.unique(
        dataset.composition_hashes(), return_index=True, return_inverse=True, return_counts=True
    )
    if 0 < fraction < 1 and len(ids) < 2:
        raise InputError(
            f"{len(dataset)} structures of one composition cannot be split by composition",
            remedy="pack some of them, such as the last tenth of a trajectory, into a pack of their own instead, and "
            "name it in the recipe: data.validation: [held-out.pack]",
        )
    present = _elements_present(dataset.select(examples))
    held_out = (
        _hash_split(ids, present, fraction, seed) if how == "hash" else _random_split(sizes, present, fraction, seed)
    )
    if fraction > 0 and not held_out.any():  # every composition is larger than the share, or chance took none
        held_out[sizes.argmin()] = True
    mask = held_out[member]
    return dataset.select(np.flatnonzero(~mask)), dataset.select(np.flatnonzero(mask))


def _random_split(
    sizes: Int64[np.ndarray, "compositions"], present: Present, fraction: float, seed: int
) -> Bool[np.ndarray, "compositions"]:
    held_out = np.zeros(len(sizes), dtype=bool)
    total, target = 0, fraction * sizes.sum()
    trained = present.sum(0)  # compositions left for training, per element
    for i in np.random.default_rng(seed).permutation(len(sizes)):
        alone = fraction < 1 and (trained[present[i]] == 1).any()
        if total + sizes[i] <= target and not alone:
            held_out[i] = True
            total += sizes[i]
            trained -= present[i]
    return held_out


def _hash_split(
    ids: Int64[np.ndarray, "compositions"], present: Present, fraction: float, seed: int
) -> Bool[np.ndarray, "compositions"]:
    held_out = _uniform(ids, seed) < fraction
    if fraction < 1:
        untrained = present.any(0) & ~present[~held_out].any(0)
        held_out &= ~present[:, untrained].any(1)
    return held_out


def _uniform(ids: Int64[np.ndarray, "compositions"], seed: int) -> Float64[np.ndarray, "compositions"]:
    """A number in [0, 1) of each id and the seed (the finaliser of SplitMix64)."""
    mixed = ids.view(np.uint64) ^ np.random.SeedSequence(seed).generate_state(1, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))) / 2**64


def _elements_present(dataset: Dataset) -> Bool[np.ndarray, "structures elements"]:
    """Which elements each structure has."""
    present = np.zeros((len(dataset), MAX_ATOMIC_NUMBER + 1), dtype=bool)
    start = 0
    for batch in dataset.iter_batches():
        present[start + batch.structure_index.numpy(), batch.numbers.numpy()] = True
        start += len(batch)
    return present
