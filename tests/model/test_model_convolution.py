"""What an atom is shown of its surroundings."""

import pytest
import torch

from transip.config import ModelSettings
from transip.model import pairs
from transip.model.convolution import Angles, Convolution, look_around
from transip.model.pairs import Neighbourhood, PairFeatures, Pairs, degree_shown, harmonics_of
from transip.rotations import random_rotations

ATOMS, CHANNELS = 12, 8


@pytest.fixture(params=["dense", "gathered"])
def positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Atoms of two molecules, some of them farther from each other than is seen; in Å."""
    if request.param == "gathered":
        monkeypatch.setattr(pairs, "DENSE", 4)
    torch.manual_seed(0)
    return 2.5 * torch.randn(2, ATOMS, 3, dtype=torch.float64)


def settings_of(degree: int) -> ModelSettings:
    return ModelSettings(size="XS", angles=3, l_max=degree)  # pyright: ignore[reportArgumentType]


def seen(positions: torch.Tensor, settings: ModelSettings) -> Pairs:
    return PairFeatures(settings).double().of(slice(None), positions, positions, None, None, None)


def test_the_view_is_the_sum_over_neighbours(positions):
    channels = torch.randn(2, ATOMS, CHANNELS, dtype=torch.float64)
    settings = settings_of(degree=1)
    view = look_around(channels, seen(positions, settings).neighbours)
    spread = Neighbourhood(settings.num_rbf, 1).double().radial
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


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_angles_are_sums_over_pairs_of_neighbours_and_do_not_turn(positions, degree):
    channels = torch.randn(2, ATOMS, CHANNELS, dtype=torch.float64)
    settings = settings_of(degree)
    angles = Angles(CHANNELS * settings.num_rbf, settings).double()
    torch.nn.init.normal_(angles.read.weight)

    def read(positions: torch.Tensor) -> torch.Tensor:
        return angles(look_around(channels, seen(positions, settings).neighbours)[..., 1:, :])

    found = read(positions)
    turn = random_rotations(1, torch.Generator().manual_seed(0), torch.float64)[0]
    torch.testing.assert_close(read(positions @ turn.T), found, rtol=0, atol=1e-12)

    near = seen(positions, settings).neighbours
    strengths = torch.einsum("bimc,bimk->bimck", near.of(channels).expand(*near.fade.shape, -1), near.radial).flatten(3)
    f, g = angles.left(strengths), angles.right(strengths)
    cosine = torch.einsum("bixj,bixk->bijk", near.direction, near.direction)
    length = near.direction.square().sum(2)  # hardly less than 1
    lengths = length[:, :, :, None] * length[:, :, None]
    legendre = [cosine, 1.5 * cosine**2 - 0.5 * lengths, 2.5 * cosine**3 - 1.5 * cosine * lengths][:degree]
    sums = [torch.einsum("bijp,bikp,bijk->bip", f, g, values) for values in legendre]
    torch.testing.assert_close(found, angles.read(torch.cat(sums, -1)), rtol=0, atol=1e-12)


def test_harmonics_of_two_directions_give_legendre_polynomials_of_their_angle():
    a, b = torch.nn.functional.normalize(torch.randn(2, 50, 3, 1, 1, dtype=torch.float64), dim=2)
    cosine = (a * b).sum(1)
    product = harmonics_of(a, 3) * harmonics_of(b, 3)
    legendre = torch.ones_like(cosine), cosine, 1.5 * cosine**2 - 0.5, 2.5 * cosine**3 - 1.5 * cosine
    for part, expected in zip(product.split([1, 3, 5, 7], 2), legendre, strict=True):
        torch.testing.assert_close(part.sum(2), expected, rtol=0, atol=1e-14)


def test_angles_can_be_left_out():
    without = ModelSettings(size="XS", angles=0)
    assert Convolution(without).angles is None
    assert Convolution(settings_of(degree=2)).angles is not None
    assert degree_shown(without) == 1  # then nothing reads harmonics of higher degree
