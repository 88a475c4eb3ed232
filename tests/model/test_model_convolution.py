"""What an atom is shown of its surroundings."""

import pytest
import torch

from transip.config import ModelSettings
from transip.model import pairs
from transip.model.convolution import Angles, Convolution, look_around
from transip.model.pairs import Neighbourhood, PairFeatures, Pairs
from transip.rotations import random_rotations

ATOMS, CHANNELS = 12, 8


@pytest.fixture(params=["dense", "gathered"])
def positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Atoms of two molecules, some of them farther from each other than is seen; in Å."""
    if request.param == "gathered":
        monkeypatch.setattr(pairs, "DENSE", 4)
    torch.manual_seed(0)
    return 2.5 * torch.randn(2, ATOMS, 3, dtype=torch.float64)


def seen(positions: torch.Tensor) -> Pairs:
    return PairFeatures(ModelSettings(size="XS")).double().of(slice(None), positions, positions, None, None, None)


def test_the_view_is_the_sum_over_neighbours(positions):
    channels = torch.randn(2, ATOMS, CHANNELS, dtype=torch.float64)
    view = look_around(channels, seen(positions).neighbours)
    spread = Neighbourhood().double().radial
    for b in range(2):
        for i in range(ATOMS):
            expected = torch.zeros_like(view[b, i])
            for j in {*range(ATOMS)} - {i}:
                vector = positions[b, j] - positions[b, i]
                distance = (vector.square().sum() + 1e-6).sqrt()
                if distance < Neighbourhood.RADIUS:
                    fade = 0.5 + 0.5 * torch.cos(torch.pi * distance / Neighbourhood.RADIUS)
                    sides = torch.cat([torch.ones(1, dtype=torch.float64), vector / distance])
                    expected += torch.einsum("c,s,k->csk", channels[b, j], sides, spread(distance) * fade)
            torch.testing.assert_close(view[b, i], expected, rtol=0, atol=1e-12)


def test_angles_are_sums_over_pairs_of_neighbours_and_do_not_turn(positions):
    channels = torch.randn(2, ATOMS, CHANNELS, dtype=torch.float64)
    angles = Angles(width=5, angles=3).double()
    torch.nn.init.normal_(angles.read.weight)

    def read(positions: torch.Tensor) -> torch.Tensor:
        return angles(look_around(channels, seen(positions).neighbours)[..., 1:, :])

    found = read(positions)
    turn = random_rotations(1, torch.Generator().manual_seed(0), torch.float64)[0]
    torch.testing.assert_close(read(positions @ turn.T), found, rtol=0, atol=1e-12)

    near = seen(positions).neighbours
    strengths = torch.einsum("bimc,bimk->bimck", near.of(channels).expand(*near.fade.shape, -1), near.radial).flatten(3)
    f, g = angles.left(strengths), angles.right(strengths)
    cosine = torch.einsum("bxij,bxik->bijk", near.direction, near.direction)
    expected = angles.read(torch.einsum("bijp,bikp,bijk->bip", f, g, cosine))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_angles_can_be_left_out():
    assert Convolution(16, angles=0).angles is None
    assert Convolution(16, angles=4).angles is not None
