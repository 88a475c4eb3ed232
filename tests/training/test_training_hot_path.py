"""A training step never waits for the device: nothing in it depends on a value that only the device knows.

The profiler sees, on any device, the operations that a GPU would have to be waited for. Fake tensors have no values at
all: a step on them stops where it needs one.

What the trainer itself waits for (`transip.training.trainer`): in every step the gradient norm, the loss, and the step
count of the averaged weights; the means in every line of the log. Molecules of more than 64 atoms, whose neighbours are
gathered (`Neighbourhood`), wait once a forward pass for the largest number of neighbours, and are not tested here.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from transip.batch import Batch
from transip.config import LatentSettings, ModelSettings, OptimizerSettings
from transip.model.potential import Potential
from transip.rotations import random_rotations
from transip.training.objective import Objective
from transip.training.optim import Optimizers
from transip.training.terms import Energy, Forces, Latent
from transip.training.training_batch import Normalizer, TrainingBatch, Views

WAITING = {
    "aten::_local_scalar_dense",  # .item(), float(), int(), bool(), .tolist()
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",  # also what indexing by a mask needs
    "aten::masked_select",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::repeat_interleave",  # by a tensor, without output_size
    "aten::equal",
    "aten::allclose",
}
KINDS = {
    "direct": {},
    "conservative": {"forces": "conservative"},
    "paper": {"preset": "paper"},
}
OBJECTIVES = {
    "one view": (1, []),
    "latent": (2, [LatentSettings(weight=1.0, warmup=0.0)]),  # with two views
}


def step_of(kind: str, objective: str, batch: Batch) -> Callable[[], None]:
    """Forward, backward, the norm of the gradient, and Muon.

    Without AdamW: PyTorch's fused kernel reads its step count, which on a CPU is a value on the host and looks like
    waiting; on a GPU it stays there.
    """
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({"size": "XS", **KINDS[kind]})
    potential = Potential(settings, torch.zeros(87, dtype=torch.float64), 1.0)
    views, latent = OBJECTIVES[objective]
    module = Objective(potential, [Energy(8.0), Forces(1.0), *(Latent(each, settings.width) for each in latent)])
    optimizers = Optimizers(module, OptimizerSettings())
    rotations = torch.stack([random_rotations(len(batch), torch.Generator().manual_seed(k)) for k in range(views)])
    normalizer = Normalizer(views * len(batch), views * batch.num_atoms, len(batch), batch.num_atoms)
    both = TrainingBatch(Views(batch, rotations), normalizer)

    def step() -> None:
        sum(module(both, 0.5).values()).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizers.optimizers["muon"].step()
        optimizers.zero_grad()

    return step


@pytest.fixture
def batch(make_structure) -> Batch:
    """Labelled molecules of different sizes."""
    alike = [make_structure(n, energy=-1.0, forces=make_structure(n, 1).positions) for n in (3, 7, 12)]
    return Batch.collate(alike)


def waits(run: Callable[[], Any]) -> list[str]:
    """Operations in `run` that a device would have to be waited for."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    names = [event.key for event in seen.key_averages()]
    assert "aten::mm" in names  # something was seen
    return sorted(WAITING & set(names))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_asks_the_device_for_nothing(batch, kind, objective):
    step = step_of(kind, objective, batch)
    step()  # the optimisers' state is made once
    assert waits(step) == []


@pytest.mark.parametrize("waiting", [lambda x: float(x.sum()), lambda x: x[x > 0], lambda x: bool(x.isfinite().all())])
def test_waiting_would_be_seen(batch, waiting):
    assert waits(lambda: (batch.positions @ torch.eye(3), waiting(batch.positions))) != []


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_needs_no_value(batch, kind, objective):
    with FakeTensorMode() as mode:
        values = {name: mode.from_tensor(x) if torch.is_tensor(x) else x for name, x in vars(batch).items()}
        step_of(kind, objective, Batch(**values))()


@pytest.mark.parametrize("waiting", [float, torch.nonzero, torch.Tensor.tolist])
def test_needing_one_would_be_seen(waiting):
    with FakeTensorMode(), pytest.raises(RuntimeError):
        waiting(torch.ones(1))
