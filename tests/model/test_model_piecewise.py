"""A function of parts: the same values and derivatives as of the whole, and nothing kept meanwhile."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from transip.batch import Batch
from transip.model import pairs
from transip.model.piecewise import piecewise

PARTS = [slice(0, 3), slice(3, 6), slice(6, 7)]


def attention(part: slice, query: Tensor, key: Tensor) -> Tensor:
    return (query[:, part] @ key.mT).softmax(-1) @ key


@pytest.fixture
def values() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_values_and_derivatives(values, needed):
    query, key = (x.requires_grad_(need) for x, need in zip(values, needed, strict=True))
    leaves = [x for x in (query, key) if x.requires_grad]
    whole, parts = attention(slice(None), query, key), piecewise(attention, PARTS, query, key)
    torch.testing.assert_close(parts, whole)
    for found, exact in zip(*(torch.autograd.grad(x.sin().sum(), leaves) for x in (parts, whole)), strict=True):
        torch.testing.assert_close(found, exact)


def test_what_a_part_does_not_depend_on(values):
    query, key = values
    found = torch.autograd.grad(piecewise(lambda part, query, _: query[:, part], PARTS, query, key).sum(), [query, key])
    assert (found[0] == 1).all() and (found[1] == 0).all()


def test_a_second_derivative_is_refused_rather_than_wrong(values):
    (gradient,) = torch.autograd.grad(piecewise(attention, PARTS, *values).sin().sum(), values[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_operations_can_be_counted(make_model, make_structure, monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 30)
    batch = Batch.collate([make_structure(9)], torch.float64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        make_model(forces="conservative")(batch)
    assert counter.get_total_flops() > 0


def test_only_the_values_are_kept(values):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        piecewise(attention, PARTS, *values)
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in values]
