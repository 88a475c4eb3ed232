"""Conservative forces and stress: derivatives of the energy with respect to positions and strain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from transip.batch import Batch
from transip.model.backbone import AtomicCharges


@dataclass(frozen=True)
class NetworkOutput:
    """What the network says of the atoms of a batch, in units of the model's scale and, for forces, per Å.

    Attributes:
        atom_energies: without references, (atoms,).
        forces: (atoms, 3); None where they have not been derived yet.
        hidden_states: of the atoms after the layers asked for, (atoms, width).
        stress: ∂E/∂ε / V, (structures, 3, 3); None from direct forces and of molecules.
        charges: in e and unpaired electrons, whatever the scale; None from models that have none.
    """

    atom_energies: Float[Tensor, "atoms"]
    forces: Float[Tensor, "atoms 3"] | None
    hidden_states: tuple[Float[Tensor, "atoms width"], ...]
    stress: Float[Tensor, "structures 3 3"] | None = None
    charges: AtomicCharges | None = None


@runtime_checkable
class Network(Protocol):
    """Backbone and heads as a function of the positions and lattice vectors of a batch."""

    def __call__(self, batch: Batch, positions: Tensor, cell: Tensor | None, layers: Sequence[int]) -> NetworkOutput:
        """Per-atom energies and hidden states; forces are not asked for."""
        ...


# The total energy as a function of positions and strain, and anything else that is to be kept.
Energy = Callable[[Tensor, Tensor | None], tuple[Tensor, Any]]


def with_conservative_forces(network: Network, batch: Batch, layers: Sequence[int]) -> NetworkOutput:
    """What `network` says, with forces −∂E/∂x and, of cells, stress.

    Forces can be differentiated again if gradients are enabled; else everything comes back detached.
    """
    create_graph = torch.is_grad_enabled()

    def energy(positions: Tensor, strain: Tensor | None) -> tuple[Tensor, Any]:
        cell, positions = batch.cell, positions.view_as(positions)  # a view: FLOP counters hook no leaves
        if cell is not None and strain is not None:
            deformation = torch.eye(3, dtype=cell.dtype, device=cell.device) + (strain + strain.mT) / 2
            positions = (positions[:, None] @ deformation[batch.structure_index])[:, 0]
            cell = cell @ deformation
        output = network(batch, positions, cell, layers)
        return output.atom_energies.sum(), (output.atom_energies, output.hidden_states, output.charges or ())

    strain = None if batch.cell is None else torch.zeros_like(batch.cell)
    traced = create_graph and torch.compiler.is_compiling()
    gradient, virial, kept = (_traced_gradient if traced else _gradient)(energy, batch.positions, strain)
    energies, hidden_states, charges = kept if create_graph else tree_map(Tensor.detach, kept)
    stress = None if virial is None else _per_volume(virial, batch)
    return NetworkOutput(energies, -gradient, hidden_states, stress, charges or None)


def _gradient(energy: Energy, positions: Tensor, strain: Tensor | None) -> tuple[Tensor, Tensor | None, Any]:
    """∂E/∂positions, ∂E/∂strain and what `energy` returns besides E."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        positions = positions if positions.requires_grad else positions.detach().requires_grad_()
        leaves = [positions] if strain is None else [positions, strain.requires_grad_()]
        total, aux = energy(positions, strain)
        gradient, *virial = torch.autograd.grad(total, leaves, create_graph=create_graph)
    return gradient, virial[0] if virial else None, aux


def _traced_gradient(energy: Energy, positions: Tensor, strain: Tensor | None) -> tuple[Tensor, Tensor | None, Any]:
    """`_gradient` for a compiler, which takes derivatives of this form alone into a graph that can be differentiated
    again."""
    if strain is None:
        gradient, aux = torch.func.grad(energy, has_aux=True)(positions, strain)
        return gradient, None, aux
    (gradient, virial), aux = torch.func.grad(energy, argnums=(0, 1), has_aux=True)(positions, strain)
    return gradient, virial, aux


def _per_volume(virial: Float[Tensor, "structures 3 3"], batch: Batch) -> Float[Tensor, "structures 3 3"]:
    """Stress; NaN, without a trace in derivatives, where not all three directions are periodic."""
    assert batch.cell is not None
    volume = torch.linalg.det(batch.cell).abs()[:, None, None]
    return (virial / volume.where(volume > 0, 1.0)).where(volume > 0, math.nan)
