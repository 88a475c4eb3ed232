"""A transip potential in TorchSim: molecular dynamics and relaxation of many molecules as one batch, on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from transip.batch import Batch, centered
from transip.errors import InputError
from transip.extras import import_optional
from transip.inference.domain import ApplicabilityDomain, OnUnseen
from transip.inference.predict import Precision, has_direct_forces, load_for_inference
from transip.model.potential import Potential
from transip.structure import Structure, parse_int
from transip.symmetry.average import with_rotation_average

ModelInterface: Any = import_optional("torch_sim.models.interface", "torchsim").ModelInterface

Periodic = Literal["images", "isolate"]


class TransIPModel(ModelInterface):
    """Energies (eV) and forces (eV/Å) of a batch of molecules or cells: TorchSim's ``ModelInterface``.

    A model with conservative forces with a cutoff also has a stress.

    Args:
        model: folder or name of a model, or a model in memory (copied).
        charge: total charge of every molecule in e; None: each one's from ``state.charge``, which TorchSim ≥ 0.6 keeps
            (``atoms_to_state(…, system_extras_map={"charge": "charge", "spin": "spin"})``).
        spin: multiplicity 2S + 1 of every molecule; None: each one's from ``state.spin``.
        device: where state and network are.
        dtype: precision of the state, hence of integration and results; float64 keeps total energies exact.
        network: precision of the network.
        unseen: what to do about elements, charges and multiplicities that the model was not trained on.
        average: predict in this many orientations and average; see `TransIPCalculator`.
        periodic: what atoms of periodic states see: all ``images``, for which the model needs a cutoff, or, to
            ``isolate`` the molecule in each cell, those atoms' images nearest to its first atom alone.
        compile: compile the network; see `TransIPCalculator`.

    Raises:
        InputError: the model cannot be loaded; later, in `forward`, a system cannot be used or the simulation broke
            down.
    """

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        charge: int | None = None,
        spin: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        network: Precision = "float32",
        unseen: OnUnseen = "warn",
        average: int | None = None,
        periodic: Periodic = "images",
        compile: bool = False,
    ):
        super().__init__()
        self.model = load_for_inference(model, device, network, compile=compile)
        self._predictor = with_rotation_average(self.model, average)
        self._domain, self._periodic = ApplicabilityDomain(self.model, unseen), periodic
        self._given = {"charge": charge, "spin": spin}
        self._checked: tuple[Tensor, ...] = ()
        self._device, self._dtype = torch.device(device), dtype
        has_stress = self._domain.periodic and not has_direct_forces(self.model)
        self._compute_forces, self._compute_stress = True, has_stress and periodic == "images"
        self._memory_scales_with = "n_atoms"

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Predict a TorchSim state.

        Returns:
            ``energy`` in eV, (systems,), ``forces`` in eV/Å, (atoms, 3), and, if the model has one, ``stress`` in
            eV/Å³, (systems, 3, 3), zero unless all directions are periodic; if it has them, ``charges`` (e) and
            ``spin_populations``, (atoms,), and ``dipole`` in e·Å, (systems, 3), of an ion about its centre of mass,
            NaN where periodic; all in the state's precision. TorchSim has no names of its own for the last three.

        Raises:
            InputError: the state is periodic and the model has no cutoff; charge or spin is missing or impossible;
                atoms overlap in a system not seen before; a result is not finite.
        """
        batch = self._batch(SimpleNamespace(**state) if isinstance(state, dict) else state)
        self._check(batch)
        with torch.no_grad():
            # About the origin: far from it, float32 could not tell atoms apart.
            recentered = replace(batch, positions=centered(batch.positions, batch))
            prediction = self._predictor(recentered.to(dtype=next(self.model.parameters()).dtype))
        if not (prediction.energy.isfinite().all() and prediction.forces.isfinite().all()):
            raise InputError(
                "the model's energies or forces are not finite",
                where="TorchSim state",
                remedy="the geometry is far from what the model was trained on; try a shorter timestep",
            )
        results = {"energy": prediction.energy.to(self._dtype), "forces": prediction.forces.to(self._dtype)}
        if self._compute_stress:
            none = results["energy"].new_zeros(len(batch), 3, 3)
            results["stress"] = none if prediction.stress is None else prediction.stress.nan_to_num(nan=0.0).to(none)
        more = {name: getattr(prediction, name) for name in ("charges", "spin_populations", "dipole")}
        return results | {name: value.to(self._dtype) for name, value in more.items() if value is not None}

    def _batch(self, state: Any) -> Batch:
        counts = torch.bincount(state.system_idx)
        positions, cell = state.positions.detach(), None
        pbc = torch.as_tensor(state.pbc, device=positions.device)
        if pbc.any() and self._periodic == "isolate":
            positions = nearest_images(positions, state.cell, state.system_idx, counts)
        elif pbc.any():
            cell = torch.where(pbc.expand(3)[:, None], state.cell.detach().mT, 0.0)  # there, vectors are columns
        return Batch(
            numbers=state.atomic_numbers.long(),
            positions=positions,
            structure_index=state.system_idx,
            atom_counts=counts,
            charge=self._charge_or_spin(state, "charge", counts),
            spin=self._charge_or_spin(state, "spin", counts),
            max_num_atoms=int(counts.max()),
            cell=cell,
        )

    def _charge_or_spin(self, state: Any, name: str, counts: Tensor) -> Tensor:
        """Charge or multiplicity of each molecule."""
        value = self._given[name] if self._given[name] is not None else getattr(state, name, None)
        if not isinstance(value, Tensor):
            value = torch.full_like(counts, parse_int(value, name, "TorchSim state"))
        return value.long().expand_as(counts)

    def _check(self, batch: Batch) -> None:
        """Check systems that are not those of the last call."""
        signature = (batch.numbers, batch.atom_counts, batch.charge, batch.spin)
        if len(self._checked) and all(torch.equal(a, b) for a, b in zip(signature, self._checked, strict=True)):
            return
        ends = batch.atom_counts.cumsum(0).cpu()[:-1]
        numbers, positions = (values.cpu().tensor_split(ends) for values in (batch.numbers, batch.positions.double()))
        charges_spins = batch.charge.tolist(), batch.spin.tolist()
        cells = [None] * len(batch) if batch.cell is None else list(batch.cell.double().cpu().numpy())
        for i, (z, x, charge, spin, cell) in enumerate(zip(numbers, positions, *charges_spins, cells, strict=True)):
            where = f"system {i}"
            self._domain.check(Structure(z.numpy(), x.numpy(), charge, spin, cell=cell).check(where), where)
        self._checked = signature


def nearest_images(positions: Tensor, cell: Tensor, structure: Tensor, counts: Tensor) -> Tensor:
    """Make each system whole: of every atom the image nearest to the system's first atom.

    Args:
        positions: (atoms, 3).
        cell: lattice vectors as columns, (systems, 3, 3).
        structure: system of each atom, (atoms,).
        counts: atoms of each system, (systems,).
    """
    first = positions[counts.cumsum(0) - counts][structure]
    lattice = cell[structure]
    fractional = torch.linalg.solve(lattice, positions - first)
    # Atoms half a cell away always go to the same side, whatever the rounding.
    shift = torch.floor(fractional + 0.5 - 1e-5)
    return positions - torch.einsum("axv,av->ax", lattice, shift)
