"""What is measured of a potential: under which key it is stored, in eV and Å, and how people read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ase.units import Debye

MISSING = "–"


@dataclass(frozen=True)
class MetricSpec:
    """A number in a log, an evaluation or a model's card.

    Attributes:
        key: under which it is stored.
        name: for people.
        unit: in which it is shown; empty: none.
        factor: of what is shown to what is stored.
        digits: decimals of `text`.
    """

    key: str
    name: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 0

    @property
    def label(self) -> str:
        """Of an axis, or of a row: ``Force MAE (meV/Å)``."""
        name = self.name[:1].upper() + self.name[1:]
        return f"{name} ({self.unit})" if self.unit else name

    @property
    def heading(self) -> str:
        """Of a column: ``force MAE, meV/Å``."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def value(self, stored: Mapping[str, Any]) -> float | None:
        """The number in `unit`; None if it is not among what is `stored`."""
        value = stored.get(self.key)
        return self.factor * value if isinstance(value, int | float) else None

    def text(self, stored: Mapping[str, Any]) -> str:
        """The number without its unit; a dash if it is not there."""
        value = self.value(stored)
        return MISSING if value is None else f"{value:,.{self.digits}f}"

    def with_unit(self, stored: Mapping[str, Any]) -> str:
        """The number and its unit: ``36.7 meV/Å``."""
        return f"{self.text(stored)} {self.unit}".rstrip()


FORCE_MAE = MetricSpec("force_mae", "force MAE", "meV/Å", 1e3, 1)
ENERGY_MAE = MetricSpec("energy_mae_per_atom", "energy MAE", "meV/atom", 1e3, 2)
FORCE_COSINE = MetricSpec("force_cosine", "force cosine", digits=3)
EFWT = MetricSpec("efwt", "EFwT", "%", 100.0, 1)
ROTATION_ERROR = MetricSpec("force_rotation_error", "force rotation error", "meV/Å", 1e3, 1)
ROTATION_SPREAD = MetricSpec("energy_rotation_spread_per_atom", "energy rotation spread", "meV/atom", 1e3, 2)
CHARGE_MAE = MetricSpec("charge_mae", "charge MAE", "10⁻³ e", 1e3, 1)
SPIN_POPULATION_MAE = MetricSpec("spin_population_mae", "spin population MAE", "10⁻³", 1e3, 1)
DIPOLE_MAE = MetricSpec("dipole_mae", "dipole MAE", "D", 1 / Debye, 3)  # stored in e·Å
STRESS_MAE = MetricSpec("stress_mae", "stress MAE", "meV/Å³", 1e3, 2)
REFERENCES = (
    MetricSpec("charge", "reference energy of a charge", "eV", digits=2),
    MetricSpec("unpaired_electrons", "reference energy of an unpaired electron", "eV", digits=2),
    MetricSpec("charge_squared", "reference energy of a squared charge", "eV", digits=2),
    MetricSpec("reference_mae_per_atom", "energy MAE of the references", "meV/atom", 1e3, 1),
    MetricSpec("element_reference_mae_per_atom", "energy MAE of references of elements alone", "meV/atom", 1e3, 1),
)
STRUCTURES = MetricSpec("structures", "structures")
STEPS = MetricSpec("step", "optimiser steps")
PASSES = MetricSpec("forward_passes", "forward passes", "structures")
ATOMS_PROCESSED = MetricSpec("atoms_processed", "atoms processed")
MINUTES = MetricSpec("time_s", "training time", "min", 1 / 60, 1)
