"""The distance bias is the function of distance that its docstring says."""

import pytest
import torch
from torch import Tensor

from transip.model.attention_bias import RBF_RANGE, DistanceBias, distance_biases
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


def test_all_layers_at_once(distance):
    torch.manual_seed(0)
    layers = [learned(4, torch.float64) for _ in range(3)]
    found = distance_biases(layers, GaussianBasis(*RBF_RANGE).double(), distance)
    for bias, layer in zip(found, layers, strict=True):
        expected = by_definition(layer, distance).movedim(-3, 0)
        torch.testing.assert_close(bias, expected, rtol=1e-5, atol=1e-5)  # centres are float32


def test_no_gaussian_is_subnormal(distance):
    """Products with numbers that small are many times slower."""
    values = GaussianBasis(*RBF_RANGE)(distance.float())
    assert values.min() > 1e3 * torch.finfo(torch.float32).tiny and values.min() < 1e-20
