"""The benchmark of pairs: its scans are what they say, and it finds the errors that a method has and no others."""

from itertools import pairwise

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from scipy.spatial.distance import cdist

from benchmarks.pairs.run import measure, summary
from benchmarks.pairs.scans import DESIGNS, gfn2, read_scans
from transip.labels.pairs import SEPARATED
from transip.labels.sources import HELD_OUT_PAIRS

SCANS = {scan.name: scan for scan in read_scans()}


class Nothing(Calculator):
    """No energy and no force, but a number of eV per molecule of more than `beyond` atoms."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, shift: float = 0.0, beyond: int = 0):
        super().__init__()
        self.shift, self.beyond = shift, beyond

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy = self.shift if len(self.atoms) > self.beyond else 0.0
        self.results = {"energy": energy, "forces": np.zeros((len(self.atoms), 3))}


def test_the_pairs_are_those_that_no_domain_draws():
    assert list(SCANS) == list(DESIGNS)
    for design in DESIGNS.values():
        assert {design.first.smiles, design.second.smiles} in HELD_OUT_PAIRS
    assert len(SCANS) == len(HELD_OUT_PAIRS)


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_scans_are_of_rigid_members_from_contact_to_twelve_angstrom(scan):
    first = len(scan.numbers[0])
    for point in scan.points:
        pair = scan.together(point.shift)
        assert cdist(pair.positions[:first], pair.positions[first:]).min() == pytest.approx(point.distance, abs=1e-5)
        np.testing.assert_allclose(np.ptp(pair.positions[first:], axis=0), np.ptp(scan.alone(1).positions, axis=0))
    assert scan.points[0].distance <= 2.5
    assert 11.5 < scan.points[-1].distance <= 12


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_forces_are_the_derivatives_of_the_energies(scan):
    """By the trapezoidal rule, between neighbours that are not far apart."""
    points = [point for point in scan.points if scan.has_label(point)]
    for here, after in pairwise(points):
        if here.distance > 1.8 and (step := after.shift - here.shift) < 0.3:
            assert after.energy - here.energy == pytest.approx(-step * (here.force + after.force) / 2, abs=0.01)


def test_labels_of_separated_ions_have_whole_charges():
    for scan in SCANS.values():
        separated = [point for point in scan.points if point.distance > SEPARATED]
        assert separated
        for point in separated:
            assert not scan.has_label(point) or abs(point.charge - scan.charges[0]) <= 0.1
    assert not any(SCANS["Na+ Cl-"].has_label(p) for p in SCANS["Na+ Cl-"].points if p.distance > SEPARATED)


def test_coulombs_law_holds_between_separated_ions_that_keep_their_charges():
    scan = SCANS["NH4+ PF6-"]
    for point in scan.points:
        if point.distance > SEPARATED:
            energy, force = scan.coulomb(point.shift)
            assert force == pytest.approx(point.force, abs=1.5e-3)
            assert energy == pytest.approx(point.energy - sum(scan.energies), abs=0.03)


@pytest.mark.parametrize("name", ["water dimer", "Na+ Cl-"])
def test_the_reference_method_itself_has_no_errors(name):
    pytest.importorskip("tblite")
    scan = SCANS[name]
    scan = type(scan)(
        **{**vars(scan), "points": scan.points[:4] + [p for p in scan.points[4:] if scan.has_label(p)][-3:]}
    )
    found = measure(scan, gfn2)
    assert found["largest_deviation"] < 1e-4
    assert found["largest_deviation_from_far"] < 1e-4
    assert found["force_mae_separated"] is None or found["force_mae_separated"] < 1e-4
    assert found["minimum"]["distance"] == found["reference_minimum"]["distance"]


def test_a_method_without_interaction_is_off_by_the_interaction():
    scan = SCANS["formamide dimer"]
    found = measure(scan, lambda atoms: Nothing())
    reference, forces = (np.array(found[f"reference_{key}"]) for key in ("interaction", "force"))
    assert found["largest_deviation"] == pytest.approx(np.abs(reference).max(), abs=1e-5)
    separated = np.array(found["distances"]) > SEPARATED
    assert found["force_mae_separated"] == pytest.approx(np.abs(forces[separated]).mean(), abs=1e-5)
    assert found["reference_minimum"]["energy"] == pytest.approx(reference.min(), abs=1e-5)
    assert found["force_mae_coulomb"] is None  # nothing is charged


def test_an_error_of_pairs_but_not_of_members_is_seen_at_all_distances():
    scan = SCANS["water dimer"]
    right, wrong = (measure(scan, lambda atoms, x=x: Nothing(x, beyond=3)) for x in (0.0, 1.0))
    assert wrong["largest_deviation_from_far"] == pytest.approx(right["largest_deviation_from_far"])
    assert wrong["largest_deviation"] == pytest.approx(right["largest_deviation"] + 1, abs=0.3)
    assert summary({"water dimer": wrong, "Na+ Cl-": measure(SCANS["Na+ Cl-"], lambda atoms: Nothing())})[
        "ionic"
    ].keys() == {"force_mae_coulomb", "largest_deviation", "largest_deviation_from_far"}
