"""The potential, as in the paper's figure: embed the atoms, let them attend to each other, read energy and forces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from transip.batch import Batch, Prediction, segment_mean, segment_sum
from transip.config import ModelSettings
from transip.errors import InputError
from transip.model.embedding import AtomEmbedding
from transip.model.heads import EnergyHead, ForceHead, PairForceHead, VectorEnergyHead, VectorForceHead
from transip.model.images import surround
from transip.model.pairs import DENSE, EveryPair, in_parts
from transip.model.transformer import Hidden, Transformer

NO_CUTOFF = "a model without a cutoff cannot see periodic structures"
GIVE_CUTOFF = "train one with model.cutoff, or set pbc to False if this is a molecule in a box"


class Potential(nn.Module):
    """Energies and forces of molecules from a Transformer over their atoms.

    E = Σ_i reference[z_i] + scale · Σ_i head(h_i). The references are added in float64 outside the network, so
    totals near −10⁶ eV lose nothing; the one `scale` (eV) serves energies and forces.

    Args:
        settings: the architecture.
        references: energy of each element in eV, float64, indexed by atomic number.
        scale: eV; about the root mean square force in eV/Å.
        card: what is known about the model (level of theory, elements seen, …); kept with the weights.
    """

    references: Tensor

    def __init__(
        self,
        settings: ModelSettings,
        references: Float64[Tensor, "elements"],
        scale: float,
        card: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.settings, self.scale, self.card = settings, scale, dict(card or {})
        self.embed = AtomEmbedding(
            settings.width, settings.absolute_features, settings.min_frequency, settings.max_frequency
        )
        self.transformer = Transformer(settings)
        vectors = settings.fixed_representation
        # A learned gain per channel would break the fixed representation, hence none there.
        self.norm = nn.RMSNorm(settings.width, elementwise_affine=not vectors)
        self.energy_head = (VectorEnergyHead if vectors else EnergyHead)(settings.width)
        direct = settings.forces == "direct"
        self.force_head = (VectorForceHead if vectors else ForceHead)(settings.width) if direct else None
        self.pair_force_head = PairForceHead(settings.width, settings.num_rbf) if settings.has_edge_force_head else None
        self.register_buffer("references", references.to(torch.float64))

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        """Predict energies (eV) and forces (eV/Å); also embeddings after the `layers` asked for.

        Embeddings are normed to unit root mean square, so that they compare across layers. Under
        ``torch.no_grad()`` and ``torch.inference_mode()`` conservative forces (and stress) are computed all the same
        and everything comes back detached.

        Raises:
            InputError: a structure is periodic and the model has no cutoff.
        """
        return (self._conservative if self.force_head is None else self._direct)(batch, layers)

    def __call__(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        """`forward`, as `compile_network` made it if it was called and the batch is fit for it."""
        if self.force_head is None and torch.is_inference_mode_enabled():  # in which no derivative can be taken
            with torch.inference_mode(False), torch.no_grad():
                return self(batch.clone(), layers)
        run: Callable[..., Any] = super().__call__ if self._compilable(batch) else self._call_impl
        return run(batch, layers)

    def _compilable(self, batch: Batch) -> bool:
        if batch.cell is not None:  # images come in any number
            return False
        if torch.is_grad_enabled():  # large molecules' neighbours are counted, which interrupts a derivative
            return self.force_head is not None or batch.max_num_atoms <= DENSE
        return not in_parts(len(batch), batch.max_num_atoms)  # a compiler would write out each part of the pairs

    def _direct(self, batch: Batch, layers: Sequence[int]) -> Prediction:
        assert self.force_head is not None
        hiddens, pairs = self._see(batch, batch.positions, batch.cell, frugal=not torch.is_grad_enabled())
        padded = self.norm(hiddens[-1])
        last = batch.from_dense(padded)
        forces = self.force_head(last).to(batch.positions.dtype)
        if self.pair_force_head is not None:
            forces = forces + batch.from_dense(self.pair_force_head(padded, pairs))
        forces = forces * self.scale
        forces = forces - segment_mean(forces, batch)[batch.structure_index]  # no net force on a molecule
        return self._prediction(batch, self.energy_head(last), forces, hiddens, layers)

    def embeddings(self, batch: Batch, layers: Sequence[int]) -> tuple[Float[Tensor, "atoms width"], ...]:
        """Embeddings after `layers`, as `forward` gives them; blocks after the deepest of them are not run."""
        layers = [layer % self.settings.depth for layer in layers]
        frugal = not torch.is_grad_enabled()
        hiddens, _ = self._see(batch, batch.positions, batch.cell, max(layers) + 1, frugal=frugal)
        return tuple(unit_rms(batch.from_dense(hiddens[layer])) for layer in layers)

    def _conservative(self, batch: Batch, layers: Sequence[int]) -> Prediction:
        training = torch.is_grad_enabled()
        derivative = _traced_derivative if training and torch.compiler.is_compiling() else _derivative

        def energy(positions: Tensor, strain: Tensor | None) -> tuple[Tensor, tuple[Tensor, list[Hidden]]]:
            cell = batch.cell
            if cell is not None and strain is not None:
                stretch = torch.eye(3, dtype=cell.dtype, device=cell.device) + (strain + strain.mT) / 2
                positions, cell = (positions[:, None] @ stretch[batch.structure_index])[:, 0], cell @ stretch
            hiddens, _ = self._see(batch, positions, cell, frugal=not training)
            shares = self.energy_head(self.norm(batch.from_dense(hiddens[-1])))
            return shares.sum(), (shares, hiddens)

        strain = None if batch.cell is None else torch.zeros_like(batch.cell)
        gradient, virial, (shares, hiddens) = derivative(energy, batch.positions, strain)
        if not training:
            shares, hiddens = shares.detach(), [hidden.detach() for hidden in hiddens]
        stress = None if virial is None else _per_volume(virial * self.scale, batch)
        return self._prediction(batch, shares, -gradient * self.scale, hiddens, layers, stress)

    def _see(
        self, batch: Batch, positions: Tensor, cell: Tensor | None, depth: int | None = None, *, frugal: bool
    ) -> tuple[list[Hidden], EveryPair]:
        """What `Transformer` says about `batch` with these positions and lattice vectors."""
        images = None
        if cell is not None:
            if self.settings.cutoff is None:
                raise InputError(NO_CUTOFF, remedy=GIVE_CUTOFF)
            positions, images = surround(positions, cell, batch, self.settings.cutoff)
        positions = centred(positions, batch)
        return self.transformer(self.embed(batch, positions), positions, batch, depth, images=images, frugal=frugal)

    def _prediction(
        self,
        batch: Batch,
        shares: Tensor,
        forces: Tensor,
        hiddens: list[Tensor],
        layers: Sequence[int],
        stress: Tensor | None = None,
    ) -> Prediction:
        energies = shares.double() * self.scale + self.references[batch.numbers]
        latents = tuple(unit_rms(batch.from_dense(hiddens[layer])) for layer in layers)
        return Prediction(segment_sum(energies, batch), energies, forces, latents, stress)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        """Casting the network to another precision leaves the references in float64."""
        references = self.references
        super()._apply(fn, recurse)
        self.references = references.to(self.references.device)
        return self

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())


def centred(positions: Float[Tensor, "atoms 3"], batch: Batch) -> Float[Tensor, "atoms 3"]:
    """Positions relative to the centroid of each structure."""
    return positions - segment_mean(positions, batch)[batch.structure_index]


def _derivative(
    energy: Callable[..., tuple[Tensor, Any]], positions: Tensor, strain: Tensor | None
) -> tuple[Tensor, Tensor | None, Any]:
    """∂E/∂positions, ∂E/∂strain and what `energy` returns beside E; to be differentiated again if gradients are on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        positions = positions if positions.requires_grad else positions.detach().requires_grad_()
        leaves = [positions] if strain is None else [positions, strain.requires_grad_()]
        value, beside = energy(positions, strain)
        gradient, *virial = torch.autograd.grad(value, leaves, create_graph=again)
    return gradient, virial[0] if virial else None, beside


def _traced_derivative(
    energy: Callable[..., tuple[Tensor, Any]], positions: Tensor, strain: Tensor | None
) -> tuple[Tensor, None, Any]:
    """`_derivative` for a compiler, which takes derivatives of this form alone into a graph that can be differentiated
    again. Molecules only."""
    assert strain is None
    gradient, beside = torch.func.grad(energy, has_aux=True)(positions, strain)
    return gradient, None, beside


def _per_volume(virial: Float[Tensor, "structures 3 3"], batch: Batch) -> Float[Tensor, "structures 3 3"]:
    """Stress in eV/Å³; NaN, without a trace in derivatives, where not all three directions are periodic."""
    assert batch.cell is not None
    volume = torch.linalg.det(batch.cell).abs()[:, None, None]
    return (virial / volume.where(volume > 0, 1.0)).where(volume > 0, math.nan)


def unit_rms(embedding: Float[Tensor, "atoms width"]) -> Float[Tensor, "atoms width"]:
    """Embeddings of unit root mean square."""
    return nn.functional.rms_norm(embedding, embedding.shape[-1:])
