"""Element references: the large, linear part of an energy, kept in float64 outside the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jaxtyping import Float64, Integer

from transip.config import ReferenceSettings
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.structure import ELEMENTS, MAX_ATOMIC_NUMBER

# OMol25's training references in eV, H to Rn: `omol_elem_refs` of fairchem's UMA 1.2 release (MIT licence).
OMOL25: dict[str, float] = json.loads(files("transip.data").joinpath("omol25_references.json").read_text())


@dataclass(frozen=True, eq=False)
class AtomicReferences:
    """One energy per element (MACE's E0s).

    Attributes:
        values: eV, index = atomic number; 0 for elements without a reference.
    """

    values: Float64[np.ndarray, "elements"]

    def sum(
        self,
        numbers: Integer[np.ndarray, "atoms"],
        structure: Integer[np.ndarray, "atoms"],
        num_structures: int,
    ) -> Float64[np.ndarray, "structures"]:
        """Reference energy of each structure in eV; `structure` is the structure each atom belongs to."""
        return np.bincount(structure, weights=self.values[numbers], minlength=num_structures)

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        baseline: Float64[np.ndarray, "structures"] | None = None,
        elements: Sequence[int] | None = None,
    ) -> AtomicReferences:
        """Least-squares fit of the energies by the numbers of atoms, in float64.

        Elements that do not occur get 0; where the data do not determine the values (two elements always in
        the same proportion) the solution of least norm is taken.

        Args:
            dataset: labelled structures.
            known: eV; a part of each energy that is not to be fitted, such as what a model predicts.
            elements: atomic numbers; fit only these. None: all.

        Raises:
            InputError: the dataset is unlabelled.
        """
        _check_labelled(dataset)
        # [counts | energy] is reduced to its R factor block by block: as stable as a QR of all rows at once,
        # where normal equations would square the condition number
        r, done = np.zeros((0, MAX_ATOMIC_NUMBER + 2)), 0
        for batch in dataset.iter_batches():
            assert batch.energy is not None
            entries = batch.structure_index.numpy() * r.shape[1] + batch.numbers.numpy()
            rows = np.bincount(entries, minlength=len(batch) * r.shape[1]).reshape(len(batch), -1).astype(float)
            rows[:, -1] = batch.energy.numpy()
            if baseline is not None:
                rows[:, -1] -= baseline[done : done + len(batch)]
            done += len(batch)
            r = np.linalg.qr(np.vstack([r, rows])).R
        values = np.zeros(MAX_ATOMIC_NUMBER + 1)
        present = np.flatnonzero(r[:, :-1].any(axis=0))
        if elements is not None:
            present = np.intersect1d(present, elements)
        values[present] = np.linalg.lstsq(r[:, present], r[:, -1])[0]
        return cls(values)

    @classmethod
    def from_symbols(cls, values: dict[str, float], dataset: Dataset, *, remedy: str) -> AtomicReferences:
        """References from element symbol → eV; every element of `dataset` must be given.

        Raises:
            InputError: a symbol is unknown, a value is not finite, or an element is missing; says `remedy`.
        """
        numbers_by_symbol = {symbol: z for z, symbol in enumerate(ELEMENTS[: MAX_ATOMIC_NUMBER + 1]) if z}
        table = np.zeros(MAX_ATOMIC_NUMBER + 1)
        for symbol, value in values.items():
            if symbol not in numbers_by_symbol or not np.isfinite(value):
                raise InputError(
                    f"{symbol}: {value} is not the energy of an element",
                    where="references.values",
                    remedy="write element symbols H to Rn with energies in eV, e.g. {H: -13.6}",
                )
            table[numbers_by_symbol[symbol]] = value
        if missing := [ELEMENTS[z] for z in dataset.elements() if ELEMENTS[z] not in values]:
            raise InputError(f"no reference energy for {', '.join(missing)}", where="references", remedy=remedy)
        return cls(table)

    @classmethod
    def from_settings(cls, settings: ReferenceSettings, dataset: Dataset) -> AtomicReferences:
        """References as a recipe asks for them.

        Raises:
            InputError: values do not fit `settings.kind`, or an element of `dataset` has no value.
        """
        if settings.values and settings.kind != "given":
            raise InputError(
                f"values are given, but kind is {settings.kind!r}",
                where="references",
                remedy="set kind: given",
            )
        if settings.kind == "least-squares":
            return cls.fit(dataset)
        if settings.kind == "given":
            return cls.from_symbols(settings.values, dataset, remedy="add them to references.values")
        remedy = "set references.kind: given and list all elements in values"
        return cls.from_symbols(OMOL25, dataset, remedy=remedy)


def statistics(dataset: Dataset, references: AtomicReferences) -> dict[str, float]:
    """What scales a model's targets, in one pass over the data.

    Returns:
        `energy_mean` and `energy_std`: of (energy − references) / atoms over structures, eV/atom;
        `force_rms`: √⟨‖F‖²⟩ over atoms, eV/Å.

    Raises:
        InputError: the dataset is unlabelled.
    """
    _check_labelled(dataset)
    atoms, energy, energy_squared, force_squared = 0, 0.0, 0.0, 0.0
    for batch in dataset.iter_batches():
        assert batch.energy is not None and batch.forces is not None
        reference = references.sum(batch.numbers.numpy(), batch.structure_index.numpy(), len(batch))
        per_atom = (batch.energy.numpy() - reference) / batch.atom_counts.numpy()
        atoms += batch.num_atoms
        energy += per_atom.sum()
        energy_squared += (per_atom**2).sum()
        force_squared += (batch.forces.numpy().astype(np.float64) ** 2).sum()
    mean = energy / len(dataset)
    variance = max(energy_squared / len(dataset) - mean**2, 0.0)
    return {
        "energy_mean": float(mean),
        "energy_std": float(np.sqrt(variance)),
        "force_rms": float(np.sqrt(force_squared / atoms)),
    }


def _check_labelled(dataset: Dataset) -> None:
    if not len(dataset) or not dataset.labelled:
        raise InputError("element references need energies", remedy="give labelled packs")
