"""The distance bias: the same function of distance, whether computed for all layers at once or read off a table."""

import pytest
import torch
from torch import Tensor

from transip.batch import Batch
from transip.model import chunking
from transip.model.attention_bias import RBF_RANGE, DistanceBias, DistanceBiasStack
from transip.model.radial import GaussianBasis


def learned(heads: int, dtype: torch.dtype) -> DistanceBias:
    layer = DistanceBias(heads)
    torch.nn.init.normal_(layer.rbf_proj.weight)
    torch.nn.init.normal_(layer.slope)  # of either sign, as training may leave them
    return layer.to(dtype).requires_grad_(False)


def by_definition(layer: DistanceBias, distance: Tensor) -> Tensor:
    """Σ_k weight_k exp(−½ ((r − c_k) / σ)²) − slope · r, heads before the last two dimensions."""
    first, last, number = RBF_RANGE
    centers = torch.linspace(first, last, number, dtype=torch.float64)
    spread = (-0.5 * ((distance.double()[..., None] - centers) / (centers[1] - centers[0])).square()).exp()
    bias = spread @ layer.rbf_proj.weight.double().T - distance.double()[..., None] * layer.slope.double()
    return bias.movedim(-1, -3)


@pytest.fixture
def distance() -> Tensor:
    """From atoms that meet themselves to the far ends of large molecules."""
    near = torch.linspace(1e-3, 12, 3000, dtype=torch.float64)
    return torch.cat([near, torch.linspace(12, 80, 600, dtype=torch.float64)]).view(3, 40, 30)


def test_all_blocks_at_once(distance):
    torch.manual_seed(0)
    layers = [learned(4, torch.float64) for _ in range(3)]
    found = DistanceBiasStack(layers, GaussianBasis(*RBF_RANGE).double()).all_layers(distance)
    for bias, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(bias, by_definition(layer, distance), rtol=1e-5, atol=1e-5)  # centres are float32


def test_one_block_from_the_table(distance):
    torch.manual_seed(0)
    layers = [learned(4, torch.float32) for _ in range(3)]
    biases = DistanceBiasStack(layers, GaussianBasis(*RBF_RANGE))
    distance = distance.float()
    for number, layer in enumerate(layers):
        expected = by_definition(layer, distance)
        error = biases.one_layer(distance, number).double() - expected
        assert error.abs().max() < 2e-6 * expected.abs().max()
        near = distance[:, None].expand(expected.shape) < RBF_RANGE[1]
        assert error[near].abs().max() < 5e-6 * expected[near].abs().max()


def test_slopes_from_the_table_are_those_of_the_function(distance):
    torch.manual_seed(0)
    layer = learned(4, torch.float32)
    upstream = torch.randn(len(distance), 4, *distance.shape[1:], dtype=torch.float64)
    exact = distance.clone().requires_grad_()
    (expected,) = torch.autograd.grad(by_definition(layer, exact), exact, upstream)
    single = distance.float().requires_grad_()
    (found,) = torch.autograd.grad(
        DistanceBiasStack([layer], GaussianBasis(*RBF_RANGE)).one_layer(single, 0), single, upstream.float()
    )
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_float64_needs_no_table(distance):
    torch.manual_seed(0)
    layers = [learned(4, torch.float64) for _ in range(2)]
    biases = DistanceBiasStack(layers, GaussianBasis(*RBF_RANGE).double())
    for number in range(2):
        torch.testing.assert_close(
            biases.one_layer(distance, number), biases.all_layers(distance)[number], rtol=0, atol=1e-12
        )


def test_no_gaussian_is_subnormal(distance):
    """Products with numbers that small are many times slower."""
    values = GaussianBasis(*RBF_RANGE)(distance.float())
    assert values.min() > 1e3 * torch.finfo(torch.float32).tiny and values.min() < 1e-20


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_forces_from_the_table_are_those_from_the_product(make_model, make_structure, monkeypatch, forces):
    model = make_model(forces=forces, dtype=torch.float32)
    batch = Batch.collate([make_structure(count, seed=count) for count in (30, 12)])
    with torch.no_grad():
        expected = model(batch)
        monkeypatch.setattr(chunking, "MAX_PAIRS_PER_CHUNK", 300)
        found = model(batch)
    assert not torch.equal(found.forces, expected.forces)  # another road
    scale = float(expected.forces.abs().max())
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-4)
