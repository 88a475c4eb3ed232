"""Speed of energies and forces, and of training, on one core: ours, the peers and GFN2-xTB, on the same structures.

    python benchmarks/throughput/run.py ours import growth reference painn esen allscaip mace nequip
    python benchmarks/throughput/run.py ours --quick --cases batch64x20 --output OUT

Weights are random: speed does not depend on them. Times are processor time of one thread, the shortest of up to 30
repeats after a first call that does not count, so that other work on the machine counts little; wall time (median) is
beside it. `single…`, `batch…` and `train` (16 structures; 64 in `train64`; `-bf16`: products of matrices in bfloat16)
are the model on a prepared batch, whose neighbours the peers are given; `calculator20` is a molecule through
TransIPCalculator. Every row of ours is measured in a fresh process; of those that take few milliseconds, which on a
virtual machine can differ by a factor of two between processes, the fastest of three counts (`processes_milliseconds`
has all). Compiled rows are left out where there is no compilation, and for large molecules, which take minutes to
compile.

Results go to benchmarks/throughput/results/ENTRY.json, a list of rows. The matrix-product peak is that of float32
products of 1,024 × 1,024 matrices on the same core; operations are those of the model's matrix products, forward
and, in `train`, backward, not the optimiser's.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # one core, whatever the machine has

import argparse
import itertools
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cases import CASES, FILE, export, structures_of
from ours import MODELS, measure_ours, model_of

from hardware import measure, processor
from transip.files import read_json, write_json
from transip.labels.methods import GFN2
from transip.memory import KEEP, LARGEST
from transip.model.files import save_model

HERE = Path(__file__).parent
RESULTS, PEERS = HERE / "results", HERE.parent / "peers"
GROWTH = (10, 30, 100, 300, 1000, 3000, 10000, 20000)
COMPILED = ("batch64x20", "single20", "calculator20", *(case for case in CASES if case.startswith("train")))
SHORT = ("single20", "calculator20")  # cases measured in several processes
PROCESSES = 3
FIT_FROM = 1000  # atoms from which on exponents are fitted
IMPORTS = 5  # fresh processes
# What measures, ours and peers, keeps the memory that a call frees for the next one, as the commands of `transip` do.
KEEPING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(LARGEST), "MALLOC_TRIM_THRESHOLD_": str(KEEP)}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", help="ours, import, growth, reference (GFN2-xTB), or a peer")
    parser.add_argument("--cases", nargs="+", default=[*CASES, "calculator20"], help="of ours and the reference")
    parser.add_argument(
        "--models", nargs="+", default=[*MODELS], choices=MODELS, help="of ours; others keep their rows"
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, growth to 3,000 atoms: does it work at all?")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
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
        target = arguments.output / f"{entry}.json"
        rows = others(target, wanted(arguments)) if entry == "ours" else []
        for row in rows_of(entry, arguments, effort):
            rows.append(row | ORIGIN)
            print(summary(row), flush=True)
            write_json(target, rows)  # at once: it takes long, and may be stopped


def wanted(arguments: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Entry, case, forces and compilation of the rows of ours that are to be measured."""
    found = itertools.product(arguments.models, arguments.cases, ("direct", "conservative"), (False, True))
    return [one for one in found if not one[3] or one[1] in COMPILED]


def others(target: Path, measured: list[tuple[str, str, str, bool]]) -> list[Row]:
    """What was found before and is not measured again."""
    known = read_json(target) if target.exists() else []
    return [row for row in known if (row["entry"], row["case"], row["forces"], row["compiled"]) not in measured]


def summary(row: Row) -> str:
    compiled = "compiled" if row["compiled"] else ""
    label = f"{row['entry']:17} {row['case']:13} {row.get('atoms', ''):>6} {row['forces']:9} {compiled:9}"
    return f"{label} {row['milliseconds']:11.2f} ms {row['peak_memory_mb'] or 0:9.0f} MB"


ORIGIN: Row = {
    "track": "cpu-1core",
    "hardware": f"one core of {processor()}",
    "command": shlex.join(["python", *sys.argv]),
}


def rows_of(entry: str, arguments: argparse.Namespace, effort: dict[str, Any]) -> Iterable[Row]:
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


def fastest(entry: str, case: str, forces: str, compiled: bool, *, quick: bool) -> Row | None:
    """One row; of a short case the best of several processes, of which one alone says little."""
    times = PROCESSES if case in SHORT and not quick else 1
    rows = [in_fresh_process(entry, case, forces, compiled, quick=quick) for _ in range(times)]
    found = sorted((row for row in rows if row), key=lambda row: row["milliseconds"])
    if not found:
        return None
    return found[0] | ({"processes_milliseconds": [row["milliseconds"] for row in found]} if times > 1 else {})


def in_fresh_process(entry: str, case: str, forces: str, compiled: bool, atoms: int = 0, *, quick: bool) -> Row | None:
    """Measure one row where nothing else has used memory; None, with a message, if that cannot be done."""
    one = {"entry": entry, "case": case, "forces": forces, "compiled": compiled, "atoms": atoms}
    flags = ["--quick"] if quick else []
    command = [sys.executable, __file__, "ours", "--one", json.dumps(one), *flags]
    done = subprocess.run(command, env=KEEPING, capture_output=True, text=True)
    if done.returncode:
        print(f"{one} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def growth(quick: bool) -> Iterable[Row]:
    """One cluster of each size, and how time and memory over that of the empty process grow among the large ones."""
    for forces, most in (("direct", 20000), ("conservative", 10000)):
        rows: list[Row] = []
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


def imports() -> list[Row]:
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
            "versions": {name: version(name) for name in ("transip", "torch", "numpy")},
        }
        for step, (entry, kind, case) in steps.items()
    ]


# ------------------------------------------------------------------------------------------ others


def reference(case: str, effort: dict[str, Any]) -> Row:
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


def peer(entry: str, quick: bool) -> list[Row]:
    """A peer, measured inside its own environment as it comes and, where its package has that, compiled."""
    python = PEERS / ".venvs" / entry / "bin" / "python"
    if not python.exists():
        subprocess.run(["bash", PEERS / "environments.sh", entry], check=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for flags in ([], ["--compile"]):
            target = Path(folder) / "rows.json"
            options = [f"--structures={FILE}", f"--output={target}", *flags, *(["--quick"] if quick else [])]
            done = subprocess.run([python, PEERS / "speed.py", entry, *options], env=KEEPING, check=not flags)
            if not done.returncode:
                rows += json.loads(target.read_text())
    return rows


if __name__ == "__main__":
    main()
