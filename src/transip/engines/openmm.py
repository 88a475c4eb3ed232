"""A transip potential in OpenMM, through OpenMM-ML: ``MLPotential("transip", modelPath=…)``.

The name is known to OpenMM-ML by the entry point ``openmmml.potentials``; nothing has to be imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from transip.errors import InputError
from transip.extras import import_optional

if TYPE_CHECKING:
    from transip.engines.single_point import SinglePointPredictor
    from transip.inference.domain import OnUnseen
    from transip.inference.predict import Precision

openmm: Any = import_optional("openmm", "openmm")
mlpotential: Any = import_optional("openmmml.mlpotential", "openmm")


class TransIPPotentialImplFactory(mlpotential.MLPotentialImplFactory):
    """Makes ``MLPotential("transip", modelPath=…)``."""

    def createImpl(self, name: str, modelPath: Any = None) -> TransIPPotentialImpl:
        """A potential from a model's folder or name, or a model in memory."""
        if modelPath is None:
            raise InputError("no model is given", where=f"MLPotential({name!r})", remedy="pass modelPath=…")
        return TransIPPotentialImpl(modelPath)


class TransIPPotentialImpl(mlpotential.MLPotentialImpl):
    """What ``MLPotential.createSystem(topology, charge=…, multiplicity=…)`` adds to a system."""

    def __init__(self, model: Any):
        self.model = model

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int] | None,
        forceGroup: int,
        *,
        charge: int | None = None,
        multiplicity: int | None = None,
        device: Any = None,
        dtype: Precision = "float32",
        unseen: OnUnseen = "warn",
        average: int | None = None,
    ) -> None:
        """Add the force to `system`; in periodic boxes, for which the model needs a cutoff, it is periodic.

        Args:
            topology: every atom with an element.
            system: changed in place.
            atoms: the potential's atoms; None: all.
            forceGroup: of the force.
            charge: total charge of these atoms in e, in a periodic box as elsewhere.
            multiplicity: 2S + 1.
            device: a torch device; None: a GPU if there is one.
            dtype: precision of the network.
            unseen: what to do about elements, charges and multiplicities that the model was not trained on.
            average: predict in this many orientations and average; see `TransIPCalculator`.

        Raises:
            InputError: the model cannot be loaded, the topology lacks elements, or is periodic and the model has no
                cutoff, charge or multiplicity is missing or cannot be.
        """
        from transip.engines.single_point import SinglePointPredictor

        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        elements = [atom.element for atom in topology.atoms()]
        indices = range(len(elements)) if atoms is None else list(atoms)
        if any(elements[i] is None for i in indices):
            raise InputError("has atoms without an element", where="OpenMM topology")
        numbers = [elements[i].atomic_number for i in indices]
        potential = SinglePointPredictor(
            self.model,
            numbers,
            charge=charge,
            spin=multiplicity,
            cell=_in_angstrom(system.getDefaultPeriodicBoxVectors()) if periodic else None,
            device=self._getTorchDevice({} if device is None else {"device": device}),
            dtype=dtype,
            unseen=unseen,
            average=average,
        )
        force = openmm.PythonForce(partial(_compute, potential=potential, periodic=periodic))
        force.setUsesPeriodicBoundaryConditions(periodic)
        force.setForceGroup(forceGroup)
        if atoms is not None:
            force.setParticles(list(indices))
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """Every atom sees every other."""
        return True


def _in_angstrom(vectors: Any) -> np.ndarray:
    return np.array(openmm.unit.Quantity(vectors).value_in_unit(openmm.unit.angstrom))


def _compute(state: Any, potential: SinglePointPredictor, periodic: bool) -> tuple[Any, Any]:
    """Energy and forces in OpenMM's units at the positions of `state`."""
    from ase.units import kJ, mol

    cell = _in_angstrom(state.getPeriodicBoxVectors()) if periodic else None
    result = potential(state.getPositions(asNumpy=True).value_in_unit(openmm.unit.angstrom), cell)
    return result.energy * mol / kJ, result.forces * (10 * mol / kJ)
