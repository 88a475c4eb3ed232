"""Boxes that are repeated are the same liquid, and exponents are those of power laws."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from benchmarks.throughput.cases import neutral, repeated
from benchmarks.throughput.growth import exponent


def test_repeated_box_is_the_same_crystal() -> None:
    cell = np.diag([3.0, 4.0, 5.0])
    box = neutral(np.array([8, 1, 1]), np.random.default_rng(0).random((3, 3)) @ cell, cell)
    more = repeated(box, (2, 3, 1))
    assert more.cell is not None and np.allclose(np.diag(more.cell), [6, 12, 5]) and len(more) == 18
    one, six = KDTree(box.positions, boxsize=np.diag(cell)), KDTree(more.positions, boxsize=np.diag(more.cell))
    assert six.count_neighbors(six, 1.4) == 6 * one.count_neighbors(one, 1.4)


def test_exponent_of_a_power_law() -> None:
    rows = [{"atoms": atoms, "milliseconds": 3 * atoms**1.5} for atoms in (1000, 5000, 20000)]
    assert exponent(rows, "milliseconds") == pytest.approx(1.5)
    assert exponent(rows, "memory_mb") is None and exponent(rows[:1], "milliseconds") is None
