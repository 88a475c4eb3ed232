"""Speed of energies and forces, and of training, on one core: ours, the peers and GFN2-xTB, on the same structures.

    python -m benchmarks.throughput.run ours import growth reference painn esen allscaip mace nequip
    python -m benchmarks.throughput.run growth nequip --cases liquid1000 droplet1000
    python -m benchmarks.throughput.run ours --cases batch64x20 --seconds 10 --results OUT/results.jsonl

Weights are random: speed does not depend on them. Times are processor time of one thread, the shortest of up to 30
repeats after a first call that does not count, so that other work on the machine counts little; wall time (median) is
beside it. `single…`, `batch…` and `train` (16 structures; 64 in `train64`; `-bf16`: products of matrices in bfloat16)
are the model on a prepared batch, whose neighbours the peers are given; `calculator20` is a molecule through
TransIPCalculator. Every row of ours is measured in a fresh process; of those that take few milliseconds, which on a
virtual machine can differ by a factor of two between processes, the fastest of three counts (`processes_milliseconds`
has all). Compiled rows are left out where there is no compilation, and for large molecules, which take minutes to
compile.

`growth` is transip S with conservative forces and attention within 6 Å in water of 1,000 to 20,000 atoms, periodic
(`liquid…`) and a ball in vacuum (`droplet…`); NequIP compiled ahead of time is its peer. Besides the model on a
prepared batch or, of NequIP, a prepared list of neighbours, their calculators are timed after all atoms have moved by
2 Å (`calculator_…`: neighbours are searched anew) and by 0.01 Å (`dynamics_…`). Memory is what the process holds at
most during calls of the model (`peak_memory_mb`) beyond what it held before the first (`memory_before_mb`).
`python -m benchmarks.throughput.growth` compares the rows and fits exponents.

The records ENTRY/CASE/FORCES[/compiled] go into benchmarks/throughput/results.jsonl. The matrix-product peak is that of
float32 products of 1,024 × 1,024 matrices on the same core; operations are those of the model's matrix products,
forward and, in `train`, backward, not the optimiser's.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.hardware import measure
from benchmarks.common.records import ROOT, Record, argument_parser, provenance, results_file, save_results
from benchmarks.peers.environments import run_in_environment_of
from benchmarks.throughput.cases import CASES, FILE, LIQUIDS, export, structures_of
from benchmarks.throughput.ours import MODELS, measure_ours, model_of
from transip.labels.methods import GFN2
from transip.memory import KEEP, LARGEST
from transip.model.files import save_model

COMPILED = ("batch64x20", "single20", "calculator20", *(case for case in CASES if case.startswith("train")))
SHORT = ("single20", "calculator20")  # cases measured in several processes
PROCESSES = 3
IMPORTS = 5  # fresh processes
DEPLOYED = ("nequip",)  # peers that compile ahead of time, without Python, for large systems
# What measures, ours and peers, keeps the memory that a call frees for the next one, as the commands of `transip` do.
KEEPING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(LARGEST), "MALLOC_TRIM_THRESHOLD_": str(KEEP)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("entries", nargs="+", help="ours, import, growth, reference (GFN2-xTB), or a peer")
    parser.add_argument("--cases", nargs="+", default=[*CASES, "calculator20", *LIQUIDS])
    parser.add_argument(
        "--models", nargs="+", default=[*MODELS], choices=MODELS, help="of ours; others keep their rows"
    )
    parser.add_argument("--repeats", type=int, default=30, help="at most so many, of each row")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the repeats of each row")
    parser.add_argument("--results", type=Path, default=results_file(__file__))
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    effort = {"repeats": arguments.repeats, "seconds": arguments.seconds}
    if arguments.one:
        print(json.dumps(measure_ours(**arguments.one)))
        return
    if not FILE.exists():
        export()
    for entry in arguments.entries:
        for row in rows_of(entry, arguments, effort):
            print(summary(row), flush=True)
            save_results(arguments.results, [{"name": name_of(row), **provenance(), **row}])  # at once: it takes long


def wanted(arguments: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Entry, case, forces and compilation of the rows of ours that are to be measured."""
    cases = [case for case in arguments.cases if case not in LIQUIDS]
    found = itertools.product(arguments.models, cases, ("direct", "conservative"), (False, True))
    return [one for one in found if not one[3] or one[1] in COMPILED]


def name_of(row: Record) -> str:
    """ENTRY/CASE/FORCES, and whether it was compiled."""
    return "/".join((row["entry"], row["case"], row["forces"], *(("compiled",) if row["compiled"] else ())))


def summary(row: Record) -> str:
    compiled = "compiled" if row["compiled"] else ""
    label = f"{row['entry']:17} {row['case']:13} {row.get('atoms', ''):>6} {row['forces']:9} {compiled:9}"
    return f"{label} {row['milliseconds']:11.2f} ms {row['peak_memory_mb'] or 0:9.0f} MB"


def rows_of(entry: str, arguments: argparse.Namespace, effort: dict[str, Any]) -> Iterable[Record]:
    liquids = [case for case in LIQUIDS if case in arguments.cases]
    if entry == "ours":
        rows = (fastest(*one, effort) for one in wanted(arguments))
        return (row for row in rows if row)
    if entry == "growth":
        rows = (in_fresh_process("transip-S", case, "conservative", False, effort) for case in liquids)
        return (row for row in rows if row)
    if entry == "reference":
        return (reference(case, effort) for case in arguments.cases if case in ("single20", "single200"))
    if entry == "import":
        return imports()
    return peer(entry, liquids, len(liquids) < len(arguments.cases), effort)


# ------------------------------------------------------------------------------------------ ours


def fastest(entry: str, case: str, forces: str, compiled: bool, effort: dict[str, Any]) -> Record | None:
    """One row; of a short case the best of several processes, of which one alone says little."""
    times = PROCESSES if case in SHORT else 1
    rows = [in_fresh_process(entry, case, forces, compiled, effort) for _ in range(times)]
    found = sorted((row for row in rows if row), key=lambda row: row["milliseconds"])
    if not found:
        return None
    return found[0] | ({"processes_milliseconds": [row["milliseconds"] for row in found]} if times > 1 else {})


def in_fresh_process(entry: str, case: str, forces: str, compiled: bool, effort: dict[str, Any]) -> Record | None:
    """Measure one row where nothing else has used memory; None, with a message, if that cannot be done."""
    one = {"entry": entry, "case": case, "forces": forces, "compiled": compiled, **effort}
    command = [sys.executable, "-m", "benchmarks.throughput.run", "ours", "--one", json.dumps(one)]
    done = subprocess.run(command, env=KEEPING, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(f"{one} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


IMPORT = """
import json, sys, time
now = lambda: (time.process_time(), time.perf_counter())
marks = [now()]
import torch
marks.append(now())
import transip
calculator = transip.TransIPCalculator
marks.append(now())
from ase.build import molecule
atoms = molecule("C6H6")
marks.append(now())
atoms.calc = calculator(sys.argv[1], charge=0, spin=1, unseen="ignore")
atoms.get_forces()
marks.append(now())
print(json.dumps(marks))
"""


def imports() -> list[Record]:
    """Importing PyTorch, our calculator on top of it, then loading a model and a first energy: best of fresh ones."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model_of("transip-S", "direct"), Path(folder) / "model")
        command = [sys.executable, "-c", IMPORT, str(Path(folder) / "model")]
        marks = np.array([json.loads(subprocess.check_output(command)) for _ in range(IMPORTS)])
    busy, wall = 1e3 * np.diff(marks, axis=1).min(0).T
    steps = {0: ("torch", "reference", "import"), 1: ("transip", "ours", "import"), 3: ("transip-S", "ours", "first12")}
    return [
        {
            "entry": entry,
            "kind": kind,
            "case": case,
            "forces": "direct",
            "compiled": False,
            "atoms_per_second": None,
            "milliseconds": busy[step],
            "wall_milliseconds": wall[step],
            "peak_memory_mb": None,
            "matmul_peak_share": None,
        }
        for step, (entry, kind, case) in steps.items()
    ]


# ------------------------------------------------------------------------------------------ others


def reference(case: str, effort: dict[str, Any]) -> Record:
    """GFN2-xTB itself, a fresh self-consistent field each time."""
    (structure,) = structures_of(case)
    limits = effort | {"seconds": min(effort["seconds"], 30.0)}
    found = measure(lambda: GFN2(structure.numbers, 0, structure.spin)(structure.positions), **limits)
    return {
        "entry": "gfn2-xtb",
        "kind": "reference",
        "case": case,
        "atoms": len(structure),
        "forces": "conservative",
        "compiled": False,
        "atoms_per_second": 1e3 * len(structure) / found["milliseconds"],
        **found,
        "matmul_peak_share": None,
        "versions": {"tblite": version("tblite")},
    }


def peer(entry: str, liquids: list[str], molecules: bool, effort: dict[str, Any]) -> Iterable[Record]:
    """A peer, measured inside its own environment as it comes and, where its package has that, compiled.

    Liquids are for those whose package compiles ahead of time, each in a fresh process.
    """
    options = {"structures": FILE.resolve(), **effort}
    if molecules:
        yield from run_in_environment_of(entry, "speed", options, KEEPING)
        with suppress(subprocess.CalledProcessError):
            yield from run_in_environment_of(entry, "speed", options | {"compile": True}, KEEPING)
    for liquid in liquids if entry in DEPLOYED else ():
        yield from run_in_environment_of(entry, "speed", options | {"liquid": liquid}, KEEPING)


if __name__ == "__main__":
    main()
