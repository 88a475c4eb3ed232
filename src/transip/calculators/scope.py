"""What a model was trained on, held against what it is asked."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from torch import nn

from transip.errors import InputError, InputWarning
from transip.model.embedding import MAX_CHARGE, MAX_SPIN
from transip.structure import ELEMENTS, Structure

Unseen = Literal["warn", "refuse", "ignore"]


class Scope:
    """Elements, total charges and multiplicities that a model has seen in training, as its card says.

    Args:
        model: a potential; without ``card`` entries nothing is known and only hard limits are checked.
        unseen: warn once about each element, charge or multiplicity outside the scope, refuse it, or ignore it.
    """

    def __init__(self, model: nn.Module, unseen: Unseen = "warn"):
        if unseen not in ("warn", "refuse", "ignore"):
            raise InputError(f"unseen is {unseen!r}", remedy="choose warn, refuse or ignore")
        card: dict[str, Any] = getattr(model, "card", {})
        self._unseen = unseen
        self._seen = {
            "element": {ELEMENTS.index(symbol) for symbol in card.get("elements", ())},
            "charge": set(card.get("charges", ())),
            "multiplicity": set(card.get("spins", ())),
        }
        self._reported: set[tuple[str, int]] = set()

    def check(self, structure: Structure, where: str = "structure") -> Structure:
        """Return `structure` if the model may be asked about it.

        Raises:
            InputError: charge or multiplicity beyond what any model can represent, or something unseen is refused.
        """
        where = structure.source or where
        if abs(structure.charge) > MAX_CHARGE or structure.spin > MAX_SPIN:
            raise InputError(
                f"charge {structure.charge:+d} with multiplicity {structure.spin} cannot be represented",
                where=where,
                remedy=f"models take charges from {-MAX_CHARGE} to {MAX_CHARGE} and multiplicities up to {MAX_SPIN}",
            )
        if self._unseen != "ignore":
            asked = {
                "element": set(structure.numbers.tolist()),
                "charge": {structure.charge},
                "multiplicity": {structure.spin},
            }
            for kind, values in asked.items():
                if self._seen[kind]:
                    self._report(kind, values - self._seen[kind], where)
        return structure

    def _report(self, kind: str, unseen: set[int], where: str) -> None:
        new = {(kind, value) for value in unseen} - self._reported
        if not new:
            return
        problem = f"{kind} {_listed(kind, unseen)} is not in the model's training data"
        known = f"{kind} seen: {_listed(kind, self._seen[kind])}"
        if self._unseen == "refuse":
            raise InputError(problem, where=where, remedy=f"use another model; {known}")
        self._reported |= new
        warnings.warn(f"{where}: {problem}: do not trust the result ({known})", InputWarning, stacklevel=3)


def _listed(kind: str, values: set[int]) -> str:
    formats = {"element": lambda z: ELEMENTS[z], "charge": lambda q: f"{q:+d}", "multiplicity": str}
    return ", ".join(formats[kind](value) for value in sorted(values))
