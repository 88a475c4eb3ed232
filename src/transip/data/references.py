"""Reference energies: the large, linear part of an energy, kept in float64 outside the network.

    E_ref = Σ_i E[z_i] + a Q + b 2S + c Q²

The sum over the elements, the charge and the unpaired electrons add up over fragments that are far from each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files

import numpy as np
from jaxtyping import Float64

from transip.batch import TERMS, Batch, charge_spin_terms
from transip.config import ReferenceSettings, ReferenceTerm
from transip.data.dataset import Dataset
from transip.errors import InputError
from transip.structure import ELEMENTS, MAX_ATOMIC_NUMBER

# OMol25's training references in eV, H to Rn: `omol_elem_refs` of fairchem's UMA 1.2 release (MIT licence).
OMOL25: dict[str, float] = json.loads(files("transip.data").joinpath("omol25_references.json").read_text())

NUM_ELEMENTS = MAX_ATOMIC_NUMBER + 1
CONSTANT = NUM_ELEMENTS + len(TERMS)  # the column of ones; columns before it: elements, terms; after it: the energy
INDEPENDENT = 0.01  # part of a term's sum of squares that must be independent of what is fitted before it
RANK_TOLERANCE = 1e-10  # singular values below it, relative to the largest, are rounding


@dataclass(frozen=True, eq=False)
class AtomicReferences:
    """One energy per element (MACE's E0s), and one for each term of total charge and multiplicity.

    Attributes:
        values: eV, index = atomic number; 0 for elements without a reference.
        terms: eV, in the order of `TERMS`; 0 for those that are not fitted.
    """

    values: Float64[np.ndarray, "elements"]
    terms: Float64[np.ndarray, "terms"] = field(default_factory=lambda: np.zeros(len(TERMS)))

    def energy(self, batch: Batch) -> Float64[np.ndarray, "structures"]:
        """Reference energy of each structure in eV."""
        elements = np.bincount(batch.structure_index, weights=self.values[batch.numbers], minlength=len(batch))
        return elements + (charge_spin_terms(batch).numpy() * self.terms).sum(1)

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        baseline: Float64[np.ndarray, "structures"] | None = None,
        elements: Sequence[int] | None = None,
        terms: Sequence[ReferenceTerm] = ReferenceSettings().terms,
    ) -> AtomicReferences:
        """Least-squares fit of the energies by the numbers of atoms and the terms, in float64.

        Elements that do not occur get 0; where the data do not determine the values of elements (two always in the
        same proportion) the solution of least norm is taken. A term gets 0 unless at least `INDEPENDENT` of its sum of
        squares is left when the elements, a constant and the terms before it have explained what they can. So neutral
        singlets have no terms; charges of 0 and 1 have no term of the squared charge, which is the charge; and where
        charges follow from the numbers of cations and anions, the elements have it all.

        Args:
            dataset: labelled structures.
            baseline: eV; a part of each energy that is not to be fitted, such as what a model predicts.
            elements: atomic numbers; fit only these. None: all.
            terms: fit only these.

        Raises:
            InputError: the dataset is unlabelled.
        """
        _check_labelled(dataset)
        r = _r_factor(dataset, baseline)
        present = np.flatnonzero(r[:, :NUM_ELEMENTS].any(axis=0)).tolist()
        chosen: list[int] = [z for z in present if elements is None or z in elements]
        for column in (NUM_ELEMENTS + TERMS.index(term) for term in TERMS if term in terms):
            if _is_independent(r[:, column], r[:, [*chosen, CONSTANT]]):
                chosen.append(column)
        solution = np.zeros(CONSTANT)
        solution[chosen] = np.linalg.lstsq(r[:, chosen], r[:, -1], rcond=RANK_TOLERANCE)[0]
        return cls(solution[:NUM_ELEMENTS], solution[NUM_ELEMENTS:])

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
            return cls.fit(dataset, terms=settings.terms)
        given, remedy = settings.values, "add them to references.values"
        if settings.kind == "omol25":
            given, remedy = OMOL25, "set references.kind: given and list all elements in values"
        table = cls.from_symbols(given, dataset, remedy=remedy)
        # Fitted with the elements, or the terms would take up what bonds contribute to the energy
        return replace(table, terms=cls.fit(dataset, terms=settings.terms).terms) if settings.terms else table


def statistics(dataset: Dataset, references: AtomicReferences) -> dict[str, float]:
    """What scales a model's targets, in one pass over the data.

    Returns:
        `energy_mean` and `energy_std`: of (energy − references) / atoms over structures, eV/atom;
        `reference_mae_per_atom`: mean |energy − references| / atoms, eV/atom;
        `force_rms`: √⟨‖F‖²⟩ over atoms, eV/Å.

    Raises:
        InputError: the dataset is unlabelled.
    """
    _check_labelled(dataset)
    atoms, energy, energy_absolute, energy_squared, force_squared = 0, 0.0, 0.0, 0.0, 0.0
    for batch in dataset.iter_batches():
        assert batch.energy is not None and batch.forces is not None
        per_atom = (batch.energy.numpy() - references.energy(batch)) / batch.atom_counts.numpy()
        atoms += batch.num_atoms
        energy += per_atom.sum()
        energy_absolute += np.abs(per_atom).sum()
        energy_squared += (per_atom**2).sum()
        force_squared += (batch.forces.numpy().astype(np.float64) ** 2).sum()
    mean = energy / len(dataset)
    variance = max(energy_squared / len(dataset) - mean**2, 0.0)
    return {
        "energy_mean": float(mean),
        "energy_std": float(np.sqrt(variance)),
        "reference_mae_per_atom": float(energy_absolute / len(dataset)),
        "force_rms": float(np.sqrt(force_squared / atoms)),
    }


def _r_factor(
    dataset: Dataset, baseline: Float64[np.ndarray, "structures"] | None
) -> Float64[np.ndarray, "rows columns"]:
    """The R factor of [elements | terms | 1 | energy], block by block.

    As stable as a QR of all rows at once, where normal equations would square the condition number.
    """
    r, done = np.zeros((0, CONSTANT + 2)), 0
    for batch in dataset.iter_batches():
        assert batch.energy is not None
        entries = batch.structure_index.numpy() * NUM_ELEMENTS + batch.numbers.numpy()
        counts = np.bincount(entries, minlength=len(batch) * NUM_ELEMENTS).reshape(len(batch), -1)
        energy = batch.energy.numpy()
        if baseline is not None:
            energy = energy - baseline[done : done + len(batch)]
        done += len(batch)
        rows = np.column_stack([counts, charge_spin_terms(batch).numpy(), np.ones(len(batch)), energy])
        r = np.linalg.qr(np.vstack([r, rows])).R
    return r


def _is_independent(column: Float64[np.ndarray, "rows"], others: Float64[np.ndarray, "rows others"]) -> bool:
    """Whether enough of a column is left when the other columns have explained what they can."""
    left = column - others @ np.linalg.lstsq(others, column, rcond=RANK_TOLERANCE)[0]
    return bool(left @ left >= INDEPENDENT * (column @ column) > 0)


def _check_labelled(dataset: Dataset) -> None:
    if not len(dataset) or not dataset.labelled:
        raise InputError("element references need energies", remedy="give labelled packs")
