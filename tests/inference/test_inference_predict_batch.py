import numpy as np
import pytest
import torch

from transip.config import BatchSettings
from transip.errors import InputError
from transip.inference import predict as predict_module
from transip.inference.predict import iter_predictions, predict_batch


class Small(torch.nn.Module):
    """A model on a device whose memory holds `atoms` atoms."""

    def __init__(self, model: torch.nn.Module, atoms: int):
        super().__init__()
        self.model, self.atoms, self.sizes = model, atoms, []

    def forward(self, batch):
        self.sizes.append(batch.num_atoms)
        if batch.num_atoms > self.atoms:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(batch)


def test_structures_stream_in_chunks(make_model, make_structure, monkeypatch):
    """No more than a chunk is read ahead, and results come in the order given."""
    monkeypatch.setattr(predict_module, "CHUNK", 8)
    read = 0

    def stream():
        nonlocal read
        for i in range(30):
            read += 1
            yield make_structure(1 + 5 * i % 7, i, source=str(i))

    for i, result in enumerate(iter_predictions(make_model(), stream(), BatchSettings(batch_size=3))):
        assert result.structure.source == str(i) and len(result) == len(result.forces)
        assert read <= 8 * (i // 8 + 1)
    assert read == 30


def test_nothing_in_nothing_out(make_model):
    assert list(iter_predictions(make_model(), [])) == []


def test_too_little_memory_halves_the_batch(make_model, make_structure):
    structures = [make_structure(4, i) for i in range(10)]
    small = Small(make_model(), atoms=9)
    expected = predict_batch(make_model(), structures)
    for a, b in zip(predict_batch(small, structures), expected, strict=True):
        assert abs(a.energy - b.energy) < 1e-8
    assert small.sizes[0] == 40


def test_a_structure_too_large_for_memory_is_named(make_model, make_structure):
    structures = [make_structure(3), make_structure(9, source="big.xyz, structure 7")]
    with pytest.raises(InputError, match=r"big.xyz, structure 7: 9 atoms do not fit"):
        list(iter_predictions(Small(make_model(), atoms=5), structures))


def test_charges_no_model_can_represent_are_refused_before_the_model_is_asked(make_model, make_structure):
    with pytest.raises(InputError, match="cannot be represented"):
        list(iter_predictions(make_model(), [make_structure(5, charge=-12)]))


def test_each_structure_gets_its_charges_and_what_is_periodic_no_dipole(charged_model, make_model, make_structure):
    molecule = make_structure(4, charge=1)
    structures = [molecule, make_structure(3, cell=np.diag([9.0, 9.0, 9.0])), make_structure(2)]
    results = predict_batch(charged_model, structures)
    for result, structure in zip(results, structures, strict=True):
        assert result.charges.sum() == pytest.approx(structure.charge)
        assert result.spin_populations.sum() == pytest.approx(structure.spin - 1)
        assert result.charges.shape == result.spin_populations.shape == (len(structure),)
    atoms = molecule.to_atoms()
    expected = results[0].charges @ (atoms.positions - atoms.get_center_of_mass())
    np.testing.assert_allclose(results[0].dipole, expected, atol=1e-10)
    assert [result.dipole is None for result in results] == [False, True, False]
    (bare,) = predict_batch(make_model(), [molecule])
    assert bare.charges is bare.spin_populations is bare.dipole is None
