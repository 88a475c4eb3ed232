"""What a model predicts of one structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from transip.batch import Prediction
from transip.errors import InputError
from transip.structure import LABELS, Structure


@dataclass(frozen=True, eq=False)
class Result:
    """A structure and what a model predicts of it.

    Spreads come from an average over rotations or models only, uncertainties from a calibrated one.

    Attributes:
        structure: what was asked about; labels that it may have are not the model's.
        energy: total energy in eV.
        forces: eV/Å, (atoms, 3).
        atom_energies: contribution of each atom to the energy in eV, (atoms,).
        stress: ∂E/∂ε / V in eV/Å³, (3, 3); None of direct forces and where not all three directions are periodic.
        charges: partial charges in e, (atoms,); like the two below, None from models that have none.
        spin_populations: unpaired electrons of each atom, (atoms,).
        dipole: e·Å, (3,), of an ion about its centre of mass; None of what is periodic.
        energy_std: standard deviation of the energy over models and rotations, eV.
        forces_std: root mean square deviation of each atom's force over models and rotations, eV/Å, (atoms,).
        energy_uncertainty: eV; 68 % of errors were smaller on molecules not seen in training.
        forces_uncertainty: eV/Å, (atoms,); likewise of the length of each force's error.
    """

    structure: Structure
    energy: float
    forces: Float64[np.ndarray, "atoms 3"]
    atom_energies: Float64[np.ndarray, "atoms"]
    stress: Float64[np.ndarray, "3 3"] | None = None
    charges: Float64[np.ndarray, "atoms"] | None = None
    spin_populations: Float64[np.ndarray, "atoms"] | None = None
    dipole: Float64[np.ndarray, "3"] | None = None
    energy_std: float | None = None
    forces_std: Float64[np.ndarray, "atoms"] | None = None
    energy_uncertainty: float | None = None
    forces_uncertainty: Float64[np.ndarray, "atoms"] | None = None

    def __len__(self) -> int:
        return len(self.structure)

    @property
    def largest_force(self) -> float:
        """eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    @property
    def spreads(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Spreads and uncertainties that there are: those of the structure, those of its atoms."""
        names = ("energy_std", "energy_uncertainty"), ("forces_std", "forces_uncertainty")
        info, columns = ({n: v for n in group if (v := getattr(self, n)) is not None} for group in names)
        if self.forces_uncertainty is not None:
            info["max_force_uncertainty"] = float(self.forces_uncertainty.max())
        return info, columns

    def to_structure(self) -> Structure:
        """The structure with the predictions in the place of its labels."""
        return replace(self.structure, **{name: getattr(self, name) for name in LABELS})

    def check_finite(self) -> Result:
        """Return self if energy and forces are numbers.

        Raises:
            InputError: NaN or infinity.
        """
        if not (np.isfinite(self.energy) and np.isfinite(self.forces).all()):
            raise InputError(
                "the model's energy or forces are not finite",
                where=self.structure.source or self.structure.formula,
                remedy="the geometry is far from what the model was trained on, or the model is damaged",
            )
        return self


def unbatch(structures: Sequence[Structure], prediction: Prediction) -> list[Result]:
    """The `Result` of each of `structures` from the prediction of a batch of them; not checked to be finite."""
    ends = np.cumsum([len(structure) for structure in structures])[:-1]
    columns = {
        name: _split(value, ends, name)
        for name, value in vars(prediction).items()
        if name in Result.__dataclass_fields__ and value is not None
    }
    return [
        Result(structure, **dict(zip(columns, row, strict=True)))
        for structure, *row in zip(structures, *columns.values(), strict=True)
    ]


def _split(values: Tensor, ends: np.ndarray, name: str) -> Sequence[Any]:
    if name.startswith("energy"):
        return values.tolist()
    array = values.double().cpu().numpy()
    if name in ("stress", "dipole"):  # not a number where it is not defined
        return [None if np.isnan(value).any() else value for value in array]
    return np.split(array, ends)
