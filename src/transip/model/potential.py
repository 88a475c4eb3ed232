"""The potential, as in the paper's figure: encode the atoms, read energies and forces from their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from transip.batch import TERMS, Batch, Prediction, charge_spin_terms, dipole_moment, segment_sum
from transip.blocks import VerletBlocks
from transip.config import ModelSettings
from transip.model.backbone import Backbone
from transip.model.charges import ChargeEnergy, ChargeHead
from transip.model.compiled import CompiledGraph, compilable
from transip.model.coulomb import coulomb_energies
from transip.model.derivatives import NetworkOutput, with_conservative_forces
from transip.model.heads import EnergyHead, ForceHead
from transip.model.repulsion import NuclearRepulsion
from transip.model.transformer import Transformer

REFERENCES = ("references", "charge_spin_references")  # buffers that stay in float64


class Potential(nn.Module):
    """Energies and forces of molecules and cells from embeddings of their atoms.

    E = Σ_i reference[z_i] + (reference of charge and spin) + scale · Σ_i head(h_i). The references are added in float64
    outside the network, so totals near −10⁶ eV lose nothing; the one `scale` (eV) serves energies and forces.

    Args:
        settings: the architecture; of a `backbone` of your own, `forces` and what that reads.
        references: energy of each element in eV, float64, indexed by atomic number.
        scale: eV; about the root mean square force in eV/Å.
        card: what is known about the model (level of theory, elements seen, …); kept with the weights.
        backbone: encodes the atoms, an `nn.Module` with the methods of `Backbone`; None: a `Transformer`.
        charge_spin_references: eV, float64, of Q, 2S and Q² (`transip.batch.TERMS`); None: zeros.
    """

    backbone: Backbone
    references: Tensor
    charge_spin_references: Tensor

    def __init__(
        self,
        settings: ModelSettings,
        references: Float64[Tensor, "elements"],
        scale: float,
        card: dict[str, Any] | None = None,
        backbone: Backbone | None = None,
        charge_spin_references: Float64[Tensor, "terms"] | None = None,
    ):
        super().__init__()
        self.settings, self.scale, self.card = settings, scale, dict(card or {})
        self.has_custom_backbone = backbone is not None
        self.graph: CompiledGraph | None = None
        self.verlet_blocks = VerletBlocks()
        self.backbone = Transformer(settings) if backbone is None else backbone
        width = self.backbone.width
        self.energy_head = EnergyHead(width)
        num_rbf = settings.num_rbf if settings.has_edge_force_head and backbone is None else None
        self.force_head = ForceHead(width, num_rbf) if settings.forces == "direct" else None
        self.charge_head = ChargeHead(width) if settings.charges == "output" else None
        is_local = settings.charges == "local" and backbone is None
        self.charge_energy = ChargeEnergy() if is_local else None
        self.repulsion = NuclearRepulsion() if settings.repulsion and backbone is None else None
        if charge_spin_references is None:
            charge_spin_references = torch.zeros(len(TERMS))
        self.register_buffer("references", references.double())
        self.register_buffer("charge_spin_references", charge_spin_references.double())

    @compilable
    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Prediction:
        """Predict energies (eV) and forces (eV/Å); also embeddings after the `layers` asked for.

        Embeddings are normed to unit root mean square, so that they compare across layers. Under
        ``torch.no_grad()`` and ``torch.inference_mode()`` conservative forces (and stress) are computed all the same
        and everything comes back detached.

        Raises:
            InputError: a structure is periodic and the model has no cutoff.
        """
        if self.has_direct_forces:
            output = self.network(batch, batch.positions, batch.cell, layers)
        else:
            output = with_conservative_forces(self.network, batch, layers)
        assert output.forces is not None
        energies = output.atom_energies.double() * self.scale + self.reference_energies(batch)
        charges = output.charges
        return Prediction(
            energy=segment_sum(energies, batch),
            atom_energies=energies,
            forces=output.forces * self.scale,
            embeddings=tuple(map(rms_normalize, output.hidden_states)),
            stress=None if output.stress is None else output.stress * self.scale,
            charges=None if charges is None else charges.charges,
            spin_populations=None if charges is None else charges.spin_populations,
            dipole=None if charges is None else dipole_moment(charges.charges, batch),
            unassigned=None if charges is None else charges.unassigned,
        )

    def with_blocks(self, batch: Batch) -> Batch:
        """`batch` with what its atoms see, if the backbone compares atoms in blocks.

        Where nothing is trained, blocks are kept with a skin: dynamics finds them again only every few steps.
        """
        find = getattr(self.backbone, "find_blocks", None)
        if batch.blocks is not None or find is None:
            return batch
        trained = torch.is_grad_enabled()
        with torch.inference_mode(False):
            blocks = find(batch) if trained else self.verlet_blocks(batch, find)
        return replace(batch, blocks=blocks)

    def reference_energies(self, batch: Batch) -> Float64[Tensor, "atoms"]:
        """Per atom, eV: that of its element, and an even part of what belongs to the charge and spin of the whole."""
        of_structure = (charge_spin_terms(batch) * self.charge_spin_references).sum(1) / batch.atom_counts
        return self.references[batch.numbers] + of_structure[batch.structure_index]

    def network(self, batch: Batch, positions: Tensor, cell: Tensor | None, layers: Sequence[int]) -> NetworkOutput:
        """Backbone and heads at the given positions and lattice vectors (Å), in units of the scale."""
        encoded = self.backbone(batch, positions, cell, layers)
        forces = None if self.force_head is None else self.force_head(encoded, batch)
        energies, charges = self.energy_head(encoded), encoded.charges
        if self.charge_head is not None:
            charges = self.charge_head(encoded.embeddings, batch)
        if self.charge_energy is not None and charges is not None:
            energies = energies + self.charge_energy(charges, batch) / self.scale
        if self.repulsion is not None and encoded.pairs is not None:
            energies = energies + self.repulsion(encoded.pairs, batch) / self.scale
        if self.settings.smearing is not None and charges is not None:
            coulomb = coulomb_energies(charges.charges, positions, batch, self.settings.smearing)
            energies = energies + coulomb / self.scale
        return NetworkOutput(energies, forces, encoded.hidden_states, charges=charges)

    def embeddings(self, batch: Batch, layers: Sequence[int]) -> tuple[Float[Tensor, "atoms width"], ...]:
        """Embeddings after `layers`, as `forward` gives them, without energies and forces."""
        encoded = self.backbone(self.with_blocks(batch), batch.positions, batch.cell, layers)
        return tuple(map(rms_normalize, encoded.hidden_states))

    @property
    def has_direct_forces(self) -> bool:
        """Whether forces come from a head; else they are derivatives of the energy."""
        return self.force_head is not None

    @property
    def has_charges(self) -> bool:
        """Whether predictions have partial charges and, of molecules, a dipole."""
        return self.charge_head is not None or self.charge_energy is not None

    @property
    def has_spin_populations(self) -> bool:
        """Whether predictions have the unpaired electrons of each atom."""
        return self.has_charges

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        """Casting the network to another precision leaves the references in float64."""
        references = {name: getattr(self, name) for name in REFERENCES}
        super()._apply(fn, recurse)
        for name, values in references.items():
            setattr(self, name, values.to(getattr(self, name).device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """What was saved before there were references of charge and spin has none."""
        state_dict.setdefault(f"{prefix}charge_spin_references", torch.zeros_like(self.charge_spin_references))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def rms_normalize(embedding: Float[Tensor, "atoms width"]) -> Float[Tensor, "atoms width"]:
    """Embeddings of unit root mean square."""
    return nn.functional.rms_norm(embedding, embedding.shape[-1:])
