"""Learned symmetry: the latent loss, equivariance errors, rotational averages and committees.

`rotation_error` and `RotationAveragedCalculator` take any ASE calculator, `measure_symmetry` and `RotationEnsemble` any
callable that maps a `Batch` to a `Prediction`.
"""

from transip.symmetry.any_calculator import RotationAveragedCalculator, rotation_error
from transip.symmetry.average import RotationEnsemble
from transip.symmetry.measure import measure_symmetry

__all__ = ["RotationAveragedCalculator", "RotationEnsemble", "measure_symmetry", "rotation_error"]
