"""Damaged inputs by the thousand: reading one succeeds or ends in `InputError`, and nothing else ever happens.

    python -m benchmarks.robustness.fuzz --inputs 4000 --seed 0
    python -m benchmarks.robustness.fuzz --inputs 500 --formats db pack --findings OUT --results OUT/results.jsonl

Each format (`formats.py`) starts from a few sound inputs. An input is one of the corpus, damaged one to four times
(`mutations.py`); one of the first thousand that reaches lines of a reader that none before it has reached joins the
corpus. A forked process with limited memory reads one input after another with everything that transip does with such
a file: report, pack, train statistics, predict; that takes some milliseconds. What counts as a finding: any exception
but `InputError`, more memory than the limit, longer than the time limit, the death of the process (a C library), a
file changed or made outside the output folder, an unpickled object, a started program, an opened connection. The seed
and the number of an input determine it.

The record `fuzz/seedK` in `results.jsonl` says how many inputs of each format ended how; findings are kept in a folder.
"""

import argparse
import faulthandler
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.records import Record, argument_parser, provenance, results_file, save_results
from benchmarks.robustness.formats import FORMATS, Format, of_folder, write
from benchmarks.robustness.mutations import Files
from transip.data import info, store
from transip.errors import InputError

SHARED = Path("/dev/shm")  # files in memory, where there are
MEMORY = 2 * 2**30  # bytes of address space beyond what the process has at its start
SECONDS = 20.0  # of processor time for one input
ROUND = 1000  # inputs of a format before it is the next one's turn; lines are followed in the first round, slowly
FOLLOWED = (
    "transip/data",
    "transip/model/files",
    "transip/symmetry/latent",
    "transip/config",
    "transip/structure",
    "ase/io/extxyz",
    "ase/db/core",
)
FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
Lines = set[tuple[str, int]]


@dataclass
class Answer:
    """What became of an input: ``ok``, ``refused``, or the kind of a finding; the lines that it was first to reach."""

    outcome: str
    detail: str = ""
    lines: Lines = field(default_factory=set)


class TooSlow(BaseException):
    """Passes every `except Exception`."""


# ---------------------------------------------------------------------------------------------- in the forked process


def serve(link: Connection, form: Format, folder: Path, known: Lines, follow: bool) -> None:
    """Read what comes through `link` until it closes; everything happens below `folder`."""
    for name in ("input", "output", "here", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    faulthandler.disable()  # the parent says how this process ended
    os.chdir(folder / "here")
    os.environ["TMPDIR"] = os.environ["HOME"] = str(folder / "tmp")
    tempfile.tempdir = None
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    info.track = store.track = lambda items, *_, **__: items  # bars are threads, and slow
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    watch = Watch(folder)
    sys.addaudithook(watch)
    tracer = Tracer(known) if follow else None
    while True:
        try:
            files = link.recv()
        except EOFError:
            return
        link.send(answer(form, files, folder, watch, tracer))


def answer(form: Format, files: Files, folder: Path, watch: "Watch", tracer: "Tracer | None") -> Answer:
    """Read one input."""
    for name in ("input", "output"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    write(files, folder / "input")
    before = of_folder(folder / "here") | of_folder(folder / "tmp")
    watch.seen, found = "", Answer("ok")
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)  # again: the first may be lost in a destructor
    try:
        watch.on = True
        if tracer:
            sys.settrace(tracer)
        form.read(folder / "input", folder / "output")
    except InputError as error:
        memory = any(isinstance(cause, MemoryError) for cause in _causes(error))
        found = Answer("memory" if memory else "refused", str(error) if memory else "")
        if not str(error).isprintable() and set(str(error)) - {"\n"} and not str(error).replace("\n", "").isprintable():
            found = Answer("unprintable message", repr(str(error)))
    except TooSlow:
        found = Answer("too slow", traceback.format_exc(limit=-6))
    except MemoryError:
        found = Answer("memory", traceback.format_exc(limit=-6))
    except BaseException as error:
        found = Answer(type(error).__name__, traceback.format_exc(limit=-8))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.settrace(None)
        watch.on = False
    if watch.seen:
        found = Answer("forbidden", watch.seen)
    if of_folder(folder / "input") != files:
        found = Answer("input changed", str(sorted(of_folder(folder / "input"))))
    if of_folder(folder / "here") | of_folder(folder / "tmp") != before:
        found = Answer("file outside the output", "")
    if tracer:
        found.lines = tracer.fresh()
    gc.collect(0)
    return found


def _too_slow(*_: object) -> None:
    raise TooSlow


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class Watch:
    """An audit hook that notes what reading a file must never do."""

    def __init__(self, folder: Path):
        self.allowed, self.on, self.seen = (str(folder / "output"), "/dev/null"), False, ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen = f"{event} {arguments!r}"
        if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and not arguments[0].startswith(self.allowed):
                self.seen = f"open {arguments!r}"
        if event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link"):
            path = os.fspath(arguments[0])
            if not str(path).startswith(self.allowed) and os.path.isabs(path):
                self.seen = f"{event} {arguments!r}"


class Tracer:
    """Lines of the readers that are reached for the first time."""

    def __init__(self, known: Lines):
        self.known, self.new, self.followed = set(known), set(), {}

    def __call__(self, frame: Any, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if name not in self.followed:
            self.followed[name] = any(part in name for part in FOLLOWED)
        return self.line if self.followed[name] else None

    def line(self, frame: Any, event: str, argument: object) -> Any:
        if (key := (frame.f_code.co_filename, frame.f_lineno)) not in self.known:
            self.known.add(key)
            self.new.add(key)
        return self.line

    def fresh(self) -> Lines:
        found, self.new = self.new, set()
        return found


# ---------------------------------------------------------------------------------------------- outside it


class Reader:
    """A forked process that reads inputs; replaced when one of them kills it or takes too long."""

    def __init__(self, form: Format, folder: Path, follow: bool = True):
        self.form, self.folder, self.follow = form, folder, follow
        self.known: Lines = set()
        self._start()

    def _start(self) -> None:
        self.link, other = multiprocessing.Pipe()
        arguments = (other, self.form, self.folder, self.known, self.follow)
        self.process = multiprocessing.get_context("fork").Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def read(self, files: Files) -> Answer:
        """What becomes of `files`."""
        self.link.send(files)
        try:
            found = self._answer()
        except TimeoutError:
            found = Answer("hang", "no answer, not even to an alarm: inside a C library")
            self.restart()
        except (EOFError, ConnectionError):
            self.process.join(5)
            found = Answer("crash", f"the process ended with {self.process.exitcode}")
            self.restart()
        self.known |= found.lines
        return found

    def _answer(self) -> Answer:
        """Wait for it; a busy machine may give the process little time, in which it still goes on."""
        started = last = self._busy()
        while not self.link.poll(30 * SECONDS):
            before, last = last, self._busy()
            if last == before or last - started > 3 * SECONDS:
                raise TimeoutError
        return self.link.recv()

    def _busy(self) -> float:
        """Seconds of processor time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def restart(self) -> None:
        """A new process."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the process."""
        self.link.close()
        self.process.kill()
        self.process.join()


@dataclass
class Found:
    """What has become of the inputs of one format so far."""

    name: str
    seed: int
    corpus: list[Files]
    sound: int
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    lines: Lines = field(default_factory=set)
    seconds: float = 0.0

    @classmethod
    def nothing(cls, name: str, seed: int) -> "Found":
        seeds = FORMATS[name].seeds()
        return cls(name, seed, seeds, len(seeds))

    def mutants(self, indices: range) -> Iterator[tuple[int, Files]]:
        """Damaged inputs with their numbers; the corpus may grow meanwhile."""
        form = FORMATS[self.name]
        for index in indices:
            rng = random.Random(f"{self.seed}/{self.name}/{index}")
            # what is broken is often refused early: most inputs come from what is sound
            files = rng.choice(self.corpus[: self.sound] if rng.random() < 0.6 else self.corpus)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                files = form.damage(files, rng.choice(self.corpus), rng)
            yield index, files

    def read(self, indices: range, findings: Path | None = None) -> None:
        """Read damaged inputs; with the first of all, the sound ones and the lines that are reached."""
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as temporary:
            reader = Reader(FORMATS[self.name], Path(temporary) / "box", follow=indices.start == 0)
            for files in self.corpus if indices.start == 0 else ():
                if (found := reader.read(files)).outcome != "ok":
                    raise SystemExit(f"{self.name}: a sound input ends with {found.outcome}: {found.detail}")
            for index, files in self.mutants(indices):
                found = reader.read(files)
                self.outcomes[found.outcome] += 1
                if found.lines:
                    self.corpus.append(files)
                if found.outcome not in ("ok", "refused"):
                    details = {"input": index, "detail": found.detail}
                    self.findings.setdefault((found.outcome, found.detail[-300:]), details)
                    if findings:
                        write(files, findings / f"{self.name}-{index}-{found.outcome.replace(' ', '-')}")
            self.lines |= reader.known
            reader.close()
        self.seconds += time.perf_counter() - started

    def summary(self) -> dict[str, Any]:
        return {
            "inputs": self.outcomes.total(),
            "outcomes": dict(self.outcomes.most_common()),
            "findings": [{"outcome": outcome, **details} for (outcome, _), details in self.findings.items()],
            "corpus": len(self.corpus),
            "lines": len(self.lines),
            "seconds": round(self.seconds, 1),
        }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="damaged inputs of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--findings", type=Path, help="folder for inputs that found something")
    parser.add_argument("--results", type=Path, default=results_file(__file__))
    arguments = parser.parse_args()
    found = [Found.nothing(name, arguments.seed) for name in arguments.formats]
    for start in range(0, arguments.inputs, ROUND):
        for each in found:
            each.read(range(start, min(start + ROUND, arguments.inputs)), arguments.findings)
            summary = each.summary()
            print(each.name, json.dumps({k: v for k, v in summary.items() if k != "findings"}), flush=True)
            for finding in summary["findings"]:
                print("  ", finding["outcome"], finding["input"], finding["detail"].strip()[-1500:], flush=True)
            save_results(arguments.results, [_result(arguments, {each.name: each.summary() for each in found})])


def _result(arguments: argparse.Namespace, formats: dict[str, Any]) -> Record:
    origin = provenance("ase", "pydantic", "pyyaml", "safetensors")
    return {
        "name": f"fuzz/seed{arguments.seed}",
        **origin,
        "versions": origin["versions"] | {"sqlite": sqlite3.sqlite_version},
        "seed": arguments.seed,
        "inputs": sum(each["inputs"] for each in formats.values()),
        "inputs_asked_for": arguments.inputs * len(arguments.formats),
        "limits": {"seconds": SECONDS, "bytes": MEMORY},
        "formats": formats,
    }


if __name__ == "__main__":
    main()
