"""What a model was trained on, held against what it is asked."""

from __future__ import annotations

import warnings
from typing import Literal, TypeVar

from torch import nn

from transip.errors import InputError, InputWarning
from transip.model.potential import GIVE_CUTOFF, NO_CUTOFF, Potential
from transip.structure import ELEMENTS, Structure, check_in_vocabulary
from transip.symmetry.committee import Calibrated, potentials

Unseen = Literal["warn", "refuse", "ignore"]
Uncertain = Literal["warn", "refuse"]
Labelled = TypeVar("Labelled", bound=Structure)
Seen = set[int] | range
CARD = {"element": "elements", "charge": "charges", "multiplicity": "spins", "number of atoms": "sizes"}


class Scope:
    """What a model has seen in training, as its card says: elements, charges, multiplicities, numbers of atoms.

    Of several models, what all have seen. Kinds of which a card says nothing are not checked.

    Args:
        model: a potential, or a committee or rotational average of some; `periodic` says whether all see cells.
        unseen: warn once about each element, charge, multiplicity or size outside the scope, refuse it, or ignore it.
        max_uncertainty: bound on the uncertainty of each force, eV/Å; None: none.
        uncertain: warn once about each structure beyond the bound, or refuse it.

    Raises:
        InputError: a choice that is none, or a bound for a model without calibrated uncertainties.
    """

    def __init__(
        self,
        model: nn.Module,
        unseen: Unseen = "warn",
        max_uncertainty: float | None = None,
        uncertain: Uncertain = "warn",
    ):
        if unseen not in ("warn", "refuse", "ignore"):
            raise InputError(f"unseen is {unseen!r}", remedy="choose warn, refuse or ignore")
        if uncertain not in ("warn", "refuse"):
            raise InputError(f"uncertain is {uncertain!r}", remedy="choose warn or refuse")
        if max_uncertainty is not None:
            _check_bound(max_uncertainty, model)
        self._unseen, self._bound, self._uncertain = unseen, max_uncertainty, uncertain
        self._seen = {kind: _seen(kind, potentials(model)) for kind in CARD}
        self.periodic = all(model.settings.cutoff is not None for model in potentials(model))
        self._reported: set[tuple[str, int | str]] = set()

    def check(self, structure: Structure, where: str = "structure") -> Structure:
        """Return `structure` if the model may be asked about it.

        Raises:
            InputError: it is periodic and a model has no cutoff, charge or multiplicity are beyond what any model can
                represent, or something unseen is refused.
        """
        where = structure.source or where
        if structure.cell is not None and not self.periodic:
            raise InputError(NO_CUTOFF, where=where, remedy=GIVE_CUTOFF)
        check_in_vocabulary(structure.charge, structure.spin, where)
        if self._unseen != "ignore":
            asked = {
                "element": set(structure.numbers.tolist()),
                "charge": {structure.charge},
                "multiplicity": {structure.spin},
                "number of atoms": {len(structure)} if structure.cell is None else set(),  # a cell may be any supercell
            }
            for kind, values in asked.items():
                if (seen := self._seen[kind]) is not None:
                    self._report(kind, {value for value in values if value not in seen}, seen, where)
        return structure

    def check_result(self, labelled: Labelled, where: str = "structure") -> Labelled:
        """Return `labelled` if no force is more uncertain than the bound, or if that is not refused.

        Raises:
            InputError: it is.
        """
        uncertainty = getattr(labelled, "forces_uncertainty", None)
        if self._bound is None or uncertainty is None or not (uncertainty > self._bound).any():
            return labelled
        where, atom = labelled.source or where, int(uncertainty.argmax())
        problem = (
            f"the force on atom {atom} ({ELEMENTS[labelled.numbers[atom]]}) is uncertain by {uncertainty[atom]:.3g} "
            f"eV/Å, more than the bound of {self._bound:g}"
        )
        if self._uncertain == "refuse":
            raise InputError(problem, where=where, remedy="label it and train on it, or raise max_uncertainty")
        if ("uncertain", where) not in self._reported:
            self._reported.add(("uncertain", where))
            warnings.warn(f"{where}: {problem}: do not trust the result", InputWarning, stacklevel=3)
        return labelled

    def _report(self, kind: str, unseen: set[int], seen: Seen, where: str) -> None:
        new = {(kind, value) for value in unseen}
        if isinstance(seen, range):  # one warning for all that are too large, one for all too small
            new = {(kind, seen.stop if value >= seen.stop else seen.start - 1) for value in unseen}
        if not new - self._reported:
            return
        problem = f"{kind} {_listed(kind, unseen)} is not in the model's training data"
        known = f"{kind} seen: {_listed(kind, seen)}"
        if self._unseen == "refuse":
            raise InputError(problem, where=where, remedy=f"use another model; {known}")
        self._reported |= new
        warnings.warn(f"{where}: {problem}: do not trust the result ({known})", InputWarning, stacklevel=3)


def _seen(kind: str, models: list[Potential]) -> Seen | None:
    """What all of `models` have seen of a kind; None if no card says."""
    known = [values for model in models if (values := model.card.get(CARD[kind]))]
    if not known:
        return None
    if kind == "number of atoms":
        return range(max(least for least, _ in known), min(most for _, most in known) + 1)
    if kind == "element":
        known = [[ELEMENTS.index(symbol) for symbol in symbols] for symbols in known]
    return set.intersection(*map(set, known))


def _check_bound(max_uncertainty: float, model: nn.Module) -> None:
    if not max_uncertainty > 0:
        raise InputError(f"max_uncertainty is {max_uncertainty} eV/Å", remedy="it must be positive")
    if not isinstance(model, Calibrated):
        raise InputError(
            "max_uncertainty is given, but this way to predict has no calibrated uncertainties",
            remedy="use several models or an average over rotations, and calibrate just that with `transip calibrate`",
        )


def _listed(kind: str, values: Seen) -> str:
    if isinstance(values, range):
        return f"{values.start} to {values.stop - 1}"
    formats = {"element": lambda z: ELEMENTS[z], "charge": lambda q: f"{q:+d}"}
    return ", ".join(formats.get(kind, str)(value) for value in sorted(values))
