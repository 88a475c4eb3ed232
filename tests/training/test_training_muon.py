"""Muon: matrices of one shape together, as if each were alone."""

import pytest
import torch

from transip.training.muon import COEFFICIENTS, Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 16), (1, 16, 40)])
def test_singular_values_come_close_to_one(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(*shape, generator=generator)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices).float()
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.median() < 1.3 and values.max() < 1.4
    if shape[1] != shape[2]:  # a random square matrix has singular values too small to be raised to one
        torch.testing.assert_close(found, u @ v, rtol=0, atol=0.2)


def test_the_polynomials_raise_small_singular_values_and_keep_the_largest():
    x = torch.logspace(-3, 0, 200, dtype=torch.float64)
    for a, b, c in COEFFICIENTS:
        x = a * x + b * x**3 + c * x**5
    assert x.min() > 0.8 and x.max() < 1.2


def test_a_matrix_moves_the_same_alone_and_in_company():
    def moved(count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        matrices = [torch.nn.Parameter(torch.randn(8, 6, generator=generator)) for _ in range(count)]
        optimizer = Muon(matrices, lr=0.1, weight_decay=0.1)
        for _ in range(3):
            for k, matrix in enumerate(matrices):
                matrix.grad = torch.randn(8, 6, generator=torch.Generator().manual_seed(k))
            optimizer.step()
        return matrices[0].detach()

    torch.testing.assert_close(moved(1), moved(5), rtol=0, atol=1e-3)  # bfloat16 inside


def test_the_first_step_is_along_the_orthogonalised_gradient():
    matrix = torch.nn.Parameter(torch.zeros(12, 3))
    matrix.grad = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    Muon([matrix], lr=0.1).step()
    expected = -0.1 * 2.0 * orthogonalize(matrix.grad[None])[0].float()  # tall: √(12 / 3)
    torch.testing.assert_close(matrix.detach(), expected, rtol=0, atol=1e-2)


def test_matrices_without_a_gradient_stay():
    matrix = torch.nn.Parameter(torch.ones(3, 3))
    Muon([matrix], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(matrix.detach(), torch.ones(3, 3))
