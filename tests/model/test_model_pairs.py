"""Large molecules are looked at in parts and their neighbours gathered: the same numbers, by another road."""

import pytest
import torch

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model import pairs
from transip.model.pairs import Neighbourhood, PairFeatures, Pairs


@pytest.fixture
def batch(make_structure):
    return Batch.collate([make_structure(count, seed=count) for count in (9, 1, 14)], torch.float64)


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize(("name", "value"), [("DENSE", 2), ("PAIRS_AT_ONCE", 100), ("PAIRS_AT_ONCE", 1)])
def test_every_road_gives_the_same_numbers(make_model, batch, monkeypatch, forces, name, value):
    model = make_model("default", forces)
    with torch.no_grad():
        expected = model(batch)
        monkeypatch.setattr(pairs, name, value)
        found = model(batch)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-9)


def test_gathered_neighbours_train_like_dense_ones(make_model, batch, monkeypatch):
    def gradients() -> list[torch.Tensor]:
        model = make_model().requires_grad_()
        prediction = model(batch)
        loss = prediction.energy.sum() + prediction.forces.square().sum()
        return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))

    expected = gradients()
    monkeypatch.setattr(pairs, "DENSE", 2)
    for a, b in zip(gradients(), expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("at_once", "linear"), [(2**18, False), (128, True)])
def test_gradient_forces_of_a_large_molecule_do_not_keep_its_pairs(
    make_model, make_structure, monkeypatch, at_once, linear
):
    """Nothing that waits for the backward pass is as large as all pairs, if they are looked at in parts."""
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    model, largest, atoms = make_model(forces="conservative"), 0, 200

    def watch(saved: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, saved.numel())
        return saved

    batch = Batch.collate([make_structure(atoms)], torch.float64)
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(watch, lambda saved: saved):
        model(batch)
    assert (largest < atoms**2) == linear


def test_parts_cover_every_atom_once(monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 70)
    positions = torch.randn(2, 10, 3)
    looking: list[slice] = []

    def distances(part: Pairs) -> torch.Tensor:
        looking.append(part.looking)
        return part.distance.mT

    parts = PairFeatures(ModelSettings(size="XS"))(positions, torch.ones(2, 10, dtype=torch.bool), frugal=True)
    for _ in range(2):  # made anew for every block
        looking.clear()
        torch.testing.assert_close(parts.look(distances), torch.cdist(positions, positions), rtol=0, atol=2e-3)
        assert [i for part in looking for i in range(part.start, part.stop)] == list(range(10))
    assert len(looking) == 4


def test_surroundings_fade_out_smoothly_at_the_radius():
    """Value and slope vanish where a neighbour leaves, else molecular dynamics would feel a kick."""
    neighbourhood = Neighbourhood(12, degree=2).double()
    distance = torch.linspace(3.0, 4.5, 1501, dtype=torch.float64)[None, :, None]
    vector = distance[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)[:, None, None]
    features = neighbourhood(vector, distance, torch.ones_like(distance, dtype=torch.bool)).radial[0, 0]
    # more than DENSE atoms: neighbours come nearest first, which is the order given here
    inside, outside = features[distance[0, : len(features), 0] < 4.0], features[distance[0, : len(features), 0] >= 4.0]
    assert inside[0].abs().max() > 0.1
    assert outside.numel() == 0 or outside.abs().max() == 0
    assert inside[-1].abs().max() < 1e-5 and (inside[-1] - inside[-2]).abs().max() < 1e-5
