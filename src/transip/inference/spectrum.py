"""Infrared spectra as pictures: lines of harmonic intensities, broadened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from transip.errors import InputError
from transip.files import atomic_path

PICTURES = (".png", ".svg", ".pdf")
MOLAR = 100 / np.log(10)  # L mol⁻¹ cm⁻² of an integrated decadic molar absorption of 1 km/mol
RANGE = 4000.0  # cm⁻¹, shown at least
MAX_PANELS = 50  # of a picture


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The lines of a molecule.

    Attributes:
        name: of the molecule.
        frequencies: cm⁻¹, (modes,); imaginary ones, as negative numbers, absorb nothing.
        intensities: km/mol, (modes,).
    """

    name: str
    frequencies: Float64[np.ndarray, "modes"]
    intensities: Float64[np.ndarray, "modes"]

    def absorption(self, wavenumbers: Float64[np.ndarray, "points"], width: float) -> Float64[np.ndarray, "points"]:
        """Decadic molar absorption coefficient in L mol⁻¹ cm⁻¹ of Lorentzian lines.

        Args:
            wavenumbers: cm⁻¹.
            width: of the lines, full at half maximum, cm⁻¹.
        """
        real = self.frequencies > 0
        offsets = wavenumbers[:, None] - self.frequencies[real]
        lines = (width / 2) / np.pi / (np.square(offsets) + (width / 2) ** 2)
        return MOLAR * lines @ self.intensities[real]


def check_picture(path: Path) -> Path:
    """`path`, which is going to be a picture.

    Raises:
        InputError: its name says that it is something else.
    """
    if path.suffix.lower() not in PICTURES:
        raise InputError("is going to be a picture", where=str(path), remedy=f"give it a name in {', '.join(PICTURES)}")
    return path


def draw_spectra(target: Path, spectra: Sequence[Spectrum], width: float) -> None:
    """Write a picture with one spectrum below the other, wavenumbers falling from left to right as usual."""
    from matplotlib.figure import Figure

    spectra = spectra[:MAX_PANELS]
    end = max([RANGE, *(1.05 * max(s.frequencies, default=0.0) for s in spectra)])
    wavenumbers = np.arange(0.0, end, min(1.0, width / 10))
    figure = Figure(figsize=(7, 0.6 + 2 * len(spectra)), layout="constrained")
    panels = figure.subplots(len(spectra), sharex=True, squeeze=False)[:, 0]
    for axes, spectrum in zip(panels, spectra, strict=True):
        axes.plot(wavenumbers, spectrum.absorption(wavenumbers, width), linewidth=1, color="black")
        axes.vlines(spectrum.frequencies, 0, 2 * MOLAR / (np.pi * width) * spectrum.intensities, color="C1")
        axes.set_title(spectrum.name, loc="left", fontsize="medium", parse_math=False)
        axes.set(xlim=(end, 0), ylim=(0, None))
    figure.supylabel("molar absorption coefficient, L mol⁻¹ cm⁻¹", fontsize="medium")
    panels[-1].set_xlabel("wavenumber, cm⁻¹")
    with atomic_path(target) as partial:
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=200)
