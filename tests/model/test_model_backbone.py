"""A network of somebody else's as backbone: it predicts, is saved and loaded, averaged and simulated with."""

import json

import ase.build
import numpy as np
import pytest
import torch

from backbones.message_passing import MessagePassing
from transip.batch import Batch
from transip.config import FineTuningSettings, ModelSettings, OptimizerSettings
from transip.errors import InputError
from transip.inference.ase import TransIPCalculator
from transip.model.backbone import Backbone
from transip.model.files import CONFIG, load_model, save_model
from transip.model.potential import Potential
from transip.model.transformer import Transformer
from transip.rotations import random_rotations, rotate, rotate_vectors
from transip.symmetry.average import with_rotation_average
from transip.training.adapters import NewSpecies, apply_adapters
from transip.training.optim import Optimizers

F64 = torch.float64
FORCES = pytest.mark.parametrize("forces", ["direct", "conservative"])


def potential(forces: str) -> Potential:
    settings = ModelSettings.model_validate({"width": 16, "depth": 2, "heads": 2, "forces": forces})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Potential(settings, -10 * torch.arange(87, dtype=F64), 1.5, None, MessagePassing(settings))
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model.to(F64).eval().requires_grad_(False)


@pytest.fixture
def batch(make_structure) -> Batch:
    return Batch.collate([make_structure(count, seed=count) for count in (5, 1, 8)], F64)


def test_both_backbones_meet_the_protocol():
    settings = ModelSettings(size="XS")
    for backbone in (MessagePassing(settings), Transformer(settings)):
        assert isinstance(backbone, Backbone)
        assert (backbone.width, backbone.depth) == (settings.width, settings.depth)


@FORCES
def test_a_batch_gives_what_its_structures_give_alone(make_structure, batch, forces):
    model, together = potential(forces), potential(forces)(batch, (0, -1))
    alone = [model(Batch.collate([make_structure(count, seed=count)], F64), (0, -1)) for count in (5, 1, 8)]
    torch.testing.assert_close(together.energy, torch.cat([one.energy for one in alone]))
    torch.testing.assert_close(together.forces, torch.cat([one.forces for one in alone]))
    for layer, embeddings in enumerate(together.embeddings):
        torch.testing.assert_close(embeddings, torch.cat([one.embeddings[layer] for one in alone]))
        torch.testing.assert_close(embeddings, model.embeddings(batch, (0, -1))[layer])
        torch.testing.assert_close(embeddings.square().mean(-1), torch.ones(14, dtype=F64), rtol=1e-3, atol=0)


def test_conservative_forces_are_derivatives_and_equivariant(batch):
    """The backbone is invariant, so its gradient turns with the molecule."""
    model, step = potential("conservative"), 1e-5
    direction = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    ahead, behind = (
        model(Batch(**(vars(batch) | {"positions": batch.positions + sign * step * direction}))).energy.sum()
        for sign in (1, -1)
    )
    prediction = model(batch)
    assert float((ahead - behind) / (2 * step)) == pytest.approx(
        -float((prediction.forces * direction).sum()), abs=1e-6
    )
    rotations = random_rotations(len(batch), torch.Generator().manual_seed(1), F64)
    torch.testing.assert_close(
        model(rotate(batch, rotations)).forces, rotate_vectors(prediction.forces, rotations, batch)
    )


@FORCES
def test_it_is_saved_and_loaded(tmp_path, batch, forces):
    model = potential(forces)
    save_model(model, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["backbone"] == "custom"
    back = load_model(tmp_path, backbone=MessagePassing)
    assert isinstance(back.backbone, MessagePassing) and "backbone" not in back.card
    with torch.no_grad():
        assert torch.equal(back(batch).forces, model(batch).forces)
    save_model(back, tmp_path / "again")
    assert load_model(tmp_path / "again", backbone=MessagePassing).num_parameters == model.num_parameters


def test_it_cannot_be_loaded_without_its_code_nor_with_other_code(tmp_path, make_model):
    save_model(potential("direct"), tmp_path / "custom")
    save_model(make_model(), tmp_path / "built-in")
    with pytest.raises(InputError, match="no part of transip") as caught:
        load_model(tmp_path / "custom")
    assert "backbone=" in str(caught.value)
    with pytest.raises(InputError, match="does not fit"):
        load_model(tmp_path / "custom", backbone=Transformer)
    with pytest.raises(InputError, match="built-in backbone"):
        load_model(tmp_path / "built-in", backbone=MessagePassing)


@FORCES
def test_it_is_averaged_over_rotations(batch, forces):
    model = potential(forces)
    average = with_rotation_average(model, 12)(batch)
    torch.testing.assert_close(average.energy, model(batch).energy)  # it is invariant
    assert average.energy_std.max() < 1e-9
    assert (average.forces_std.max() < 1e-9) == (forces == "conservative")


def test_it_is_simulated_with_in_ase():
    atoms = ase.build.molecule("CH3OH")
    atoms.calc = TransIPCalculator(potential("conservative"), charge=0, spin=1, dtype="float64")
    assert np.isfinite(atoms.get_potential_energy())
    assert np.abs(atoms.get_forces().sum(0)).max() < 1e-10 < np.abs(atoms.get_forces()).max()


def test_muon_has_the_matrices_that_the_backbone_gives_it():
    model = potential("direct").requires_grad_()
    (group,) = Optimizers(model, OptimizerSettings(name="muon")).optimizers["muon"].param_groups
    assert [p.shape for p in group["params"]] == [(16, 16), (16, 16)]
    assert {id(p) for p in group["params"]} == {id(p) for p in model.backbone.muon_parameters()}


def test_what_needs_the_built_in_backbone_says_so():
    with pytest.raises(InputError, match="built-in backbone"):
        apply_adapters(potential("direct"), FineTuningSettings(lora_rank=2), NewSpecies())
