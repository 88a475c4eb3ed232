"""What an evaluation found: held in memory, written to a run folder, read back, printed."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import GPa
from rich.table import Table
from rich.text import Text

from transip.errors import InputError
from transip.files import atomic_path, read_json, write_json
from transip.metrics.errors import METRICS, Metrics
from transip.quantities import (
    CHARGE_MAE,
    DIPOLE_MAE,
    EFWT,
    ENERGY_MAE,
    FORCE_COSINE,
    FORCE_MAE,
    ROTATION_ERROR,
    ROTATION_SPREAD,
    SPIN_POPULATION_MAE,
    STRESS_MAE,
    STRUCTURES,
)

FORMAT = 1
METRICS_FILE, PREDICTIONS_FILE = "evaluation.json", "predictions.npz"
SECTIONS = ("overall", "domains", "symmetry", "cost")  # of evaluation.json
NO_DOMAIN = "(no domain)"
EFWT_IS = "EFwT: share of structures whose energy is within 20 meV and each force component within 30 meV/Å."
COLUMNS = (STRUCTURES, ENERGY_MAE, FORCE_MAE, FORCE_COSINE, EFWT)
CHARGES = (CHARGE_MAE, SPIN_POPULATION_MAE, DIPOLE_MAE)
ROTATION_ERRORS = ("energy_rotation_spread", "energy_rotation_spread_per_atom", "force_rotation_error")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors, symmetry and cost of a potential on a dataset.

    Attributes:
        overall: metrics of all structures; see `transip.metrics.errors.reduce_metrics`.
        domains: the same per chemical domain.
        symmetry: rotation errors; see `transip.symmetry.measure.measure_symmetry`; None if not measured.
        cost: structures and atoms predicted, seconds, atoms per second, hardware and versions.
        predictions: arrays in the dataset's order. In the form of the OMol25 leaderboard: ``ids``, ``natoms``
            (structures,), ``energy`` in eV (structures,), ``forces`` in eV/Å (atoms, 3). Besides these ``domain``,
            ``reference_energy``, ``reference_forces``, ``numbers`` and ``positions`` in Å.
    """

    overall: Metrics
    domains: dict[str, Metrics]
    symmetry: dict[str, Any] | None
    cost: dict[str, Any]
    predictions: dict[str, np.ndarray]

    def write(self, folder: str | Path) -> None:
        """Write evaluation.json and predictions.npz into `folder`, each complete or not at all."""
        folder = Path(folder)
        with atomic_path(folder / PREDICTIONS_FILE) as partial, partial.open("wb") as handle:
            np.savez(handle, **self.predictions)  # type: ignore[arg-type]
        sections = {name: getattr(self, name) for name in SECTIONS}
        write_json(folder / METRICS_FILE, {"format": FORMAT, **sections})

    @classmethod
    def read(cls, folder: str | Path) -> Evaluation:
        """Read what `write` has written.

        Raises:
            InputError: a file is missing, truncated, of a newer format or not an evaluation.
        """
        source = Path(folder) / METRICS_FILE
        values = read_json(source)
        _check_sections(values, source)
        sections = {name: values[name] for name in SECTIONS}
        return cls(**sections, predictions=_read_predictions(Path(folder) / PREDICTIONS_FILE))

    @property
    def relative_rotation_error(self) -> float | None:
        """Force rotation error divided by the force MAE; None if symmetry was not measured."""
        if self.symmetry is None or not self.overall["force_mae"]:
            return None
        return self.symmetry["force_rotation_error"] / self.overall["force_mae"]

    def table(self) -> Table:
        """A table for the terminal: a row per domain in meV/atom and meV/Å, the rotation errors below it."""
        columns = [metric for metric in COLUMNS if metric is not EFWT or self.overall[EFWT.key]]
        caption = [self._symmetry_line(), EFWT_IS if EFWT in columns else ""]
        if (stress := self.overall.get(STRESS_MAE.key)) is not None:
            caption.append(f"Stress MAE {STRESS_MAE.with_unit(self.overall)} ({stress / GPa:.3f} GPa).")
        charges = [metric for metric in CHARGES if metric.key in self.overall]
        caption.append(", ".join(f"{metric.label}: {metric.text(self.overall)}" for metric in charges))
        table = Table(title="Errors", caption="\n".join(filter(None, caption)), caption_justify="left")
        table.add_column("domain", no_wrap=True)
        for metric in columns:
            table.add_column(f"{metric.name}\n{metric.unit}".rstrip(), justify="right", no_wrap=True)
        for domain, values in self.domains.items():
            table.add_row(Text(domain or NO_DOMAIN), *(metric.text(values) for metric in columns))
        table.add_section()
        table.add_row("all", *(metric.text(self.overall) for metric in columns), style="bold")
        return table

    def _symmetry_line(self) -> str:
        if self.symmetry is None:
            return "Symmetry was not measured."
        relative = self.relative_rotation_error
        ratio = "" if relative is None else f" ({relative:.2f} × the force MAE)"
        return (
            f"Force rotation error {ROTATION_ERROR.with_unit(self.symmetry)}{ratio}; "
            f"energy rotation spread {ROTATION_SPREAD.with_unit(self.symmetry)}."
        )


def _check_sections(values: Any, source: Path) -> None:
    readable = isinstance(values, dict) and isinstance(values.get("format"), int)
    if readable and values["format"] > FORMAT:
        raise InputError(
            f"has format {values['format']}, newer than format {FORMAT} that this transip reads",
            where=str(source),
            remedy="upgrade transip",
        )
    try:
        tables = [values["overall"], *values["domains"].values()]
        numbers = [table[name] for table in tables for name in METRICS]
        if values["symmetry"] is not None:
            numbers += [values["symmetry"][name] for name in ROTATION_ERRORS]
            numbers += [layer["invariant_share"] for layer in values["symmetry"]["layers"]]
        if not all(isinstance(number, int | float) for number in numbers) or not isinstance(
            values["cost"].get("versions", {}), dict
        ):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            "is not an evaluation by transip", where=str(source), remedy="write it again with `transip evaluate`"
        ) from None


def _read_predictions(source: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(source) as archive:
            arrays = {name: archive[name] for name in archive.files}
        atoms, structures = int(arrays["natoms"].sum()), len(arrays["ids"])
        shapes = dict.fromkeys(("forces", "reference_forces", "positions"), (atoms, 3))
        shapes |= dict.fromkeys(("natoms", "energy", "reference_energy", "domain"), (structures,))
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    except FileNotFoundError:
        raise InputError("is missing", where=str(source), remedy="write it with `transip evaluate`") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"is truncated or corrupt ({error})", where=str(source), remedy="write it again with `transip evaluate`"
        ) from error
    return arrays
