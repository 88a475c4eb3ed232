"""Committees, what they and rotational averages have in common, and what their spread is made to say of errors."""

import copy

import numpy as np
import pytest
import torch

from transip.batch import Batch, segment_sum
from transip.errors import InputError
from transip.model.calibration import LEVELS, Calibration, SpreadToError, fingerprint
from transip.symmetry.average import RotationEnsemble, rotation_set, with_rotation_average
from transip.symmetry.committee import Calibrated, Committee, calibrated, num_rotations, predictor_key

F64 = torch.float64
FIELDS = ("energy", "atom_energies", "forces", "energy_std", "forces_std")


@pytest.fixture
def models(make_model):
    return [make_model(forces="conservative", seed=seed) for seed in (0, 1, 2)]


@pytest.fixture
def batch(make_structure) -> Batch:
    return Batch.collate([make_structure(count, seed) for seed, count in enumerate((4, 1, 7))], F64)


def test_copies_of_one_model_agree(models, batch):
    found, single = Committee([models[0]] * 3)(batch), models[0](batch)
    torch.testing.assert_close(found.energy, single.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, single.forces, rtol=0, atol=1e-9)
    assert found.energy_std.max() < 1e-9 and found.forces_std.max() < 1e-9


def test_mean_and_spread_of_two(models, batch):
    found, (a, b) = Committee(models[:2])(batch), (model(batch) for model in models[:2])
    torch.testing.assert_close(found.energy, (a.energy + b.energy) / 2, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.atom_energies, (a.atom_energies + b.atom_energies) / 2, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, (a.forces + b.forces) / 2, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.energy_std, (a.energy - b.energy).abs() / 2**0.5)
    torch.testing.assert_close(found.forces_std, (a.forces - b.forces).norm(dim=-1) / 2**0.5)
    assert found.energy_std.min() > 1e-3


def test_mean_forces_are_the_derivative_of_the_mean_energy(models, batch):
    model = Committee(models)
    forces = model(batch).forces
    direction = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    ahead, behind = (
        model(Batch(**(vars(batch) | {"positions": batch.positions + step * direction}))).energy
        for step in (1e-4, -1e-4)
    )
    expected = -segment_sum((forces * direction).sum(-1), batch)
    torch.testing.assert_close((ahead - behind) / 2e-4, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", [None, 5])
def test_a_batch_is_its_structures_one_by_one(models, make_structure, average):
    structures = [make_structure(count, seed) for seed, count in enumerate((4, 1, 7))]
    model = with_rotation_average(Committee(models), average)
    together = model(Batch.collate(structures, F64))
    alone = [model(Batch.collate([structure], F64)) for structure in structures]
    for name in FIELDS:
        parts = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), parts, rtol=0, atol=1e-7)


def test_a_committee_in_many_orientations_is_one_mean(models, batch):
    """The total variance: that between rotations of the mean, and within each of them that between models."""
    rotations = rotation_set(4)
    found = RotationEnsemble(Committee(models), rotations)(batch)
    singles = [RotationEnsemble(model, rotations)(batch) for model in models]
    for name in FIELDS[:3]:
        mean = torch.stack([getattr(one, name) for one in singles]).mean(0)
        torch.testing.assert_close(getattr(found, name), mean, rtol=0, atol=1e-8)
    views = torch.stack([RotationEnsemble(Committee(models), rotations)._rotated(batch, rotations).energy]).squeeze(0)
    within = torch.stack(
        [
            torch.stack([model_energy(model, batch, rotation) for model in models]).var(0, unbiased=True)
            for rotation in rotations
        ]
    ).mean(0)
    torch.testing.assert_close(found.energy_std, (views.var(0, unbiased=True) + within).sqrt(), rtol=1e-6, atol=0)
    assert num_rotations(RotationEnsemble(Committee(models), rotations)) == 4 and num_rotations(models[0]) == 1


def model_energy(model, batch, rotation):
    turned = batch.positions @ rotation.mT
    return model(Batch(**(vars(batch) | {"positions": turned}))).energy


def test_a_committee_needs_two_of_one_level_of_theory(make_model):
    a, b = (copy.deepcopy(make_model(seed=seed)) for seed in (0, 1))
    with pytest.raises(InputError, match="a committee of 1"):
        Committee([a])
    a.card["level_of_theory"], b.card["level_of_theory"] = "GFN2-xTB", "B3LYP"
    with pytest.raises(InputError, match="different levels of theory cannot be averaged: B3LYP, GFN2-xTB"):
        Committee([a, b])
    del b.card["level_of_theory"]
    Committee([a, b])  # who knows


def test_embeddings_have_no_mean(models, batch):
    with pytest.raises(InputError, match="no embeddings"):
        Committee(models)(batch, (0,))


# ------------------------------------------------------------------------------------------ from spreads to errors


@pytest.mark.parametrize(("factor", "exponent"), [(2.0, 1.0), (0.5, 0.6), (3.0, 0.0)])
def test_a_known_relation_is_recovered(factor, exponent):
    """Normal errors whose width is factor · spread^exponent; 68 % of a normal distribution is within 0.994 widths."""
    generator = np.random.default_rng(0)
    spread = generator.lognormal(-2, 1, size=(2, 20_000))
    error = np.abs(generator.normal(size=spread.shape)) * factor * spread**exponent
    found = SpreadToError.fit(spread[0], error[0]).with_test_scores(spread[1], error[1])
    assert abs(found.exponent - exponent) < 0.02 and abs(found.factor / (0.994 * factor) - 1) < 0.05
    for level in LEVELS:
        assert abs(found.coverage[str(level)] - level) < 1
    assert abs(found.multiples["95"] - 1.96 / 0.994) < 0.05 and found.multiples["68"] == 1
    assert (found.spearman > 0.3) == (exponent > 0)
    torch.testing.assert_close(found(torch.from_numpy(spread[0])).numpy(), found(spread[0]))


def test_spreads_that_say_nothing():
    with pytest.raises(InputError, match="all spreads are the same"):
        SpreadToError.fit(np.full(9, 0.1), np.linspace(0.1, 1, 9))
    with pytest.raises(InputError, match="all spreads are the same"):
        SpreadToError.fit(np.zeros(9), np.linspace(0.1, 1, 9))
    backwards = SpreadToError.fit(np.linspace(0.1, 1, 9), np.linspace(1, 0.1, 9))
    assert backwards.exponent == 0  # an uncertainty never falls as the spread rises


# ------------------------------------------------------------------------------------------ whose calibration


def calibration_of(model, factor: float) -> dict:
    members, rotations = predictor_key(model)
    fitted = SpreadToError(factor=factor, exponent=1.0, multiples={"68": 1.0})
    return Calibration(members=members, rotations=rotations, energy=fitted, forces=fitted, structures=9).model_dump()


def test_a_calibration_is_found_by_just_what_it_was_measured_with(models, batch):
    models = [copy.deepcopy(model) for model in models]
    committee, average = Committee(models), with_rotation_average(models[0], 12)
    models[0].card["calibrations"] = [calibration_of(committee, 3.0), calibration_of(average, 5.0)]
    for model, factor in ((committee, 3.0), (average, 5.0), (Committee(models[::-1]), 3.0)):
        found = calibrated(model)
        assert isinstance(found, Calibrated)
        prediction = found(batch)
        torch.testing.assert_close(prediction.energy_uncertainty, factor * prediction.energy_std)
        torch.testing.assert_close(prediction.forces_uncertainty, factor * prediction.forces_std)
        torch.testing.assert_close(prediction.forces, model(batch).forces, rtol=0, atol=0)
    for other in (
        models[0],
        with_rotation_average(models[0], 24),
        with_rotation_average(committee, 12),
        Committee(models[:2]),
        models[1],
    ):
        assert calibrated(other) is other


def test_a_fingerprint_is_that_of_the_weights(make_model):
    a, b = (copy.deepcopy(make_model(dtype=torch.float32, seed=seed)) for seed in (0, 1))
    known = fingerprint(a)
    assert fingerprint(copy.deepcopy(a).double()) == known != fingerprint(b)
    next(a.parameters()).data[0] += 1
    assert fingerprint(a) != known
