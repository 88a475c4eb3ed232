"""Fine-tuning a part of a trained model: what is frozen, and what is learned beside it.

What is learned beside frozen weights is a parametrisation of them (`torch.nn.utils.parametrize`); `merged` makes plain
weights of both, so that a fine-tuned model is like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from transip.config import FineTuningSettings
from transip.model.potential import Potential
from transip.model.transformer import Block
from transip.structure import MAX_CHARGE


class Unseen(NamedTuple):
    """What the data have and the trained model has not seen: atomic numbers, total charges (e), multiplicities."""

    elements: Sequence[int] = ()
    charges: Sequence[int] = ()
    spins: Sequence[int] = ()


class LowRank(nn.Module):
    """W + alpha / rank · up @ down, which is W at first (LoRA, arXiv 2106.09685)."""

    def __init__(self, weight: Float[Tensor, "outputs inputs"], rank: int, alpha: float):
        super().__init__()
        outputs, inputs = weight.shape
        self.factor = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, inputs).to(weight) / inputs**0.5)
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))

    def forward(self, weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        """The matrix that is used."""
        return torch.addmm(weight, self.up, self.down, alpha=self.factor)


class NewRows(nn.Module):
    """A table of which only some rows are learned."""

    rows: Tensor

    def __init__(self, table: Float[Tensor, "rows width"], rows: Sequence[int]):
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows))
        self.values = nn.Parameter(table[rows].clone())

    def forward(self, table: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """The table that is used."""
        return table.index_copy(0, self.rows, self.values)


def adapt(potential: Potential, settings: FineTuningSettings, unseen: Unseen) -> None:
    """Freeze what `settings` say, in place, and give it what is learned beside it; predictions stay as they are.

    Heads and the last norm are always trained, and so are the vectors of `unseen` elements, charges and multiplicities.
    """
    if settings.frozen_blocks is None and not settings.lora_rank:
        return
    embed, kept = potential.embed.requires_grad_(False), settings.frozen_blocks or 0
    charges = [charge + MAX_CHARGE for charge in unseen.charges]
    for table, rows in ((embed.element, unseen.elements), (embed.charge, charges), (embed.spin, unseen.spins)):
        if rows:
            _learn(table, NewRows(table.weight.detach(), rows))
    for number, block in enumerate(cast(Block, module) for module in potential.transformer.blocks):
        if settings.lora_rank or number < kept:
            block.requires_grad_(False)
        for matrix in chain(block.attention.children(), block.mlp.children()):
            if settings.lora_rank and number >= kept and isinstance(matrix, nn.Linear):
                _learn(matrix, LowRank(matrix.weight.detach(), settings.lora_rank, settings.alpha))


def merged(potential: Potential) -> Potential:
    """`potential`, or if something is learned beside its weights a copy with plain ones; predictions are the same."""
    learned = {name: part for name, part in potential.named_modules() if parametrize.is_parametrized(part, "weight")}
    if not learned:
        return potential
    # Not `parametrize.remove_parametrizations` on a deep copy: a copy shares its classes with the original.
    with torch.random.fork_rng(devices=[]):
        plain = Potential(potential.settings, potential.references, potential.scale, potential.card)
    state = {name: value for name, value in potential.state_dict().items() if ".parametrizations." not in name}
    state |= {f"{name}.weight": part.weight for name, part in learned.items()}
    plain.to(next(potential.parameters())).load_state_dict(state)
    return plain.train(potential.training)


def _learn(module: nn.Module, beside: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", beside)
