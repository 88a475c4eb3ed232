"""Optimisers, schedule and averaged weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy import TINY
from transip.config import LatentSettings, ModelSettings, OptimizerSettings
from transip.model.potential import Potential
from transip.training.ema import make_ema
from transip.training.objective import Objective
from transip.training.optim import Optimizers, lr_factor
from transip.training.terms import Energy, Forces, Latent

shares = st.floats(0, 1)
SETTINGS = [
    OptimizerSettings(name=name, learning_rate=3e-3, muon_learning_rate=0.05, weight_decay=0.1)
    for name in ("muon", "adamw")
]


def objective(preset: str = "default", forces: str = "direct") -> Objective:
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({**TINY, "preset": preset, "forces": forces})
    potential = Potential(settings, torch.zeros(87, dtype=torch.float64), 1.0)
    latent = Latent(LatentSettings(weight=1.0, hidden=16), settings.width)
    return Objective(potential, [Energy(8.0), Forces(1.0), latent])


def give_gradients(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_every_parameter_is_in_exactly_one_group(settings, preset, forces):
    module = objective(preset, forces)
    groups = [group for part in Optimizers(module, settings).optimizers.values() for group in part.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters())


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_muon_has_the_matrices_of_the_blocks_and_nothing_else(preset):
    module = objective(preset)
    optimizers = Optimizers(module, SETTINGS[0])
    names = {id(p): name for name, p in module.named_parameters()}
    found = {names[id(p)] for group in optimizers.optimizers["muon"].param_groups for p in group["params"]}
    layers = [f"attention.{name}" for name in ("query", "key", "value", "output")]
    layers += [f"mlp.{name}" for name in ("gate", "up", "down")]
    if preset == "default":
        layers += [f"local.{name}" for name in ("channel_proj", "out_proj")]
        layers += [f"local.power_spectrum.{name}" for name in ("left_proj", "right_proj", "out_proj")]
    assert found == {f"potential.backbone.blocks.{i}.{layer}.weight" for i in (0, 1) for layer in layers}
    assert set(Optimizers(module, SETTINGS[1]).optimizers) == {"adamw"}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
def test_only_matrices_decay(settings):
    module = objective()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Optimizers(module, settings).step(progress=settings.warmup)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and before[name].any():
            assert parameter.norm() < before[name].norm(), name
        else:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
def test_every_parameter_moves_at_its_own_peak_rate(settings):
    module = objective()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizers = Optimizers(module, settings)
    give_gradients(module, 0)
    assert optimizers.step(progress=settings.warmup) == settings.learning_rate
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert {name: part.param_groups[0]["lr"] for name, part in optimizers.optimizers.items()} == {
        name: rate
        for name, rate in (("muon", settings.muon_learning_rate), ("adamw", settings.learning_rate))
        if name in optimizers.optimizers
    }


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
def test_the_state_goes_to_tensors_and_back(settings):
    module, twin = objective(), objective()
    optimizers, restored = Optimizers(module, settings), Optimizers(twin, settings)
    for seed in range(3):
        give_gradients(module, seed)
        optimizers.step(0.5)
    twin.load_state_dict(module.state_dict())
    restored.load_tensors({name: value.clone() for name, value in optimizers.tensors().items()})
    for seed in range(3, 6):
        for m, o in ((module, optimizers), (twin, restored)):
            give_gradients(m, seed)
            o.step(0.8)
    torch.testing.assert_close(twin.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_forgotten_gradients_are_gone():
    module = objective()
    give_gradients(module, 0)
    Optimizers(module, SETTINGS[0]).zero_grad()
    assert all(p.grad is None for p in module.parameters())


class TestSchedule:
    @given(warmup=st.floats(0, 0.999) | st.just(1.0), floor=shares)
    def test_ends_at_the_floor(self, warmup, floor):
        assert lr_factor(1.0, warmup, floor) == pytest.approx(floor if warmup < 1 else 1.0)

    @given(warmup=st.floats(0.01, 0.99), floor=shares)
    def test_starts_at_zero_and_peaks_after_the_warm_up(self, warmup, floor):
        assert lr_factor(0.0, warmup, floor) == 0
        assert lr_factor(warmup, warmup, floor) == 1
        assert lr_factor(0.5 * warmup, warmup, floor) == pytest.approx(0.5)

    @given(warmup=shares, floor=shares, a=shares, b=shares)
    def test_rises_in_the_warm_up_and_falls_afterwards(self, warmup, floor, a, b):
        a, b = sorted((a, b))
        first, second = lr_factor(a, warmup, floor), lr_factor(b, warmup, floor)
        assert 0 <= first <= 1 and 0 <= second <= 1
        if b < warmup:
            assert first <= second
        elif a >= warmup:
            assert first >= second - 1e-12

    def test_starts_at_the_peak_without_a_warm_up(self):
        assert lr_factor(0.0, 0.0, 0.1) == 1


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_that_of_a_loop_by_hand(decay):
    """Weights w ← d w + (1 − d) new with d = min(decay, (1 + n) / (10 + n)) at the n-th update, the first a copy."""
    potential = objective().potential
    averaged = make_ema(potential, decay)
    by_hand: dict[str, torch.Tensor] = {}
    for n in range(30):
        for i, parameter in enumerate(potential.parameters()):
            parameter.data = torch.full_like(parameter, float((7 * n + i) % 11))
        averaged.update_parameters(potential)
        memory = min(decay, (1 + n) / (10 + n)) if n else 0.0
        for name, parameter in potential.named_parameters():
            old = by_hand.get(name, torch.zeros_like(parameter))
            by_hand[name] = memory * old + (1 - memory) * parameter.detach()
    for name, parameter in averaged.module.named_parameters():
        torch.testing.assert_close(parameter, by_hand[name], rtol=1e-4, atol=1e-4)
