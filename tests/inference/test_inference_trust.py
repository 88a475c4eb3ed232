"""How far predictions can be trusted: committees, calibrated uncertainties, bounds on them, sizes not seen."""

import copy
import io
import warnings

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read
from ase.io.extxyz import write_extxyz

from transip.errors import InputError, InputWarning
from transip.inference.ase import TransIPCalculator, attach_results
from transip.inference.domain import ApplicabilityDomain
from transip.inference.predict import load_for_inference, predict_file
from transip.io.extxyz import format_frame
from transip.model.calibration import Calibration, SpreadToError
from transip.model.files import save_model
from transip.symmetry.average import with_rotation_average
from transip.symmetry.committee import predictor_key


@pytest.fixture
def members(make_model):
    """Two models, the first of which knows what the spread between both, and that of its own 2 rotations, means."""
    models = [copy.deepcopy(make_model(forces="conservative", scale=0.1, seed=seed)) for seed in (0, 1)]
    maps = {
        "energy": SpreadToError(factor=2.0, exponent=0.5, multiples={"68": 1.0}),
        "forces": SpreadToError(factor=3.0, exponent=1.0, multiples={"68": 1.0}),
    }
    models[0].card["calibrations"] = [
        Calibration(
            **dict(zip(("members", "rotations"), predictor_key(model), strict=True)), **maps, structures=9
        ).model_dump()
        for model in (load_for_inference(models, "cpu", "float64"), with_rotation_average(models[0], 2))
    ]
    return models


def test_a_committee_is_the_mean_of_its_models(members, water):
    one, two, both = (TransIPCalculator(model, dtype="float64") for model in (*members, members))
    energies = [calculator.get_potential_energy(water) for calculator in (one, two)]
    forces = [calculator.get_forces(water) for calculator in (one, two)]
    assert abs(both.get_potential_energy(water) - np.mean(energies)) < 1e-9
    np.testing.assert_allclose(both.get_forces(water), np.mean(forces, 0), atol=1e-9)
    assert abs(both.results["energy_std"] - np.std(energies, ddof=1)) < 1e-9
    assert "energy_std" not in one.results
    assert TransIPCalculator([members[0]], dtype="float64").get_potential_energy(water) == energies[0]


def test_folders_and_models_may_be_mixed(members, water, tmp_path):
    save_model(members[1], tmp_path / "b")
    expected = TransIPCalculator(members, dtype="float64").get_forces(water)
    found = TransIPCalculator((members[0], tmp_path / "b"), dtype="float64")
    np.testing.assert_allclose(found.get_forces(water), expected, atol=1e-9)
    assert found.results.keys() >= {"energy_uncertainty"}  # the calibration is that of the weights


@pytest.mark.parametrize("average", [None, 2])
def test_uncertainties_come_with_results(members, water, average):
    calculator = TransIPCalculator(members if average is None else members[0], dtype="float64", average=average)
    calculator.get_forces(water)
    found = calculator.results
    assert abs(found["energy_uncertainty"] - 2 * found["energy_std"] ** 0.5) < 1e-9
    np.testing.assert_allclose(found["forces_uncertainty"], 3 * found["forces_std"], atol=1e-9)
    assert found["max_force_uncertainty"] == found["forces_uncertainty"].max() > 0
    (labelled,) = calculator.predict([water])
    for name in ("energy_std", "energy_uncertainty", "max_force_uncertainty"):
        assert abs(labelled.info[name] - found[name]) < 1e-9
    for name in ("forces_std", "forces_uncertainty"):
        np.testing.assert_allclose(labelled.arrays[name], found[name], atol=1e-9)
    with_both = TransIPCalculator(members, dtype="float64", average=2)  # not calibrated
    with_both.get_forces(water)
    assert "forces_std" in with_both.results and "forces_uncertainty" not in with_both.results


def test_frames_with_uncertainties_are_written_as_ase_writes_them(members, water):
    calculator = TransIPCalculator(members, dtype="float64")
    result, expected = calculator.result(water), io.StringIO()
    write_extxyz(expected, [attach_results(result.structure.to_atoms(), result)])
    assert format_frame(result.to_structure(), *result.spreads) == expected.getvalue()
    assert "forces_std:R:1:forces_uncertainty:R:1" in expected.getvalue()


def test_files_carry_uncertainties_and_too_uncertain_structures_are_named(members, source, tmp_path):

    def predicted(name: str, **settings: object) -> None:
        calculator = TransIPCalculator(members[0], dtype="float64", average=2, **settings)
        predict_file(calculator, source, tmp_path / name, progress=False)

    predicted("all.xyz")
    known = sorted((atoms.info["max_force_uncertainty"], i) for i, atoms in enumerate(read(tmp_path / "all.xyz", ":")))
    (bound, _), (_, worst) = known[-2:]
    with pytest.warns(
        InputWarning, match=rf"in.xyz, structure {worst}: the force on atom \d+ .* uncertain by"
    ) as caught:
        predicted("warned.xyz", max_uncertainty=1.0001 * bound)
    assert len(caught) == 1 and (tmp_path / "warned.xyz").exists()
    with pytest.raises(InputError, match=rf"structure {worst}: the force on atom"):
        predicted("refused.xyz", max_uncertainty=1.0001 * bound, uncertain="refuse")
    assert not (tmp_path / "refused.xyz").exists()


def test_a_calculator_warns_once_or_refuses(members, water):
    calculator = TransIPCalculator(members, dtype="float64", max_uncertainty=1e-6)
    with pytest.warns(InputWarning, match=r"H2O: the force on atom \d \([HO]\) is uncertain by .* bound of 1e-06"):
        calculator.get_forces(water)
    water.positions[0] += 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_forces(water)
        TransIPCalculator(members, dtype="float64", max_uncertainty=1e6).get_forces(water)
    calculator = TransIPCalculator(members, dtype="float64", max_uncertainty=1e-6, uncertain="refuse")
    for _ in range(2):
        with pytest.raises(InputError, match="is uncertain by"):
            calculator.get_forces(water)
    assert not calculator.results


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_uncertainty": 0.1}, "no calibrated uncertainties"),
        ({"max_uncertainty": 0.1, "average": 24}, "no calibrated uncertainties"),
        ({"max_uncertainty": 0.0, "average": 2}, "max_uncertainty is 0.0"),
        ({"max_uncertainty": float("nan"), "average": 2}, "max_uncertainty is nan"),
    ],
)
def test_bounds_that_cannot_be(members, settings, message):
    with pytest.raises(InputError, match=message):
        TransIPCalculator(members[0], **settings)


# ------------------------------------------------------------------------------------------ what has been seen


def test_sizes_not_seen_are_named(make_model, make_structure):
    model = copy.deepcopy(make_model())
    model.card["sizes"] = [3, 10]
    scope = ApplicabilityDomain(model)
    scope.check(make_structure(3)), scope.check(make_structure(10))
    with pytest.warns(InputWarning, match=r"number of atoms 12 is not .* \(number of atoms seen: 3 to 10\)"):
        scope.check(make_structure(12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scope.check(make_structure(14))  # said before: too large
    with pytest.warns(InputWarning, match="number of atoms 2 is not"):
        scope.check(make_structure(2))
    with pytest.raises(InputError, match="number of atoms 2 is not"):
        ApplicabilityDomain(model, "refuse").check(make_structure(2))


def test_a_committee_has_seen_what_all_its_models_have(make_model):
    models = [copy.deepcopy(make_model(seed=seed)) for seed in (0, 1, 2)]
    models[0].card.update(elements=["H", "C", "O"], charges=[0, 1], sizes=[2, 9])
    models[1].card.update(elements=["H", "O", "N"], charges=[0, -1], sizes=[3, 12])
    calculator = TransIPCalculator(models, unseen="refuse", average=3)
    calculator.get_forces(molecule("H2O", info={"charge": 0, "spin": 1}))
    for name, info, message in (
        ("CH4", {"charge": 0, "spin": 1}, r"element C is not .*\n.*seen: H, O"),
        ("H2O", {"charge": 1, "spin": 2}, r"charge \+1 is not .*\n.*seen: \+0"),
        ("OH", {"charge": 0, "spin": 2}, r"number of atoms 2 is not .*\n.*seen: 3 to 9"),
    ):
        with pytest.raises(InputError, match=message):
            calculator.get_forces(molecule(name, info=info))
