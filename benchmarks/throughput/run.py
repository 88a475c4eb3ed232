"""Speed of energies and forces, and of training, on one core: ours, the peers and GFN2-xTB, on the same structures.

    python -m benchmarks.throughput.run ours import growth reference painn esen allscaip mace nequip
    python -m benchmarks.throughput.run ours --quick --cases batch64x20 --results OUT/results.jsonl

Weights are random: speed does not depend on them. Times are processor time of one thread, the shortest of up to 30
repeats after a first call that does not count, so that other work on the machine counts little; wall time (median) is
beside it. `single…`, `batch…` and `train` (16 structures; 64 in `train64`; `-bf16`: products of matrices in bfloat16)
are the model on a prepared batch, whose neighbours the peers are given; `calculator20` is a molecule through
TransIPCalculator. Every row of ours is measured in a fresh process; of those that take few milliseconds, which on a
virtual machine can differ by a factor of two between processes, the fastest of three counts (`processes_milliseconds`
has all). Compiled rows are left out where there is no compilation, and for large molecules, which take minutes to
compile.

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
from benchmarks.throughput.cases import CASES, FILE, export, structures_of
from benchmarks.throughput.ours import MODELS, measure_ours, model_of
from transip.labels.methods import GFN2
from transip.memory import KEEP, LARGEST
from transip.model.files import save_model

GROWTH = (10, 30, 100, 300, 1000, 3000, 10000, 20000)
COMPILED = ("batch64x20", "single20", "calculator20", *(case for case in CASES if case.startswith("train")))
SHORT = ("single20", "calculator20")  # cases measured in several processes
PROCESSES = 3
FIT_FROM = 1000  # atoms from which on exponents are fitted
IMPORTS = 5  # fresh processes
# What measures, ours and peers, keeps the memory that a call frees for the next one, as the commands of `transip` do.
KEEPING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(LARGEST), "MALLOC_TRIM_THRESHOLD_": str(KEEP)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("entries", nargs="+", help="ours, import, growth, reference (GFN2-xTB), or a peer")
    parser.add_argument("--cases", nargs="+", default=[*CASES, "calculator20"], help="of ours and the reference")
    parser.add_argument(
        "--models", nargs="+", default=[*MODELS], choices=MODELS, help="of ours; others keep their rows"
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, growth to 3,000 atoms: does it work at all?")
    parser.add_argument("--results", type=Path, default=results_file(__file__))
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    effort = {"repeats": 3, "seconds": 10.0} if arguments.quick else {"repeats": 30, "seconds": 60.0}
    if arguments.one:
        print(json.dumps(measure_ours(**arguments.one, **effort)))
        return
    if not FILE.exists():
        export()
    for entry in arguments.entries:
        for row in rows_of(entry, arguments, effort):
            print(summary(row), flush=True)
            save_results(arguments.results, [{"name": name_of(row), **provenance(), **row}])  # at once: it takes long


def wanted(arguments: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Entry, case, forces and compilation of the rows of ours that are to be measured."""
    found = itertools.product(arguments.models, arguments.cases, ("direct", "conservative"), (False, True))
    return [one for one in found if not one[3] or one[1] in COMPILED]


def name_of(row: Record) -> str:
    """ENTRY/CASE/FORCES, of growth with the number of atoms, and whether it was compiled."""
    growth = (f"{row['atoms']}-atoms",) if row["case"] == "growth" else ()
    return "/".join((row["entry"], row["case"], row["forces"], *growth, *(("compiled",) if row["compiled"] else ())))


def summary(row: Record) -> str:
    compiled = "compiled" if row["compiled"] else ""
    label = f"{row['entry']:17} {row['case']:13} {row.get('atoms', ''):>6} {row['forces']:9} {compiled:9}"
    return f"{label} {row['milliseconds']:11.2f} ms {row['peak_memory_mb'] or 0:9.0f} MB"


def rows_of(entry: str, arguments: argparse.Namespace, effort: dict[str, Any]) -> Iterable[Record]:
    if entry == "ours":
        rows = (fastest(*one, quick=arguments.quick) for one in wanted(arguments))
        return (row for row in rows if row)
    if entry == "growth":
        return growth(arguments.quick)
    if entry == "reference":
        return (reference(case, effort) for case in arguments.cases if case in ("single20", "single200"))
    if entry == "import":
        return imports()
    return peer(entry, arguments.quick)


# ------------------------------------------------------------------------------------------ ours


def fastest(entry: str, case: str, forces: str, compiled: bool, *, quick: bool) -> Record | None:
    """One row; of a short case the best of several processes, of which one alone says little."""
    times = PROCESSES if case in SHORT and not quick else 1
    rows = [in_fresh_process(entry, case, forces, compiled, quick=quick) for _ in range(times)]
    found = sorted((row for row in rows if row), key=lambda row: row["milliseconds"])
    if not found:
        return None
    return found[0] | ({"processes_milliseconds": [row["milliseconds"] for row in found]} if times > 1 else {})


def in_fresh_process(
    entry: str, case: str, forces: str, compiled: bool, atoms: int = 0, *, quick: bool
) -> Record | None:
    """Measure one row where nothing else has used memory; None, with a message, if that cannot be done."""
    one = {"entry": entry, "case": case, "forces": forces, "compiled": compiled, "atoms": atoms}
    flags = ["--quick"] if quick else []
    command = [sys.executable, "-m", "benchmarks.throughput.run", "ours", "--one", json.dumps(one), *flags]
    done = subprocess.run(command, env=KEEPING, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(f"{one} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def growth(quick: bool) -> Iterable[Record]:
    """One cluster of each size, and how time and memory over that of the empty process grow among the large ones."""
    for forces, most in (("direct", 20000), ("conservative", 10000)):
        rows: list[Record] = []
        for atoms in (size for size in GROWTH if size <= (3000 if quick else most)):
            if row := in_fresh_process("transip-S", "growth", forces, False, atoms, quick=quick):
                rows.append(row | {"memory_over_before_mb": row["peak_memory_mb"] - row["memory_before_mb"]})
        large = [row for row in rows if row["atoms"] >= FIT_FROM]
        sizes = np.log([row["atoms"] for row in large])
        fits = {"time_exponent": "milliseconds", "memory_exponent": "memory_over_before_mb"}
        found = {
            name: float(np.polyfit(sizes, np.log([row[key] for row in large]), 1)[0]) for name, key in fits.items()
        }
        yield from (row | found if row["atoms"] >= FIT_FROM else row for row in rows)


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


def peer(entry: str, quick: bool) -> list[Record]:
    """A peer, measured inside its own environment as it comes and, where its package has that, compiled."""
    options = {"structures": FILE.resolve(), "quick": quick}
    rows: list[Record] = run_in_environment_of(entry, "speed", options, KEEPING)
    with suppress(subprocess.CalledProcessError):
        rows += run_in_environment_of(entry, "speed", options | {"compile": True}, KEEPING)
    return rows


if __name__ == "__main__":
    main()
