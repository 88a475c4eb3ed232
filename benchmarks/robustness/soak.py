"""Long runs: does memory stay flat, is the log bounded and whole, are all frames there?

    python -m benchmarks.robustness.soak recipes/organics.yaml --minutes 120 --steps 100000
    python -m benchmarks.robustness.soak recipes/organics.yaml --minutes 2 --steps 2000 --results OUT/results.jsonl

`transip train` runs with a budget of `--minutes`, is killed at half of it and resumed; `transip md` then runs its model
(or `--model`) for `--steps` steps on the first structure of `--molecule`. Both are processes of their own, whose memory
(resident set, from /proc) and output are looked at a few hundred times. Memory is flat if its slope over the second
half of a process, a straight line through all samples, stays below 1 % of its size within the whole run. Metrics are
continuous if each step that is due has one line, times ascend and all numbers are finite.
"""

import argparse
import json
import math
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.io import iread

from benchmarks.common.records import ROOT, argument_parser, provenance, results_file, save_results

FLAT = 0.01  # of the memory, in the whole run
Watched = dict[str, Any]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--minutes", type=float, default=120.0, help="of training")
    parser.add_argument("--steps", type=int, default=100_000, help="of molecular dynamics")
    parser.add_argument("--molecule", type=Path, default=ROOT / "examples" / "fluorotoluene.extxyz")
    parser.add_argument("--model", type=Path, help="of molecular dynamics  [default: the trained one]")
    parser.add_argument("--set", action="append", default=[], help="further settings of the recipe: a.b=c")
    parser.add_argument("--folder", type=Path, help="where to work; it is kept  [default: a temporary one]")
    parser.add_argument("--results", type=Path, default=results_file(__file__))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            "name": "soak",
            **provenance("ase"),
            "train": train(arguments, folder),
            "md": simulate(arguments, folder),
        }
    save_results(arguments.results, [found])
    print(json.dumps({command: summary(found[command]) for command in ("train", "md")}, indent=2))


def summary(found: Watched) -> Watched:
    return {key: value for key, value in found.items() if key != "samples"}


# ------------------------------------------------------------------------------------------ training


def train(arguments: argparse.Namespace, folder: Path) -> Watched:
    run = folder / "run"
    budget = ["training.steps=null", f"training.minutes={arguments.minutes}", *arguments.set]
    command = ["train", str(arguments.recipe), "-o", str(run), "--resume", *(f"--set={value}" for value in budget)]
    log = run / "metrics.jsonl"
    first = watch(command, log, arguments.minutes * 30, folder / "train.log")
    reached = len(log.read_text().splitlines())
    second = watch(command, log, math.inf, folder / "train.log")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())["training"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {
        "minutes": arguments.minutes,
        "killed_after_seconds": first["seconds"],
        "lines_when_killed": reached,
        "steps": lines[-1]["step"],
        **continuity(lines, recipe),
        "log_bytes": log.stat().st_size,
        "log_bytes_per_step": log.stat().st_size / lines[-1]["step"],
        "checkpoints": len(list((run / "checkpoints").iterdir())),
        "memory": [memory(first), memory(second)],
        "samples": [first["samples"][::4], second["samples"][::4]],
    }


def continuity(lines: list[Watched], recipe: Watched) -> Watched:
    """Which lines of the metrics are missing, doubled, out of order or not finite."""
    last = lines[-1]["step"]
    due = {
        "train": {*range(recipe["log_every"], last + 1, recipe["log_every"]), last},
        "evaluation": {*range(recipe["evaluate_every"], last + 1, recipe["evaluate_every"]), last},
    }
    steps = {kind: [line["step"] for line in lines if line["kind"] == kind] for kind in due}
    times = [line["time_s"] for line in lines]
    numbers = [value for line in lines for value in line.values() if isinstance(value, int | float)]
    return {
        "lines": len(lines),
        "missing_lines": sum(len(due[kind] - set(steps[kind])) for kind in due),
        "doubled_lines": sum(len(steps[kind]) - len(set(steps[kind])) for kind in due),
        "times_ascend": times == sorted(times),
        "numbers_not_finite": sum(not math.isfinite(value) for value in numbers),
    }


# ------------------------------------------------------------------------------------------ molecular dynamics


def simulate(arguments: argparse.Namespace, folder: Path) -> Watched:
    output = folder / "md.extxyz"
    options = ["--steps", str(arguments.steps), "--interval", "100", "--temperature", "300", "-o", str(output)]
    command = ["md", str(arguments.model or folder / "run"), str(arguments.molecule), *options]
    found = watch(command, folder / "md.partial.xyz", math.inf, folder / "md.log")
    times = [atoms.info["time"] for atoms in iread(output, ":", format="extxyz")]
    return {
        "steps": arguments.steps,
        "seconds": found["seconds"],
        "frames": len(times),
        "frames_expected": arguments.steps // 100 + 1,
        "times_ascend": times == sorted(set(times)),
        "trajectory_bytes": output.stat().st_size,
        "memory": [memory(found)],
        "samples": [found["samples"][::4]],
    }


# ------------------------------------------------------------------------------------------ watching


def watch(arguments: list[str], growing: Path, seconds: float, log: Path) -> Watched:
    """Run a command, kill it when the file `growing` has been there for so long, and sample memory and its size.

    Returns:
        ``seconds`` it has run, and ``samples``: (seconds, MB of memory, bytes of the file).
    """
    samples, interval, there = [], 0.2, math.inf
    with log.open("a") as said:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "transip", *arguments], stdout=said, stderr=said)
        try:
            while process.poll() is None and time.monotonic() - there < seconds:
                size = growing.stat().st_size if growing.exists() else 0
                there = min(there, time.monotonic()) if size else there
                samples.append((round(time.monotonic() - began, 2), resident_mb(process.pid), size))
                if len(samples) == 400:  # keep every second, and take them half as often
                    samples, interval = samples[::2], 2 * interval
                time.sleep(interval)
        finally:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
    if code not in (0, -signal.SIGKILL) or (code and math.isinf(seconds)):
        raise SystemExit(f"transip {shlex.join(arguments)} ended with {code}:\n{log.read_text()[-3000:]}")
    return {"seconds": round(time.monotonic() - began, 1), "samples": samples}


def resident_mb(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has just ended
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return round(int(found[0]) / 1024, 2) if found else 0.0


def memory(found: Watched) -> Watched:
    """Memory in the second half of a process, when everything has been loaded, and how it changed there."""
    seconds, size, _ = np.array([sample for sample in found["samples"] if sample[1] > 0]).T
    late = seconds > seconds[-1] / 2
    slope = float(np.polyfit(seconds[late], size[late], 1)[0]) if late.sum() > 2 else math.nan
    growth = slope * found["seconds"]  # MB in the whole run, at this rate
    mean = float(size[late].mean())
    return {
        "mean_mb": round(mean, 1),
        "peak_mb": float(size.max()),
        "slope_mb_per_hour": round(3600 * slope, 3),
        "flat": bool(growth < FLAT * mean),
    }


if __name__ == "__main__":
    main()
