"""A transip potential as an ASE calculator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes, equal
from ase.calculators.singlepoint import SinglePointCalculator
from ase.outputs import Properties
from ase.stress import full_3x3_to_voigt_6_stress

from transip.config import BatchSettings, KeySettings
from transip.data.read import DEFAULT_KEYS, OnBad, read_structures
from transip.errors import InputError
from transip.extras import check_name_clash
from transip.inference.domain import ApplicabilityDomain, OnUncertain, OnUnseen
from transip.inference.predict import (
    INFERENCE_LIMITS,
    Models,
    Precision,
    as_list,
    build_predictor,
    forward_structures,
    has_charges,
    has_direct_forces,
    has_spin_populations,
    iter_predictions,
    load_for_inference,
)
from transip.inference.progress import progress_bar
from transip.inference.result import Result, unbatch
from transip.model.potential import Potential
from transip.structure import Structure

CHARGE_SPIN_KEYS = ("charge", "spin", "spin_multiplicity")  # of `atoms.info`


class TransIPCalculator(Calculator):
    """Energies (eV) and forces (eV/Å) of molecules and, from models with a cutoff, of periodic cells.

    Every molecule needs a total charge (e) and a multiplicity (2S + 1): from ``atoms.info["charge"]`` and
    ``atoms.info["spin"]`` (or ``"spin_multiplicity"``), or from the arguments here, which take precedence.
    They are never guessed, and the atoms handed in are never changed.

    Args:
        model: folder of a model, the name of a shipped one, a repository of the Hugging Face Hub
            (``"owner/name"`` or ``"owner/name@revision"``), or a model in memory (copied). A list of several makes
            a committee: results are their mean.
        charge: total charge of every molecule; None: from `atoms.info`.
        spin: multiplicity of every molecule; None: from `atoms.info`.
        device: a torch device, such as ``"cuda"``; auto: a GPU (CUDA, XPU) if there is one, else the CPU.
        dtype: precision of the network; total energies are summed in float64 either way.
        unseen: what to do about elements, charges, multiplicities and sizes that the model was not trained on.
        average: predict in this many orientations and average: 12, 24, 60 (rotation groups) or another number
            (random rotations, always the same). None: as the molecule lies.
        max_uncertainty: bound on the uncertainty of each force, eV/Å.
        uncertain: what to do about molecules beyond `max_uncertainty`: warn once about each, or refuse them.
        compile: compile the network: about twice as fast for small molecules, after a minute or two at the first of
            them, fewer seconds in later processes. Needs a C++ compiler on CPUs.

    Models with conservative forces also give the ``stress`` (eV/Å³) of cells that are periodic in three directions.
    Models with charges give ``charges`` (e) and, of molecules, the ``dipole`` (e·Å; as elsewhere in ASE about
    the origin); models with spin populations give these as ``magmoms``.

    With `average` or several models, ``results`` also holds the spreads ``energy_std`` (eV) and ``forces_std`` (eV/Å,
    per atom). If this way to predict has been calibrated (``transip calibrate``), it holds what the spreads stand for:
    ``energy_uncertainty`` (eV), ``forces_uncertainty`` (eV/Å, per atom) and the largest of these,
    ``max_force_uncertainty``; 68 % of the errors were smaller on molecules that no model had seen.

    Raises:
        InputError: the model cannot be loaded, another project's files are in this package's folder, or a bound is
            given and there are no uncertainties; later, at calculation, a structure cannot be used: periodic, and the
            model has no cutoff, charge or spin missing or impossible, atoms overlapping, unseen or uncertain and
            refused.
    """

    implemented_properties = [  # noqa: RUF012 (of an instance: those that its model has)
        "energy", "free_energy", "energies", "forces", "stress", "charges", "magmoms", "dipole",
    ]  # fmt: skip
    default_parameters = {"charge": None, "spin": None}  # noqa: RUF012
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012
    discard_results_on_any_change = True  # calculator.set(charge=1)

    def __init__(
        self,
        model: Models,
        *,
        charge: int | None = None,
        spin: int | None = None,
        device: str = "auto",
        dtype: Precision = "float32",
        unseen: OnUnseen = "warn",
        average: int | None = None,
        max_uncertainty: float | None = None,
        uncertain: OnUncertain = "warn",
        compile: bool = False,
    ):
        check_name_clash()
        super().__init__(charge=charge, spin=spin)
        names = ("in memory" if isinstance(member, Potential) else str(member) for member in as_list(model))
        self.model_name = ", ".join(names)
        self.model = load_for_inference(model, device, dtype, compile=compile)
        self.predictor = build_predictor(self.model, average)
        self.domain = ApplicabilityDomain(self.predictor, unseen, max_uncertainty, uncertain)
        missing = {"charges", "dipole"} if not has_charges(self.model) else set()
        missing |= {"magmoms"} if not has_spin_populations(self.model) else set()
        self.implemented_properties = [name for name in self.implemented_properties if name not in missing]
        self._result: Result | None = None

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``: everything in one forward pass, whatever was asked for."""
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise InputError("there is no molecule to calculate", remedy="set atoms.calc, or pass atoms")
        structure = self.structure(self.atoms)
        (result,) = unbatch([structure], forward_structures(self.predictor, [structure]))
        self._result = self.domain.check_result(result.check_finite(), structure.formula)
        spreads, atom_spreads = result.spreads
        self.results = _ase_properties(result) | {"energies": result.atom_energies} | spreads | atom_spreads

    def export_properties(self) -> Properties:
        """As in ASE, which knows neither standard deviations nor uncertainties."""
        return Properties({name: self.results[name] for name in self.implemented_properties if name in self.results})

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; unlike plain ASE, also charge and spin in `atoms.info`."""
        changes = super().check_state(atoms, tol=tol)
        if not atoms.pbc.any() and "cell" in changes:  # a box around a molecule means nothing
            changes.remove("cell")
        if self.atoms is not None:
            before, now = self.atoms.info, atoms.info
            changes += [key for key in CHARGE_SPIN_KEYS if not equal(before.get(key), now.get(key))]
        return changes

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As in ASE; asking for what there is none of says why."""
        asked = self.atoms if atoms is None else atoms
        if name == "stress":
            if asked is None or not asked.pbc.all():
                raise PropertyNotImplementedError("stress is not defined for molecules: there is no cell")
            if not self.has_stress:
                raise PropertyNotImplementedError("only models with conservative forces have a stress")
        elif name in ("charges", "dipole", "magmoms") and name not in self.implemented_properties:
            kind = "spin populations" if name == "magmoms" else "charges"
            raise PropertyNotImplementedError(f"this model was trained without {kind}: it has no {name}")
        elif name == "dipole" and asked is not None and asked.pbc.any():
            raise PropertyNotImplementedError("a dipole is not defined for what is periodic: it depends on the images")
        return super().get_property(name, atoms, allow_calculation)

    @property
    def has_stress(self) -> bool:
        """Whether there is a stress of cells that are periodic in three directions."""
        return not has_direct_forces(self.model)

    def structure(self, atoms: ase.Atoms, where: str = "structure") -> Structure:
        """Read `atoms` as the model will take them, with this calculator's charge and spin if it has any.

        Raises:
            InputError: see the class.
        """
        return self.domain.check(Structure.from_atoms(atoms, **self._charge_and_spin, where=where), where)

    def read_file(
        self, source: str | Path, keys: KeySettings = DEFAULT_KEYS, on_bad: OnBad | None = None
    ) -> Iterator[Structure]:
        """The structures of a file without labels, with this calculator's charge and spin if it has any.

        `on_bad` is told about each that cannot be used, which is then left out; None: it is an error.
        """
        return read_structures(source, keys, labels="ignored", **self._charge_and_spin, on_bad=on_bad)

    @property
    def _charge_and_spin(self) -> dict[str, Any]:
        """Charge and spin of all structures; None: each one's."""
        given = self.parameters or {}
        return {name: given.get(name) for name in ("charge", "spin")}

    def result(self, atoms: ase.Atoms) -> Result:
        """All that the model predicts of `atoms`; computed unless it is known."""
        self.get_property("forces", atoms)
        assert self._result is not None
        return self._result

    def predict(
        self, structures: Sequence[ase.Atoms], batch: BatchSettings = INFERENCE_LIMITS, progress: bool = False
    ) -> list[ase.Atoms]:
        """Predict many molecules, much faster than one by one.

        Returns:
            Copies of `structures`, in their order, each with charge and spin in its ``info`` and a calculator that
            holds energy (eV), forces (eV/Å) and what else the model has. Spreads and uncertainties, if there are any,
            are in ``info`` and ``arrays``, under the names that they have in ``results``.
        """
        read = (self.structure(atoms, f"structure {i}") for i, atoms in enumerate(structures))
        results = iter_predictions(self.predictor, read, batch, self.domain)
        results = progress_bar(results, "predict", progress, len(structures))
        return [attach_results(atoms.copy(), result) for atoms, result in zip(structures, results, strict=True)]


def attach_results(atoms: ase.Atoms, result: Result) -> ase.Atoms:
    """Give `atoms` (changed in place, returned) charge and spin of `result` and all that was predicted."""
    spreads, atom_spreads = result.spreads
    atoms.info |= {"charge": result.structure.charge, "spin": result.structure.spin} | spreads
    for name, values in atom_spreads.items():
        atoms.set_array(name, values)
    atoms.calc = SinglePointCalculator(atoms, **_ase_properties(result))
    return atoms


def _ase_properties(result: Result) -> dict[str, Any]:
    """What was predicted, under ASE's names and in its order of components."""
    structure = result.structure
    values = {
        "energy": result.energy,
        "free_energy": result.energy,
        "forces": result.forces,
        "stress": None if result.stress is None else full_3x3_to_voigt_6_stress(result.stress),
        "dipole": None if result.dipole is None else result.dipole + structure.charge * structure.center_of_mass,
        "charges": result.charges,
        "magmoms": result.spin_populations,
    }
    return {name: value for name, value in values.items() if value is not None}
