"""Result records: where a number comes from, and the file that keeps it. Standard library only, for every environment.

The results of a benchmark are the lines of `results.jsonl` in its folder, one JSON object each. Every record has a
`name` of its own, and a new record replaces the line of the same name.
"""

import argparse
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.common.hardware import processor

ROOT = Path(__file__).parents[2]  # of the repository, in which modules are run
Record = dict[str, Any]


def argument_parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's documentation as it is written."""
    return argparse.ArgumentParser(
        prog=" ".join(_program()), description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def results_file(module_file: str) -> Path:
    """`results.jsonl` beside the module."""
    return Path(module_file).parent / "results.jsonl"


def provenance(*packages: str, device: str = "cpu") -> Record:
    """Command, commit, hardware and the versions of Python, transip, PyTorch, NumPy and `packages`, where installed."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    cores = "one core of " if threads == 1 else f"{threads} threads on "
    versions = {"python": platform.python_version()}
    for name in ("transip-potentials", "torch", "numpy", *packages):
        with suppress(PackageNotFoundError):
            versions[name.removesuffix("-potentials")] = version(name)
    return {
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "commit": commit(),
        "hardware": f"{cores}{processor()}" + ("" if device == "cpu" else f", {device}"),
        "versions": versions,
    }


def commit() -> str | None:
    """The commit of the working tree, with a `+` if files differ from it; None outside a repository."""
    describe = ["git", "describe", "--always", "--abbrev=8", "--dirty=+", "--exclude=*"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(describe, cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()
    return None


def read_results(path: Path) -> dict[str, Record]:
    """All records by name, in the order of the file; none if the file does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def save_results(path: Path, records: Sequence[Record]) -> None:
    """Add `records`, each in the place of the one of the same name; processes that save at the same time take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        kept = read_results(path) | {record["name"]: record for record in records}
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with partial.open("w", encoding="utf-8") as handle:
            for name in sorted(kept):
                handle.write(json.dumps(kept[name], ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _program() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", Path(sys.argv[0]).name]
