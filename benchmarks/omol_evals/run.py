"""Run one of OMol25's seven evaluation tasks, or its S2EF splits, with a transip model; writes what is submitted.

    python -m benchmarks.omol_evals.run TASK MODEL INPUT -o OUTPUT [--device cuda] [--shard 0/8]

TASK is conformers, distance_scaling, ieea, ligand_pocket, ligand_strain, protonation or spin_gap, INPUT the published
pickle and OUTPUT a JSON file; or TASK is s2ef, INPUT a pack, a shard or a folder of shards, and OUTPUT an .npz file.
With `all` INPUT is a folder that holds TASK.pkl, and s2ef.extxyz, as far as they are wanted, OUTPUT a folder for the
results. MODEL is a transip model, or `gfn2`, the method itself (for inputs labelled with it).

What is done is kept in OUTPUT.parts, one line per calculation: a run that was killed goes on where it was. With
--shard I/N, N processes share the calculations, on as many machines; whoever is last writes OUTPUT.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import LBFGS
from rich.progress import track

from benchmarks.common.records import argument_parser
from benchmarks.omol_evals.tasks import TASKS, Calculation, calculations, described, nested, read_inputs
from transip.data.read import read_structures
from transip.errors import InputError
from transip.files import atomic_path, write_text
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import iter_predictions
from transip.inference.result import Result
from transip.labels.methods import gfn2_xtb
from transip.structure import Structure

FMAX, STEPS = 0.01, 500  # LBFGS: as fairchem's EVAL_OPT_PARAMETERS
TOGETHER = 256  # single points predicted, and written, at a time


class Model(TransIPCalculator):
    """A transip model that also labels a stream of structures in batches."""

    def stream(self, structures: Iterable[Structure]) -> Iterator[Result]:
        return iter_predictions(self.predictor, structures, domain=self.domain)


class GFN2(Calculator):
    """GFN2-xTB, every calculation from the same start, hence the same each time."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        found = gfn2_xtb(Structure.from_atoms(self.atoms))
        self.results = {"energy": found.energy, "forces": found.forces}

    def stream(self, structures: Iterable[Structure]) -> Iterator[Structure]:
        return map(gfn2_xtb, structures)

    def predict(self, structures: Sequence[ase.Atoms]) -> list[ase.Atoms]:
        copies = [atoms.copy() for atoms in structures]
        for atoms in copies:
            atoms.calc = GFN2()
        return copies


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("task", choices=[*TASKS, "s2ef", "all"])
    parser.add_argument("model")
    parser.add_argument("input", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shard", default="0/1", help="I/N: every Nth calculation, from the Ith; not for s2ef")
    arguments = parser.parse_args()
    try:
        calculator = GFN2() if arguments.model == "gfn2" else Model(arguments.model, device=arguments.device)
        share = map(int, arguments.shard.split("/"))
        if arguments.task == "s2ef":
            submission(calculator, arguments.input, arguments.output)
        elif arguments.task == "all":
            everything(calculator, arguments.input, arguments.output, *share)
        else:
            run(arguments.task, calculator, arguments.input, arguments.output, *share)
    except InputError as error:
        sys.exit(f"error: {error}")


def everything(calculator: Any, inputs: Path, outputs: Path, index: int, number: int) -> None:
    """All tasks whose inputs are in a folder."""
    for task in TASKS:
        if (inputs / f"{task}.pkl").exists():
            run(task, calculator, inputs / f"{task}.pkl", outputs / f"{task}.json", index, number)
    if (inputs / "s2ef.extxyz").exists() and not index:
        submission(calculator, inputs / "s2ef.extxyz", outputs / "s2ef.npz")


def run(task: str, calculator: Any, source: Path, output: Path, index: int = 0, number: int = 1) -> None:
    """Do this process's share of a task, and write `output` if everything has then been done."""
    everything = list(calculations(task, read_inputs(source)))
    parts = output.with_name(f"{output.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    done = finished(parts)
    mine = [one for one in everything[index::number] if one.path not in done]
    with (parts / f"{index}-of-{number}.jsonl").open("a", encoding="utf-8") as handle:
        handle.write("\n")  # after a line that was cut off
        for one, result in track(results(mine, calculator), task, len(mine)):
            handle.write(json.dumps([one.path, result]) + "\n")
            handle.flush()
    done = finished(parts)
    left = sum(one.path not in done for one in everything)
    if left:
        print(f"{left} of {len(everything)} calculations are left to other processes")
        return
    write_text(output, json.dumps(nested({one.path: done[one.path] for one in everything})))
    print(f"{len(everything)} calculations: {output}")


def finished(parts: Path) -> dict[tuple[str, ...], Any]:
    """What all processes have done; the last line of one that was killed may be cut off."""
    done = {}
    for part in sorted(parts.glob("*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            try:
                path, result = json.loads(line)
            except ValueError:
                continue
            done[tuple(path)] = result
    return done


def results(wanted: list[Calculation], calculator: Any) -> Iterator[tuple[Calculation, dict[str, Any]]]:
    """Single points in batches first, then relaxations one by one."""
    points = [one for one in wanted if not one.relax]
    for begin in range(0, len(points), TOGETHER):
        some = points[begin : begin + TOGETHER]
        for one, labelled in zip(some, calculator.predict([one.atoms for one in some]), strict=True):
            yield one, state(labelled)
    for one in wanted:
        if one.relax:
            yield one, relaxed(one.atoms, calculator)


def relaxed(atoms: ase.Atoms, calculator: Calculator) -> dict[str, Any]:
    """Where a relaxation began and ended; one that breaks down ends at its last valid geometry."""
    atoms = atoms.copy()
    atoms.calc = calculator
    first = last = state(atoms)
    try:
        for _ in LBFGS(atoms, logfile=None).irun(fmax=FMAX, steps=STEPS):
            last = state(atoms)
    except InputError as error:
        print(f"a relaxation broke down: {error.problem}", file=sys.stderr)
    return {"initial": first, "final": last}


def state(atoms: ase.Atoms) -> dict[str, Any]:
    return {
        "atoms": described(atoms),
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces().tolist(),
    }


def submission(calculator: Any, source: Path, output: Path) -> None:
    """Energies and forces of all structures, labelled or not, as the leaderboard takes them."""
    labelled = calculator.stream(read_structures(source, labels="optional"))
    ids, energy, forces = [], [], []
    for one in track(labelled, "s2ef"):
        if not one.source:
            raise InputError("a structure has no identifier", where=str(source), remedy='set atoms.info["source"]')
        ids.append(one.source)
        energy.append(one.energy)
        forces.append(one.forces)
    with atomic_path(output) as partial, partial.open("wb") as handle:
        np.savez_compressed(
            handle,
            ids=np.array(ids),
            energy=np.array(energy),
            forces=np.concatenate(forces),
            natoms=np.array([len(one) for one in forces]),
        )
    print(f"{len(ids)} structures: {output}")


if __name__ == "__main__":
    main()
