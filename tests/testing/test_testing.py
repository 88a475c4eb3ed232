"""The conformance kit passes what obeys physics and names what a broken potential breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from ase.calculators.lj import LennardJones

from transip.batch import Batch, Prediction, segment_sum
from transip.errors import InputError
from transip.symmetry.average import with_rotation_average
from transip.symmetry.committee import Committee
from transip.testing import assert_conforms, check_conformance, from_calculator, random_molecule

CUTOFF = 5.0


def atom_energies(batch: Batch, envelope: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Half of a pair potential, Σ_j √z_i z_j exp(−r) · envelope(r), plus what charge and multiplicity add, eV."""
    vectors = batch.positions[:, None] - batch.positions[None]
    pairs = (batch.structure_index[:, None] == batch.structure_index) & ~torch.eye(batch.num_atoms, dtype=torch.bool)
    lengths = torch.where(pairs, vectors.square().sum(-1), 1.0).sqrt()
    weight = batch.numbers.sqrt().to(lengths)
    energies = torch.where(pairs, weight[:, None] * weight * torch.exp(-lengths) * envelope(lengths), 0).sum(1) / 2
    state = 0.1 * batch.charge + 0.03 * batch.charge**2 + 0.01 * (batch.spin - 1)
    return energies.double() + (state / batch.atom_counts)[batch.structure_index].double()


def smooth(lengths: torch.Tensor) -> torch.Tensor:
    return torch.where(lengths < CUTOFF, (1 - lengths / CUTOFF).clamp(min=0) ** 3, 0)


def pair_potential(batch: Batch, envelope: Callable[[torch.Tensor], torch.Tensor] = smooth) -> Prediction:
    """An exactly equivariant, conservative potential with a cutoff."""
    with torch.enable_grad():
        positions = batch.positions if batch.positions.requires_grad else batch.positions.detach().requires_grad_()
        energies = atom_energies(replace(batch, positions=positions), envelope)
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
    return Prediction(segment_sum(energies, batch), energies, -gradient)


def test_a_potential_that_obeys_physics_passes_every_check():
    report = assert_conforms(
        pair_potential, conservative=True, charge_and_spin=True, additive=True, cutoffs=[CUTOFF], seeds=2
    )
    assert report["force rotation error"].measured < 1e-12 and report["energy rotation error"].passed
    assert "ok        permutation" in str(report)


def in_place(batch: Batch) -> Prediction:
    batch.positions.detach().sub_(batch.positions.detach().mean())
    return pair_potential(batch)


def with_forces(change: Callable[[Batch, Prediction], torch.Tensor]) -> Callable[[Batch], Prediction]:
    def potential(batch: Batch) -> Prediction:
        prediction = pair_potential(batch)
        return replace(prediction, forces=prediction.forces + change(batch, prediction))

    return potential


def with_energy(change: Callable[[Batch], torch.Tensor]) -> Callable[[Batch], Prediction]:
    def potential(batch: Batch) -> Prediction:
        prediction = pair_potential(batch)
        return replace(prediction, energy=prediction.energy + change(batch))

    return potential


BROKEN = {  # what is wrong: the potential, and the check that says so
    "a term by the order of atoms": (
        with_energy(lambda b: segment_sum(torch.arange(b.num_atoms) * b.numbers.double(), b)),
        "permutation",
    ),
    "a term by the place in space": (with_energy(lambda b: segment_sum(b.positions[:, 0].double(), b)), "translation"),
    "a term by the size of the batch": (with_energy(lambda b: torch.full((len(b),), float(len(b)))), "batching"),
    "a term by the place in the batch": (with_energy(lambda b: torch.arange(len(b)).double()), "order in batch"),
    "a term by the padding": (with_energy(lambda b: torch.full((len(b),), float(b.max_num_atoms))), "padding"),
    "a term by the other structures": (
        with_energy(lambda b: b.positions.square().sum().double().expand(len(b))),
        "separate structures",
    ),
    "noise": (with_energy(lambda b: torch.rand(len(b))), "determinism"),
    "a constant force": (with_forces(lambda b, p: torch.ones_like(p.forces)), "net force"),
    "scaled forces": (with_forces(lambda b, p: 1e-4 * p.forces), "conservative forces"),
    "infinity": (with_energy(lambda b: 1 / (b.atom_counts - 1).double()), "finite"),
    "energies in float32": (
        lambda b: replace(pair_potential(b), energy=pair_potential(b).atom_energies.float()),
        "shapes",
    ),
    "work in place": (in_place, "input unchanged"),
    "a step at the cutoff": (lambda b: pair_potential(b, lambda r: (r < CUTOFF).to(r)), "smooth cutoffs"),
    "a term by the square of the size": (with_energy(lambda b: b.atom_counts.double() ** 2), "additivity"),
    "charges that forget the total charge": (
        lambda b: replace(pair_potential(b), charges=torch.zeros_like(b.positions[:, 0])),
        "total charge",
    ),
    "no charge": (with_energy(lambda b: -0.1 * b.charge - 0.03 * b.charge**2), "charge and spin"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    potential, broken = BROKEN[name]
    claims = {"conservative": True, "charge_and_spin": True, "additive": True, "cutoffs": [CUTOFF]}
    report = check_conformance(potential, **claims, seeds=1)
    assert broken in {check.name for check in report.failures}, str(report)
    with pytest.raises(AssertionError, match=f"FAILED *{broken}"):
        assert_conforms(potential, **claims, seeds=1)


def test_an_exception_is_a_failure_with_its_message():
    def potential(batch: Batch) -> Prediction:
        raise ZeroDivisionError("of mine")

    report = check_conformance(potential, seeds=1)
    assert not report.passed and "ZeroDivisionError: of mine" in report["permutation"].explanation


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_the_networks_of_this_package_conform(make_model, forces):
    model = make_model(forces=forces)
    report = assert_conforms(model, conservative=forces == "conservative", charge_and_spin=True, seeds=2)
    assert report["force rotation error"].measured > 1e-3  # random weights have learned nothing
    assert report["float32"].measured > 0
    assert next(model.parameters()).dtype == torch.float64 and not model.training  # the original is left alone


def test_charges_conform(charged_model):
    """Alone, in a committee and averaged."""
    for potential in (charged_model, Committee([charged_model, charged_model])):
        report = assert_conforms(potential, conservative=True, seeds=1)
        assert report["total charge"].measured > 0


def test_direct_forces_are_not_conservative(make_model):
    assert not check_conformance(make_model(), conservative=True, seeds=1)["conservative forces"].passed


def test_committees_and_averages_conform(make_model):
    models = [make_model(forces="conservative", seed=seed) for seed in (0, 1)]
    single = check_conformance(models[0], seeds=1)["force rotation error"].measured
    for potential in (Committee(models), with_rotation_average(models[0], 12)):
        assert_conforms(potential, conservative=True, seeds=1)
    averaged = check_conformance(with_rotation_average(models[0], 60), seeds=1)
    assert averaged["force rotation error"].measured < 0.1 * single


def test_an_ase_calculator_is_checked_through_its_adapter():
    potential = from_calculator(LennardJones(rc=CUTOFF, smooth=True))
    report = assert_conforms(potential, conservative=True, additive=True, cutoffs=[CUTOFF], seeds=1)
    assert report["force rotation error"].measured < 1e-9
    abrupt = check_conformance(from_calculator(LennardJones(epsilon=100, rc=CUTOFF)), cutoffs=[CUTOFF], seeds=1)
    assert [check.name for check in abrupt.failures] == ["smooth cutoffs"]


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="no tolerances"):
        check_conformance(pair_potential, dtype=torch.float16)
    with pytest.raises(InputError, match="odd number"):
        random_molecule(3, 0, [1, 7], even_electrons=True)
