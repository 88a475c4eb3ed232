"""A potential with charges that no training has to give: any model with charges must pass what it passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transip.batch import Batch, Prediction, dipole_moment, segment_mean
from transip.model.potential import Potential


class ChargedPotential(Potential):
    """Charges follow from the atoms' energies, hence from the geometry and, as learned ones do, from orientation."""

    has_charges = has_spin_populations = True  # type: ignore[assignment]

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        """Charges sum to the total charge, spin populations to the number of unpaired electrons."""
        prediction = super().forward(batch, layers)
        values = prediction.atom_energies.to(batch.positions)
        deviations = values - segment_mean(values, batch)[batch.structure_index]
        charge, unpaired = (
            (total / batch.atom_counts)[batch.structure_index].to(values) for total in (batch.charge, batch.spin - 1)
        )
        charges = charge + deviations
        dipole = dipole_moment(charges, batch)
        return replace(prediction, charges=charges, spin_populations=unpaired + deviations / 2, dipole=dipole)
