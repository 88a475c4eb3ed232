"""The local descriptor: the atomic basis of an atom's neighbours, and the angles between them."""

import numpy as np
import pytest
import torch

from transip import blocks
from transip.batch import Batch
from transip.blocks import find_blocks
from transip.config import ModelSettings
from transip.model.geometry import block_geometry
from transip.model.local import LocalDescriptor, PowerSpectrum, atomic_basis
from transip.model.neighbors import LOCAL_CUTOFF, MIN_LENGTH, real_spherical_harmonics
from transip.model.pair_features import PairEncoder, PairFeatures
from transip.model.radial import GaussianBasis
from transip.rotations import random_rotations
from transip.structure import Structure

ATOMS, CHANNELS, RBF = 12, 8, 12
F64 = torch.float64


@pytest.fixture(params=["dense", "listed"])
def positions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Atoms of two molecules, some of them farther from each other than the local cutoff; in Å."""
    if request.param == "listed":
        monkeypatch.setattr(blocks, "MAX_DENSE_ATOMS", 4)
    torch.manual_seed(0)
    return 2.5 * torch.randn(2, ATOMS, 3, dtype=F64)


def settings_of(l_max: int) -> ModelSettings:
    return ModelSettings(size="XS", angular_channels=3, l_max=l_max)  # pyright: ignore[reportArgumentType]


def features(positions: torch.Tensor, l_max: int = 1) -> PairFeatures:
    structures = [Structure(np.ones(ATOMS, np.int64), x.numpy(), 0, 1) for x in positions.detach()]
    batch = Batch.collate(structures, F64)
    found = find_blocks(batch, None, LOCAL_CUTOFF)
    encoder = PairEncoder(None, GaussianBasis(MIN_LENGTH, LOCAL_CUTOFF, RBF).double(), l_max, None)
    return encoder(block_geometry(positions.flatten(0, 1), None, batch, found), found, [])


def test_the_atomic_basis_is_a_sum_over_neighbours(positions):
    channels = torch.randn(2, ATOMS, CHANNELS, dtype=F64)
    found = atomic_basis(features(positions), channels)
    basis = GaussianBasis(MIN_LENGTH, LOCAL_CUTOFF, RBF).double()
    for b in range(2):
        for i in range(ATOMS):
            expected = torch.zeros_like(found[b, i])
            for j in {*range(ATOMS)} - {i}:
                vector = positions[b, j] - positions[b, i]
                distance = (vector.square().sum() + 1e-6).sqrt()
                if distance < LOCAL_CUTOFF:
                    envelope = 0.5 + 0.5 * torch.cos(torch.pi * distance / LOCAL_CUTOFF)
                    harmonics = torch.cat([torch.ones(1, dtype=F64), vector / distance])
                    expected += torch.einsum("c,s,k->csk", channels[b, j], harmonics, basis(distance) * envelope)
            torch.testing.assert_close(found[b, i], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_the_power_spectrum_is_a_sum_over_angles_and_invariant(positions, l_max):
    channels = torch.randn(2, ATOMS, CHANNELS, dtype=F64)
    spectrum = PowerSpectrum(CHANNELS * RBF, settings_of(l_max)).double()
    torch.nn.init.normal_(spectrum.out_proj.weight)

    def invariants(positions: torch.Tensor) -> torch.Tensor:
        return spectrum(atomic_basis(features(positions, l_max), channels)[..., 1:, :])

    found = invariants(positions)
    rotation = random_rotations(1, torch.Generator().manual_seed(0), F64)[0]
    torch.testing.assert_close(invariants(positions @ rotation.T), found, rtol=0, atol=1e-12)

    pairs = features(positions, l_max)
    near = pairs.neighbors
    assert near is not None
    gathered = pairs.blocks.gather_neighbors(channels.flatten(0, 1)).expand(*near.envelope.shape, -1)
    strengths = torch.einsum("bimc,bimk->bimck", gathered, near.rbf)
    f, g = spectrum.left_proj(strengths.flatten(3)), spectrum.right_proj(strengths.flatten(3))
    cosine = torch.einsum("bixj,bixk->bijk", near.directions, near.directions)
    length = near.directions.square().sum(2)  # hardly less than 1
    lengths = length[:, :, :, None] * length[:, :, None]
    legendre = [cosine, 1.5 * cosine**2 - 0.5 * lengths, 2.5 * cosine**3 - 1.5 * cosine * lengths][:l_max]
    sums = [torch.einsum("bijp,bikp,bijk->bip", f, g, values) for values in legendre]
    torch.testing.assert_close(found, spectrum.out_proj(torch.cat(sums, -1)), rtol=0, atol=1e-12)


def test_harmonics_of_two_directions_give_legendre_polynomials_of_their_angle():
    a, b = torch.nn.functional.normalize(torch.randn(2, 50, 1, 1, 3, dtype=F64), dim=-1)
    cosine = (a * b).sum(-1)
    product = real_spherical_harmonics(a, 3) * real_spherical_harmonics(b, 3)
    legendre = torch.ones_like(cosine), cosine, 1.5 * cosine**2 - 0.5, 2.5 * cosine**3 - 1.5 * cosine
    for degree, expected in zip(product.split([1, 3, 5, 7], 2), legendre, strict=True):
        torch.testing.assert_close(degree.sum(2), expected, rtol=0, atol=1e-14)


def test_the_power_spectrum_can_be_left_out():
    assert LocalDescriptor(ModelSettings(size="XS", angular_channels=0)).power_spectrum is None
    assert LocalDescriptor(settings_of(l_max=2)).power_spectrum is not None
