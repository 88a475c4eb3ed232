"""Conformance of a potential to physics: what must hold for any weights, measured on any callable Batch → Prediction.

Use it in the tests of a backbone, committee or wrapper of your own::

    from transip.testing import assert_conforms

    def test_my_potential():
        assert_conforms(my_potential, conservative=True)

``print(check_conformance(my_potential))`` lists every property with what was measured and its tolerance. The rotation
error is measured, but not required: learned equivariance is never exact. Everything is drawn from seeds, so that a
failure can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import ase.calculators.calculator
import numpy as np
import torch
from torch import Tensor, nn

from transip.batch import Batch, Prediction, segment_sum
from transip.errors import InputError
from transip.structure import Structure
from transip.symmetry.measure import measure_symmetry

PotentialFn = Callable[[Batch], Prediction]
Measured = tuple[float, float | None]  # the value, and the largest that is allowed
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}  # of energies in eV and forces in eV/Å, relative to the forces
FAR = 1000.0  # Å, where two fragments should no longer interact


@dataclass(frozen=True)
class Check:
    """One property: what was measured and what was allowed.

    Attributes:
        name: of the property.
        measured: the worst value over all seeds; NaN if the potential raised an exception.
        tolerance: the largest value that passes; None: the property is measured, not required.
        explanation: what was compared, or the exception.
    """

    name: str
    measured: float
    tolerance: float | None
    explanation: str

    @property
    def passed(self) -> bool:
        """Whether the measured value is a number within the tolerance."""
        return self.tolerance is None or self.measured <= self.tolerance

    def __str__(self) -> str:
        verdict = "measured" if self.tolerance is None else "ok" if self.passed else "FAILED"
        bound = "" if self.tolerance is None else f"≤ {self.tolerance:.0e}"
        return f"{verdict:8}  {self.name:23}  {self.measured:8.1e} {bound:7}  {self.explanation}"


@dataclass(frozen=True)
class ConformanceReport:
    """All checks of one potential; as text, a table."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every required property holds."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks))


def assert_conforms(potential: PotentialFn, **claims: Any) -> ConformanceReport:
    """`check_conformance`, with the same arguments, as an assertion whose message lists the failures.

    Raises:
        AssertionError: a required property does not hold.
    """
    report = check_conformance(potential, **claims)
    if not report.passed:
        raise AssertionError("the potential does not conform:\n" + "\n".join(map(str, report.failures)))
    return report


def check_conformance(
    potential: PotentialFn,
    *,
    conservative: bool = False,
    charge_and_spin: bool = False,
    additive: bool = False,
    cutoffs: Sequence[float] = (),
    elements: Sequence[int] = (1, 6, 7, 8),
    dtype: torch.dtype = torch.float64,
    seeds: int = 3,
) -> ConformanceReport:
    """Measure which properties `potential` has.

    Args:
        potential: maps a Batch to a Prediction: a `Potential`, committee, average or function. An ``nn.Module`` is
            copied, put into evaluation mode and cast to `dtype`, and its float32 copy is compared with it.
        conservative: it claims that its forces are minus the gradient of its energy.
        charge_and_spin: it claims that the energy depends on total charge and multiplicity.
        additive: it claims that fragments far from each other do not interact.
        cutoffs: distances in Å from which on atoms do not see each other; energy and forces must be smooth there.
        elements: atomic numbers of the molecules.
        dtype: the precision in which it computes; decides the tolerances.
        seeds: number of random sets of molecules.

    Raises:
        InputError: there are no tolerances for this `dtype`.
    """
    if dtype not in ROUNDING:
        raise InputError(f"no tolerances for {dtype}", remedy="check in torch.float64 or torch.float32")
    single = None
    if isinstance(potential, nn.Module):
        single = deepcopy(potential).float().eval() if dtype == torch.float64 else None
        potential = deepcopy(potential).to(dtype).eval()
    kit = _Kit(potential, single, dtype, tuple(elements), tuple(cutoffs))
    properties = [
        kit.shapes,
        kit.finite,
        kit.determinism,
        kit.input_unchanged,
        kit.permutation,
        kit.translation,
        kit.batching,
        kit.order_in_batch,
        kit.padding,
        kit.separate_structures,
        kit.net_force,
        kit.total_charge,
        *([kit.conservative_forces] if conservative else []),
        *([kit.charge_and_spin] if charge_and_spin else []),
        *([kit.additivity] if additive else []),
        *([kit.smooth_cutoffs] if cutoffs else []),
        *([kit.float32] if single is not None else []),
        kit.energy_rotation_error,
        kit.force_rotation_error,
    ]
    return ConformanceReport(tuple(_worst_of(measure, seeds) for measure in properties))


def from_calculator(calculator: ase.calculators.calculator.Calculator) -> PotentialFn:
    """An ASE calculator as a callable Batch → Prediction; total charge and multiplicity are in ``atoms.info``.

    The energies of single atoms are NaN: most calculators have none.
    """

    def predict(batch: Batch) -> Prediction:
        energies, forces = [], []
        for structure in _structures(batch):
            atoms = structure.to_atoms()
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        return Prediction(
            energy=torch.tensor(energies, dtype=torch.float64),
            atom_energies=torch.full((batch.num_atoms,), float("nan"), dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces)).to(batch.positions.dtype),
        )

    return predict


def random_molecule(
    num_atoms: int, seed: int, elements: Sequence[int] = (1, 6, 7, 8), *, even_electrons: bool = False
) -> Structure:
    """A neutral molecule from a random walk of 1 to 1.5 Å, no two atoms closer than 0.8 Å, in its lowest multiplicity.

    The same seed gives the same molecule. With `even_electrons` the number of electrons is even.

    Raises:
        InputError: no choice of these elements has an even number of electrons.
    """
    if even_electrons and num_atoms % 2 and all(number % 2 for number in elements):
        raise InputError(f"{num_atoms} atoms of the elements {elements} always have an odd number of electrons")
    generator = np.random.default_rng((num_atoms, seed))
    positions = [np.zeros(3)]
    while len(positions) < num_atoms:
        step = generator.normal(size=3)
        neighbor = positions[generator.integers(len(positions))]
        candidate = neighbor + step / np.linalg.norm(step) * generator.uniform(1, 1.5)
        if min(np.linalg.norm(candidate - other) for other in positions) > 0.8:
            positions.append(candidate)
    numbers = generator.choice(np.array(elements, dtype=np.int64), size=num_atoms)
    while even_electrons and numbers.sum() % 2:
        numbers = generator.choice(np.array(elements, dtype=np.int64), size=num_atoms)
    return Structure(numbers, np.array(positions), 0, 1 + int(numbers.sum() % 2))


def _worst_of(measure: Callable[[int], Measured], seeds: int) -> Check:
    """The worst seed of a property; an exception of the potential is a failure."""
    name, explanation = measure.__name__.replace("_", " "), (measure.__doc__ or "").partition("\n")[0].rstrip(".")
    worst: Measured = (-1.0, None)
    for seed in range(seeds):
        try:
            measured, tolerance = measure(seed)
        except Exception as error:
            return Check(name, float("nan"), 0.0, f"{type(error).__name__}: {error} (seed {seed})")
        if not measured <= worst[0]:  # also where it is NaN
            worst = measured, tolerance
    return Check(name, *worst, explanation)


def _structures(batch: Batch) -> Iterator[Structure]:
    """The molecules and cells of a batch, without labels."""
    for i, (start, stop) in enumerate(pairwise([0, *batch.atom_counts.cumsum(0).tolist()])):
        yield Structure(
            batch.numbers[start:stop].cpu().numpy(),
            batch.positions[start:stop].detach().cpu().double().numpy(),
            int(batch.charge[i]),
            int(batch.spin[i]),
            cell=None if batch.cell is None or not batch.cell[i].any() else batch.cell[i].cpu().double().numpy(),
        )


def _joined(predictions: Sequence[Prediction]) -> Prediction:
    """Predictions of several batches, as of one."""
    return Prediction(
        energy=torch.cat([p.energy for p in predictions]),
        atom_energies=torch.cat([p.atom_energies for p in predictions]),
        forces=torch.cat([p.forces for p in predictions]),
    )


@dataclass(frozen=True)
class _Kit:
    """The properties: each maps a seed to what is measured and what is allowed; its docstring is the explanation."""

    potential: PotentialFn
    single: PotentialFn | None
    dtype: torch.dtype
    elements: tuple[int, ...]
    cutoffs: tuple[float, ...]

    def molecule(self, num_atoms: int, seed: int, *, even_electrons: bool = False) -> Structure:
        return random_molecule(num_atoms, seed, self.elements, even_electrons=even_electrons)

    def molecules(self, seed: int) -> list[Structure]:
        """Four molecules of 1 to 9 atoms, no two equally large."""
        sizes = np.random.default_rng(seed).permutation(np.arange(1, 10))[:4]
        return [self.molecule(int(size), seed) for size in sizes]

    def collate(self, *structures: Structure) -> Batch:
        return Batch.collate(structures, self.dtype)

    def predict(self, *structures: Structure) -> Prediction:
        return self.predict_batch(self.collate(*structures))

    def predict_batch(self, batch: Batch) -> Prediction:
        with torch.no_grad():
            return self.potential(batch)

    def rounding(self, prediction: Prediction) -> float:
        forces = max(1.0, float(prediction.forces.abs().max()))
        return ROUNDING[self.dtype] * forces + 1e-11 * float(prediction.energy.abs().max())

    def difference(self, first: Prediction, second: Prediction) -> tuple[float, float]:
        """The largest difference of an energy (eV) or force (eV/Å), and the rounding that is allowed."""
        energy = (first.energy - second.energy).abs().max()
        forces = (first.forces.double() - second.forces.double()).abs().max()
        return float(torch.maximum(energy, forces)), self.rounding(first)

    def shapes(self, seed: int) -> Measured:
        """Shapes, and energies in float64: 1 if one is wrong."""
        batch = self.collate(*self.molecules(seed))
        prediction = self.predict_batch(batch)
        shapes = prediction.energy.shape, prediction.atom_energies.shape, prediction.forces.shape
        right = shapes == ((len(batch),), (batch.num_atoms,), (batch.num_atoms, 3))
        return float(not (right and prediction.energy.dtype == torch.float64)), 0.0

    def finite(self, seed: int) -> Measured:
        """Number of infinities and NaNs, in single atoms, linear, planar, highly symmetric and random molecules."""
        special = [
            [[0, 0, 0]],
            [[0, 0, 0], [0, 0, 1.1]],
            [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]],
            [[0, 0, 0], [1.1, 0, 0], [-0.55, 0.95, 0], [-0.55, -0.95, 0]],
            [[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]],
        ]
        number = self.elements[seed % len(self.elements)]
        structures = [
            Structure(np.full(len(rows), number), np.array(rows, dtype=float), 0, 1 + number * len(rows) % 2)
            for rows in special
        ]
        prediction = self.predict(*structures, *self.molecules(seed))
        return float(sum((~torch.isfinite(v)).sum() for v in (prediction.energy, prediction.forces))), 0.0

    def determinism(self, seed: int) -> Measured:
        """Two calls on the same batch."""
        batch = self.collate(*self.molecules(seed))
        return self.difference(self.predict_batch(batch), self.predict_batch(batch))[0], 0.0

    def input_unchanged(self, seed: int) -> Measured:
        """Number of the batch's fields that a call changes."""
        batch = self.collate(*self.molecules(seed))
        before = batch.clone()
        self.predict_batch(batch)
        pairs = [(getattr(before, f.name), getattr(batch, f.name)) for f in fields(batch)]
        return float(sum(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in pairs)), 0.0

    def permutation(self, seed: int) -> Measured:
        """The atoms of a molecule in another order."""
        molecule = self.molecule(9, seed)
        order = np.random.default_rng(seed).permutation(9)
        permuted = replace(molecule, numbers=molecule.numbers[order], positions=molecule.positions[order])
        plain = self.predict(molecule)
        return self.difference(replace(plain, forces=plain.forces[torch.from_numpy(order)]), self.predict(permuted))

    def translation(self, seed: int) -> Measured:
        """Molecules moved by up to 50 Å."""
        molecules = self.molecules(seed)
        shift = np.random.default_rng(seed).uniform(-50, 50, size=3)
        moved = [replace(molecule, positions=molecule.positions + shift) for molecule in molecules]
        measured, tolerance = self.difference(self.predict(*molecules), self.predict(*moved))
        return measured, 10 * tolerance  # coordinates near 50 Å are rounded more coarsely

    def batching(self, seed: int) -> Measured:
        """Several molecules in one batch, and each of them alone."""
        molecules = self.molecules(seed)
        return self.difference(self.predict(*molecules), _joined([self.predict(molecule) for molecule in molecules]))

    def order_in_batch(self, seed: int) -> Measured:
        """The molecules of a batch in the reverse order."""
        molecules = self.molecules(seed)
        plain, reversed_ = self.predict(*molecules), self.predict(*molecules[::-1])
        forces = torch.cat(plain.forces.split([len(molecule) for molecule in molecules])[::-1])
        return self.difference(replace(plain, energy=plain.energy.flip(0), forces=forces), reversed_)

    def padding(self, seed: int) -> Measured:
        """A batch that is padded to more atoms (max_num_atoms)."""
        batch = self.collate(*self.molecules(seed))
        padded = replace(batch, max_num_atoms=batch.max_num_atoms + 7)
        return self.difference(self.predict_batch(batch), self.predict_batch(padded))

    def separate_structures(self, seed: int) -> Measured:
        """Change of a molecule's energy and forces (gradient, if there is one) on moving the others of its batch."""
        batch = self.collate(*self.molecules(seed))
        others = (batch.structure_index < len(batch) - 1)[:, None]
        leaf = batch.positions.clone().requires_grad_()
        prediction = self.potential(replace(batch, positions=leaf))
        value = prediction.energy[-1] + torch.where(others, 0, prediction.forces).square().sum()
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, leaf)
            return float(torch.where(others, gradient, 0).abs().max()), 0.0
        moved = self.predict_batch(replace(batch, positions=torch.where(others, 1.1 * leaf, leaf).detach()))
        energy = torch.cat([prediction.energy[:-1], moved.energy[-1:]])
        return self.difference(
            prediction, replace(moved, energy=energy, forces=torch.where(others, prediction.forces, moved.forces))
        )

    def net_force(self, seed: int) -> Measured:
        """Sum of the forces of a molecule; of a single atom, its force."""
        prediction = self.predict(self.molecule(1, seed), self.molecule(9, seed))
        single, molecule = prediction.forces.double().split([1, 9])
        return float(torch.stack([single.sum(0), molecule.sum(0)]).abs().max()), 10 * self.rounding(prediction)

    def total_charge(self, seed: int) -> Measured:
        """Sum of the partial charges of a molecule less its total charge, in e; 0 where there are none."""
        neutral = self.molecule(6, seed, even_electrons=True)
        batch = self.collate(neutral, replace(neutral, charge=2), replace(neutral, charge=-2))
        charges = self.predict_batch(batch).charges
        if charges is None:
            return 0.0, 0.0
        return float((segment_sum(charges.double(), batch) - batch.charge).abs().max()), ROUNDING[self.dtype]

    def conservative_forces(self, seed: int) -> Measured:
        """Forces, and minus the finite difference of the energy (central, fourth order, along a random direction)."""
        molecule = self.molecule(7, seed)
        direction = np.random.default_rng(seed).normal(size=(7, 3))
        direction /= np.linalg.norm(direction)
        step, relative = (1e-3, 1e-6) if self.dtype == torch.float64 else (2e-2, 5e-2)  # Å; of the forces
        moved = [replace(molecule, positions=molecule.positions + k * step * direction) for k in (-2, -1, 1, 2)]
        energy = self.predict(*moved).energy
        slope = float(energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / (12 * step)
        forces = self.predict(molecule).forces.double()
        expected = -float((forces * torch.from_numpy(direction)).sum())
        return abs(slope - expected), relative * max(1.0, float(forces.norm()))

    def charge_and_spin(self, seed: int) -> Measured:
        """Number of pairs of charges and multiplicities with the same energy."""
        neutral = self.molecule(6, seed, even_electrons=True)
        states = [neutral, replace(neutral, charge=-2), replace(neutral, charge=2), replace(neutral, spin=3)]
        return float((torch.pdist(self.predict(*states).energy[:, None]) < 1e-6).sum()), 0.0

    def additivity(self, seed: int) -> Measured:
        """Two molecules 1,000 Å from each other, and each of them alone."""
        a, b = self.molecule(5, seed, even_electrons=True), self.molecule(4, seed, even_electrons=True)
        positions = np.concatenate([a.positions, b.positions + np.array([FAR, 0, 0])])
        pair = Structure(np.concatenate([a.numbers, b.numbers]), positions - positions.mean(0), 0, 1)
        alone = _joined([self.predict(a), self.predict(b)])
        measured, tolerance = self.difference(
            self.predict(pair), replace(alone, energy=alone.energy.sum(0, keepdim=True))
        )
        return measured, 1000 * tolerance  # coordinates of hundreds of Å

    def smooth_cutoffs(self, seed: int) -> Measured:
        """An atom that crosses the cutoff of another one by a millionth of an Å (float32: a thousandth)."""
        step = 1e-6 if self.dtype == torch.float64 else 1e-3
        molecule = self.molecule(2, seed)
        outermost = molecule.positions[molecule.positions[:, 0].argmax()]  # the other is further away
        worst: tuple[float, float] = (0.0, 0.0)
        for cutoff in self.cutoffs:
            sides = []
            for distance in (cutoff - step / 2, cutoff + step / 2):
                positions = np.vstack([molecule.positions, outermost + np.array([distance, 0, 0])])
                numbers = np.append(molecule.numbers, self.elements[0])
                sides.append(self.predict(Structure(numbers, positions, 0, 1 + int(numbers.sum()) % 2)))
            jump, rounding = self.difference(*sides)
            worst = max(worst, (jump, rounding + 100 * step))  # a slope of 100 eV/Å² is smooth
        return worst

    def float32(self, seed: int) -> Measured:
        """The float32 copy, and the float64 one."""
        molecules = self.molecules(seed)
        assert self.single is not None
        with torch.no_grad():
            single = self.single(Batch.collate(molecules))
        double = self.predict(*molecules)
        return self.difference(double, single)[0], 1e-3 * max(1.0, float(double.forces.abs().max()))

    def energy_rotation_error(self, seed: int) -> Measured:
        """eV, spread of the energy over orientations."""
        return self.rotation_errors(seed)["energy_rotation_spread"], None

    def force_rotation_error(self, seed: int) -> Measured:
        """eV/Å, mean absolute deviation of a force component, rotated back, from its mean over orientations."""
        return self.rotation_errors(seed)["force_rotation_error"], None

    def rotation_errors(self, seed: int) -> dict[str, Any]:
        return measure_symmetry(self.potential, [self.collate(*self.molecules(seed))], seed=seed)
