"""The applicability domain: what a model was trained on, compared with what it is asked."""

from __future__ import annotations

import warnings
from typing import Literal

from torch import nn

from transip.errors import InputError, InputWarning
from transip.inference.result import Result
from transip.model.calibration import fingerprint
from transip.model.potential import Potential
from transip.model.transformer import GIVE_CUTOFF, NO_CUTOFF
from transip.structure import ELEMENTS, Structure, check_in_vocabulary
from transip.symmetry.committee import Calibrated, calibrations, members

OnUnseen = Literal["warn", "refuse", "ignore"]
OnUncertain = Literal["warn", "refuse"]
Values = set[int] | range
CARD_KEYS = {"element": "elements", "charge": "charges", "multiplicity": "spins", "number of atoms": "sizes"}


class ApplicabilityDomain:
    """Elements, charges, multiplicities and numbers of atoms that a model was trained on, as its card says.

    Of several models, what all were trained on. Kinds of which a card says nothing are not checked.

    Args:
        model: a potential, or a committee or rotational average of some; `periodic` says whether all take cells.
        unseen: warn once about each element, charge, multiplicity or size outside the domain, refuse it, or ignore it.
        max_uncertainty: bound on the uncertainty of each force, eV/Å; None: none.
        uncertain: warn once about each structure beyond the bound, or refuse it.

    Raises:
        InputError: a choice that is none, or a bound for a model without calibrated uncertainties.
    """

    def __init__(
        self,
        model: nn.Module,
        unseen: OnUnseen = "warn",
        max_uncertainty: float | None = None,
        uncertain: OnUncertain = "warn",
    ):
        if unseen not in ("warn", "refuse", "ignore"):
            raise InputError(f"unseen is {unseen!r}", remedy="choose warn, refuse or ignore")
        if uncertain not in ("warn", "refuse"):
            raise InputError(f"uncertain is {uncertain!r}", remedy="choose warn or refuse")
        if max_uncertainty is not None:
            _check_bound(max_uncertainty, model)
        self._on_unseen, self._max_uncertainty, self._on_uncertain = unseen, max_uncertainty, uncertain
        self._trained_on = {kind: _trained_on(kind, members(model)) for kind in CARD_KEYS}
        self.periodic = all(model.settings.cutoff is not None for model in members(model))
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
        if self._on_unseen != "ignore":
            asked = {
                "element": set(structure.numbers.tolist()),
                "charge": {structure.charge},
                "multiplicity": {structure.spin},
                "number of atoms": {len(structure)} if structure.cell is None else set(),  # a cell may be any supercell
            }
            for kind, values in asked.items():
                if (trained := self._trained_on[kind]) is not None:
                    self._report(kind, {value for value in values if value not in trained}, trained, where)
        return structure

    def check_result(self, result: Result, where: str = "") -> Result:
        """Return `result` if no force is more uncertain than the bound, or if that is not refused.

        Raises:
            InputError: one is, and it is refused.
        """
        uncertainty, structure = result.forces_uncertainty, result.structure
        if self._max_uncertainty is None or uncertainty is None or uncertainty.max() <= self._max_uncertainty:
            return result
        where, atom = structure.source or where or structure.formula, int(uncertainty.argmax())
        problem = (
            f"the force on atom {atom} ({ELEMENTS[structure.numbers[atom]]}) is uncertain by {uncertainty[atom]:.3g} "
            f"eV/Å, more than the bound of {self._max_uncertainty:g}"
        )
        if self._on_uncertain == "refuse":
            raise InputError(problem, where=where, remedy="label it and train on it, or raise max_uncertainty")
        if ("uncertain", where) not in self._reported:
            self._reported.add(("uncertain", where))
            warnings.warn(f"{where}: {problem}: do not trust the result", InputWarning, stacklevel=3)
        return result

    def _report(self, kind: str, unseen: set[int], trained: Values, where: str) -> None:
        new = {(kind, value) for value in unseen}
        if isinstance(trained, range):  # one warning for all that are too large, one for all too small
            new = {(kind, trained.stop if value >= trained.stop else trained.start - 1) for value in unseen}
        if not new - self._reported:
            return
        problem = f"{kind} {_listed(kind, unseen)} is not in the model's training data"
        trained_values = f"{kind} seen: {_listed(kind, trained)}"
        if self._on_unseen == "refuse":
            raise InputError(problem, where=where, remedy=f"use another model; {trained_values}")
        self._reported |= new
        warnings.warn(f"{where}: {problem}: do not trust the result ({trained_values})", InputWarning, stacklevel=3)


def _trained_on(kind: str, models: list[Potential]) -> Values | None:
    """What all of `models` have seen of a kind; None if no card says."""
    trained_values = [values for model in models if (values := model.card.get(CARD_KEYS[kind]))]
    if not trained_values:
        return None
    if kind == "number of atoms":
        return range(max(least for least, _ in trained_values), min(most for _, most in trained_values) + 1)
    if kind == "element":
        trained_values = [[ELEMENTS.index(symbol) for symbol in symbols] for symbols in trained_values]
    return set.intersection(*map(set, trained_values))


def _check_bound(max_uncertainty: float, model: nn.Module) -> None:
    if not max_uncertainty > 0:
        raise InputError(f"max_uncertainty is {max_uncertainty} eV/Å", remedy="it must be positive")
    if not isinstance(model, Calibrated):
        names = sorted(fingerprint(member) for member in members(model))
        ways = [f"average={c.rotations}" for c in calibrations(model) if c.members == names and c.rotations > 1]
        raise InputError(
            "max_uncertainty is given, but this way to predict has no calibrated uncertainties",
            remedy=f"this model is calibrated for {' and '.join(ways)}: predict so"
            if ways
            else "use several models or an average over rotations, and calibrate just that with `transip calibrate`",
        )


def _listed(kind: str, values: Values) -> str:
    if isinstance(values, range):
        return f"{values.start} to {values.stop - 1}"
    formats = {"element": lambda z: ELEMENTS[z], "charge": lambda q: f"{q:+d}"}
    return ", ".join(formats.get(kind, str)(value) for value in sorted(values))
