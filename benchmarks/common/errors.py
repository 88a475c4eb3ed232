"""Errors of a model in the units in which results keep them: meV and Å."""

from collections.abc import Mapping
from typing import Any

from transip.quantities import ENERGY_MAE, FORCE_COSINE, FORCE_MAE, ROTATION_ERROR, ROTATION_SPREAD

KEYS = {
    FORCE_MAE: "force_mae_mev_per_angstrom",
    ENERGY_MAE: "energy_mae_mev_per_atom",
    FORCE_COSINE: "force_cosine",
    ROTATION_ERROR: "force_rotation_error_mev_per_angstrom",
    ROTATION_SPREAD: "energy_rotation_spread_mev_per_atom",
}


def errors_in_mev(*metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """What `metrics` (eV and Å, as `transip` measures them) hold of errors of energies, forces and symmetry."""
    stored = {key: value for found in metrics if found for key, value in found.items()}
    errors = {key: quantity.value(stored) for quantity, key in KEYS.items()}
    return {key: value for key, value in errors.items() if value is not None}
