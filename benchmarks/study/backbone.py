"""A second backbone with nothing of transip's in it: message passing on plain displacement vectors.

No rotation symmetry is built in: Cartesian components of displacements enter, forces are read off as three numbers.
It is trained by the same loop with the same `LatentEquivariance` as the Transformer; all that training asks of a
backbone is in `MessagePassing`: `forward(batch, layers)`, `settings`, `scale` and `references`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch, Prediction, segment_mean, segment_sum
from transip.config import Recipe
from transip.data.dataset import Dataset
from transip.data.references import AtomicReferences, statistics
from transip.structure import MAX_ATOMIC_NUMBER

CUTOFF = 5.0  # Å
RADIAL = 32  # Gaussians over which a displacement's length is spread, for each of 1, x/r, y/r, z/r

Edges = Int64[Tensor, "edges"]


@dataclass(frozen=True)
class Shape:
    """Of the network; `forces` says that they come from a head of their own."""

    width: int = 64
    depth: int = 3
    forces: str = "direct"


class MessagePassing(nn.Module):
    """Energies (eV) and forces (eV/Å) of neutral molecules by passing messages between atoms nearer than 5 Å.

    Args:
        settings: width and depth.
        references: energy of each element in eV, float64, indexed by atomic number.
        scale: eV; about the root mean square force in eV/Å.
    """

    references: Tensor

    def __init__(self, settings: Shape, references: Float64[Tensor, "elements"], scale: float):
        super().__init__()
        self.settings, self.scale = settings, scale
        self.embed = nn.Embedding(MAX_ATOMIC_NUMBER + 1, settings.width)
        self.blocks = nn.ModuleList(Interaction(settings.width) for _ in range(settings.depth))
        self.energy_head, self.force_head = (_head(settings.width, outputs) for outputs in (1, 3))
        self.register_buffer("references", references.to(torch.float64))
        self.register_buffer("centers", torch.linspace(0, CUTOFF, RADIAL), persistent=False)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        """Predict `batch`; also the embeddings after the `layers` asked for, at unit root mean square."""
        receiver, sender = edges(batch)
        vector = batch.positions[sender] - batch.positions[receiver]
        distance = vector.norm(dim=-1, keepdim=True)
        step = CUTOFF / (RADIAL - 1)
        radial = (-0.5 * ((distance - self.centers) / step).square()).exp()
        directions = torch.cat([torch.ones_like(distance), vector / distance], -1)
        described = (directions[..., None] * radial[:, None]).flatten(1)
        fade = 0.5 + 0.5 * (distance * (math.pi / CUTOFF)).cos()
        hidden, hiddens = self.embed(batch.numbers), []
        for block in self.blocks:
            hidden = block(hidden, described, fade, receiver, sender)
            hiddens.append(hidden)
        normed = _unit_rms(hidden)
        shares = self.energy_head(normed)[:, 0].double() * self.scale + self.references[batch.numbers]
        forces = self.force_head(normed) * self.scale
        forces = forces - segment_mean(forces, batch)[batch.structure_index]
        latents = tuple(_unit_rms(hiddens[layer]) for layer in layers)
        return Prediction(segment_sum(shares, batch), shares, forces, latents)

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class Interaction(nn.Module):
    """h_i ← h_i + update(h_i, Σ_j message(h_i, h_j, r_ij)), the sum over the atoms within the cutoff.

    The displacement r_ij acts on what the neighbour sends as a filter (as in SchNet, but not rotation-invariant).
    """

    def __init__(self, width: int):
        super().__init__()
        self.receives, self.sends = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.sees = nn.Linear(4 * RADIAL, width, bias=False)
        self.message = nn.Linear(width, width)
        self.update = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(
        self,
        hidden: Float[Tensor, "atoms width"],
        described: Float[Tensor, "edges features"],
        fade: Float[Tensor, "edges 1"],
        receiver: Edges,
        sender: Edges,
    ) -> Float[Tensor, "atoms width"]:
        normed = _unit_rms(hidden)
        mixed = self.receives(normed)[receiver] + self.sends(normed)[sender] * self.sees(described)
        messages = fade * functional.silu(self.message(functional.silu(mixed)))
        received = torch.zeros_like(hidden).index_add(0, receiver, messages)
        return hidden + self.update(torch.cat([normed, received], -1))


def edges(batch: Batch) -> tuple[Edges, Edges]:
    """(receiver, sender) of all pairs of atoms of one molecule that are nearer than the cutoff."""
    atoms = torch.zeros(len(batch) * batch.max_num_atoms, dtype=torch.int64, device=batch.positions.device)
    atoms[batch.padded_index] = torch.arange(batch.num_atoms, device=atoms.device)
    padded = batch.positions.new_zeros(len(atoms), 3).index_copy(0, batch.padded_index, batch.positions)
    padded = padded.view(len(batch), batch.max_num_atoms, 3)
    near = (padded[:, :, None] - padded[:, None]).square().sum(-1) < CUTOFF**2
    near &= batch.mask[:, :, None] & batch.mask[:, None]
    near &= ~torch.eye(batch.max_num_atoms, dtype=torch.bool, device=near.device)
    structure, first, second = near.nonzero().unbind(1)
    return atoms[structure * batch.max_num_atoms + first], atoms[structure * batch.max_num_atoms + second]


def build(recipe: Recipe, data: Dataset) -> MessagePassing:
    """A network as wide as the recipe's model, its references and scale fitted to `data`."""
    references = AtomicReferences.from_settings(recipe.references, data)
    scale = statistics(data, references)["force_rms"]
    return MessagePassing(Shape(recipe.model.width), torch.from_numpy(references.values), scale)


def _head(width: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)


def _unit_rms(hidden: Float[Tensor, "atoms width"]) -> Float[Tensor, "atoms width"]:
    return functional.rms_norm(hidden, hidden.shape[-1:])
