"""Energy and forces of atoms as they move: what a simulation program asks for at every step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from transip.inference.domain import ApplicabilityDomain, OnUnseen
from transip.inference.predict import Precision, build_predictor, forward_structures, load_for_inference
from transip.inference.result import Result, unbatch
from transip.model.potential import Potential
from transip.structure import Structure, parse_int


class SinglePointPredictor:
    """Positions and lattice vectors in, energy and forces out; elements, charge and multiplicity stay as they are.

    The network is loaded once; every call is one forward pass, the same as that of `TransIPCalculator`.

    Args:
        model: folder or name of a model, or a model in memory (copied).
        numbers: atomic numbers, (atoms,).
        charge: total charge in e.
        spin: multiplicity 2S + 1.
        cell: lattice vectors in Å, (3, 3), as in `Structure`; None for a molecule.
        device: a torch device, such as ``"cuda"``.
        dtype: precision of the network; total energies are summed in float64 either way.
        unseen: what to do about elements, charges and multiplicities that the model was not trained on.
        average: predict in this many orientations and average; see `TransIPCalculator`.

    Raises:
        InputError: the model cannot be loaded, charge or spin is missing or cannot be, there is a cell and the model
            has no cutoff, or unseen and refused.
    """

    def __init__(
        self,
        model: str | Path | Potential,
        numbers: Any,
        *,
        charge: int | None,
        spin: int | None,
        cell: Float64[np.ndarray, "3 3"] | None = None,
        device: Any = "cpu",
        dtype: Precision = "float32",
        unseen: OnUnseen = "warn",
        average: int | None = None,
    ):
        self.model = load_for_inference(model, device, dtype)
        self._predictor = build_predictor(self.model, average)
        numbers = np.asarray(numbers, dtype=np.int64)
        dummy_positions = np.arange(3.0 * len(numbers)).reshape(-1, 3)  # all but positions is checked here
        self._structure = Structure(
            numbers,
            dummy_positions,
            parse_int(charge, "charge", "simulation"),
            parse_int(spin, "spin", "simulation"),
        ).check("simulation")
        ApplicabilityDomain(self.model, unseen).check(replace(self._structure, cell=cell), "simulation")

    def __call__(
        self, positions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"] | None = None
    ) -> Result:
        """Energy (eV), forces (eV/Å) and, of a cell, stress (eV/Å³) where the model has one.

        Args:
            positions: Å, in any periodic image.
            cell: as above, now.

        Raises:
            InputError: positions or results are not finite, or atoms overlap: the simulation broke down.
        """
        positions = np.array(positions, dtype=np.float64)
        structure = replace(self._structure, positions=positions, cell=cell).check("simulation")
        (result,) = unbatch([structure], forward_structures(self._predictor, [structure]))
        return result.check_finite()
