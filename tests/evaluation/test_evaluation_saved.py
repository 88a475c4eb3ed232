import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from toy import toy_structure
from toy_runs import BATCH, Noisy, make_dataset
from transip.batch import Batch, Prediction
from transip.config import BatchSettings
from transip.data.dataset import Dataset
from transip.data.store import write_pack
from transip.errors import InputError
from transip.evaluation.result import Evaluation
from transip.evaluation.saved import evaluate
from transip.metrics.validation import validation_metrics


@pytest.fixture(scope="module")
def evaluation(dataset: Dataset) -> Evaluation:
    return evaluate(Noisy(), dataset, batch=BATCH, progress=False)


def test_predictions_are_in_the_order_of_the_dataset(dataset: Dataset, evaluation: Evaluation) -> None:
    arrays = evaluation.predictions
    begin = 0
    for i in range(len(dataset)):
        structure = dataset[i]
        own = slice(begin, begin + len(structure))
        begin = own.stop
        with torch.no_grad():
            alone = Noisy()(dataset.get_batch([i]))
        assert arrays["ids"][i] == structure.source
        assert arrays["domain"][i] == structure.domain
        assert arrays["reference_energy"][i] == structure.energy
        assert arrays["energy"][i] == pytest.approx(float(alone.energy), abs=1e-6)
        np.testing.assert_allclose(arrays["forces"][own], alone.forces, atol=1e-5)
        np.testing.assert_allclose(arrays["reference_forces"][own], structure.forces, rtol=1e-6)
        np.testing.assert_array_equal(arrays["numbers"][own], structure.numbers)


def test_metrics_do_not_depend_on_batches(dataset: Dataset, evaluation: Evaluation) -> None:
    one_by_one = evaluate(Noisy(), dataset, batch=BatchSettings(batch_size=1), symmetry=False, progress=False)
    assert one_by_one.overall == pytest.approx(evaluation.overall, rel=1e-5)


def test_domains_are_those_of_their_structures_alone(dataset: Dataset, evaluation: Evaluation) -> None:
    assert set(evaluation.domains) == {"neutral_organics", "elytes", "reactivity"}
    for domain, metrics in evaluation.domains.items():
        part = dataset.select(np.flatnonzero(dataset.domains == domain))
        alone = evaluate(Noisy(), part, batch=BATCH, symmetry=False, progress=False)
        assert metrics == pytest.approx(alone.overall, rel=1e-5)


def test_symmetry_finds_the_error_that_depends_on_orientation(dataset: Dataset, evaluation: Evaluation) -> None:
    assert evaluation.symmetry is not None and evaluation.relative_rotation_error is not None
    assert 0.3 < evaluation.relative_rotation_error < 1.5
    assert [layer["layer"] for layer in evaluation.symmetry["layers"]] == [0, 1, 2]
    shares = [layer["invariant_share"] for layer in evaluation.symmetry["layers"]]
    assert shares == sorted(shares)  # each layer holds more of the distance, which does not turn
    exact = evaluate(Noisy(0.0), dataset, batch=BATCH, progress=False)
    assert exact.symmetry is not None and exact.symmetry["force_rotation_error"] < 1e-5


def test_shares_of_the_batches_add_up_to_the_whole(dataset: Dataset, evaluation: Evaluation) -> None:
    sums: list[torch.Tensor] = []

    def remember(totals: torch.Tensor) -> torch.Tensor:
        sums.append(totals)
        return torch.stack(sums).sum(0)

    for rank in range(3):
        found = validation_metrics(
            Noisy(), dataset, BATCH, rank=rank, processes=3, reduce=remember, symmetry_structures=0
        )
    assert found == pytest.approx(evaluation.overall, rel=1e-6)


def test_training_sees_the_same_numbers_as_evaluation(dataset: Dataset, evaluation: Evaluation) -> None:
    found = validation_metrics(Noisy(), dataset, BATCH)
    assert evaluation.symmetry is not None
    assert found["force_mae"] == pytest.approx(evaluation.overall["force_mae"])
    assert found["force_rotation_error"] == pytest.approx(evaluation.symmetry["force_rotation_error"])
    assert "layers" not in found


def test_written_and_read_back_it_is_the_same(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    found = Evaluation.read(tmp_path)
    for section in ("overall", "domains", "symmetry", "cost"):
        assert getattr(found, section) == getattr(evaluation, section)
    for name, array in evaluation.predictions.items():
        np.testing.assert_array_equal(found.predictions[name], array)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "predictions.npz"}


def test_predictions_have_the_form_of_the_leaderboard(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as archive:
        assert {"ids", "natoms", "energy", "forces"} <= set(archive.files)
        assert archive["forces"].shape == (archive["natoms"].sum(), 3)
        assert len(archive["ids"]) == len(archive["energy"]) == len(archive["natoms"])
        assert archive["ids"].dtype.kind == "U"


def test_the_table_names_every_domain_in_milli_electron_volts(evaluation: Evaluation) -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(evaluation.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for domain in evaluation.domains:
        assert domain in text
    assert f"{1e3 * evaluation.overall['force_mae']:.1f}" in text
    assert "× the force MAE" in text


def test_charges_and_dipoles_are_compared_where_labelled(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "charged.pack", 12, charged="elytes")
    result = evaluate(Noisy(), data, batch=BATCH, symmetry=False, progress=False)
    assert result.overall["charge_mae"] == pytest.approx(0.02, rel=1e-5)
    assert result.overall["dipole_mae"] == pytest.approx(0.5, rel=1e-5)
    assert [domain for domain, metrics in result.domains.items() if "charge_mae" in metrics] == ["elytes"]
    console = Console(file=io.StringIO(), width=100)
    console.print(result.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Charge MAE (10⁻³ e): 20.0, Dipole MAE (D): 2.402" in text


class Broken(Noisy):
    def forward(self, batch: Batch, layers: tuple[int, ...] = ()) -> Prediction:
        found = super().forward(batch, layers)
        found.forces.data[:] = torch.nan
        return found


def test_a_prediction_that_is_not_a_number_names_the_structure(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"molecules\.pack, structure \d+ .*NaN"):
        evaluate(Broken(), dataset, batch=BATCH, progress=False)


def test_an_empty_dataset_and_one_without_labels_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no structures"):
        evaluate(Noisy(), dataset.select([]), batch=BATCH, progress=False)
    bare = toy_structure(0)
    bare = type(bare)(bare.numbers, bare.positions, bare.charge, bare.spin)
    write_pack(tmp_path / "bare.pack", [bare], level_of_theory="none")

    class Zero(Noisy):
        def forward(self, batch: Batch, layers: tuple[int, ...] = ()) -> Prediction:
            zero = torch.zeros(batch.num_atoms, dtype=torch.float64)
            return Prediction(zero[: len(batch)], zero, torch.zeros_like(batch.positions))

    with pytest.raises(InputError, match="no energies and forces"):
        evaluate(Zero(), Dataset.open([tmp_path / "bare.pack"]), batch=BATCH, progress=False)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 1, "overall": {"force_mae": "x"}}'])
def test_a_corrupt_evaluation_is_named(content: str, evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError, match=r"evaluation\.json"):
        Evaluation.read(tmp_path)


def test_an_evaluation_of_a_newer_format_says_so(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(InputError, match="newer than format"):
        Evaluation.read(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_truncated_predictions_are_named(share: float, evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    path = tmp_path / "predictions.npz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"predictions\.npz"):
        Evaluation.read(tmp_path)
