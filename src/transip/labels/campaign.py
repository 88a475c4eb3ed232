"""A labelling campaign: parallel, killable at any moment, and the same to the last bit however it was run.

Chunk i of a domain depends only on the settings and i. Finished chunks wait as files in a work folder beside the
output; when every domain has enough, they are written in order as one pack and the work folder goes.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from transip.config import LabelSettings
from transip.data.store import Pack, write_pack
from transip.errors import InputError, InputWarning
from transip.extras import import_optional
from transip.files import output_lock, read_json, remove_stale, write_json
from transip.labels.chunks import Chunk, label_chunk
from transip.labels.methods import METHODS, require
from transip.structure import Structure

MAX_EMPTY_CHUNKS = 16  # chunks of a domain without a single structure, after which it is given up
NOT_RESULT = {"workers", "backend"}  # settings that change how a campaign runs, not what comes out


def run_campaign(settings: LabelSettings, output: str | Path, *, progress: bool = True) -> Pack:
    """Label what `settings` ask for and write it as a pack; continue where a killed campaign stopped.

    If `output` is the finished pack of the same settings, there is nothing to do.

    Args:
        settings: domains, method, seed and how to run.
        output: the pack to write, `NAME.pack`.
        progress: show a progress bar and, at the end, a table of failures and the rate, on standard error.

    Raises:
        InputError: `output` is something else or is being made by another process, an unfinished campaign of other
            settings is in the way, a dependency is missing, or a domain cannot yield what is asked of it.
    """
    output = Path(output)
    require(settings.method)
    _check_backend(settings.backend)
    with output_lock(output):
        return _finished(settings, output) if output.exists() else _build(settings, output, progress)


def _build(settings: LabelSettings, output: Path, progress: bool) -> Pack:
    state, console = CampaignState(settings, output), Console(stderr=True, quiet=not progress)
    started, before = time.perf_counter(), state.num_labelled
    with _bar(state, console) as update:
        while chunks := state.pending():
            for finished in _label_all(settings, chunks):
                state.keep(*finished)
                update()
    theory = METHODS[settings.method].level_of_theory
    pack = write_pack(output, state.structures(), level_of_theory=theory, provenance=state.provenance())
    console.print(_table(state, (state.num_labelled - before) / max(time.perf_counter() - started, 1e-3)))
    shutil.rmtree(state.folder)
    return pack


class CampaignState:
    """The work folder `.NAME.pack.work/`: one file per finished chunk, and whose settings they belong to."""

    def __init__(self, settings: LabelSettings, output: Path):
        self.settings = settings
        self.folder = _work_folder(output)
        self.identity = _identity(settings)
        remove_stale(self.folder / "*")
        # per domain: number of a finished chunk → structures in it, failures by reason
        self._finished: list[dict[int, tuple[int, dict[str, int]]]] = [{} for _ in settings.domains]
        if not self._is_same_campaign():
            shutil.rmtree(self.folder, ignore_errors=True)
        for file in self.folder.glob("*.npz"):
            try:
                domain, number = map(int, file.stem.split("-"))
                self._note(domain, number, Chunk.load(file))
            except InputError as error:
                warnings.warn(f"{file}: {error.problem}; it is labelled again", InputWarning, stacklevel=2)
                file.unlink()
        write_json(self.folder / "settings.json", self.identity)

    def _is_same_campaign(self) -> bool:
        """Whether the folder holds a campaign of these settings, but for how many structures are wanted.

        Raises:
            InputError: it holds structures of another one.
        """
        settings = self.folder / "settings.json"
        if settings.exists() and _chunk_identity(read_json(settings)) == _chunk_identity(self.identity):
            return True
        if any(Chunk.load(file).structures for file in self.folder.glob("*.npz")):
            raise InputError(
                "an interrupted campaign with other settings (or other versions of tblite or RDKit) is here",
                where=str(self.folder),
                remedy="resume it with its own settings, choose another output, or remove the folder",
            )
        return False

    def keep(self, entry: int, number: int, chunk: Chunk) -> None:
        """Store a finished chunk."""
        chunk.save(self._file(entry, number))
        self._note(entry, number, chunk)

    @property
    def num_labelled(self) -> int:
        """Structures in all finished chunks."""
        return sum(size for chunks in self._finished for size, _ in chunks.values())

    @property
    def num_wanted_labelled(self) -> int:
        """The same without those of a domain that exceed what is asked for."""
        domains = zip(self.settings.domains, self._finished, strict=True)
        return sum(min(domain.structures, sum(size for size, _ in chunks.values())) for domain, chunks in domains)

    def pending(self) -> list[tuple[int, int]]:
        """(domain, chunk) pairs to label next: as many as the yield so far suggests, none when all is there.

        Raises:
            InputError: a domain yields nothing.
        """
        return [(entry, number) for entry in range(len(self._finished)) for number in self._pending(entry)]

    def structures(self) -> Iterator[Structure]:
        """All that was asked for, in order."""
        for entry, domain in enumerate(self.settings.domains):
            left = domain.structures
            for number in self._used(entry):
                structures = Chunk.load(self._file(entry, number)).structures[:left]
                left -= len(structures)
                yield from structures

    def failures(self, entry: int) -> dict[str, int]:
        """Failures by reason in the chunks that are used, the most frequent first."""
        total: Counter[str] = Counter()
        for number in self._used(entry):
            total.update(self._finished[entry][number][1])
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def provenance(self) -> dict[str, Any]:
        """What the pack says about where it comes from."""
        domains = enumerate(self.settings.domains)
        return {
            **self.identity,
            "failures": [{"domain": domain.domain, "failures": self.failures(entry)} for entry, domain in domains],
        }

    def _note(self, entry: int, number: int, chunk: Chunk) -> None:
        self._finished[entry][number] = len(chunk.structures), chunk.failures

    def _file(self, entry: int, number: int) -> Path:
        return self.folder / f"{entry}-{number}.npz"

    def _used(self, entry: int) -> range:
        """The leading chunks that hold what is wanted, as far as they are finished."""
        finished, left = self._finished[entry], self.settings.domains[entry].structures
        number = 0
        while left > 0 and number in finished:
            left -= finished[number][0]
            number += 1
        return range(number)

    def _pending(self, entry: int) -> list[int]:
        domain, finished, used = self.settings.domains[entry], self._finished[entry], self._used(entry)
        left = domain.structures - sum(finished[number][0] for number in used)
        if left <= 0:
            return []
        per_chunk = sum(size for size, _ in finished.values()) / len(finished) if finished else self.settings.chunk
        if not per_chunk and len(finished) >= MAX_EMPTY_CHUNKS:
            raise InputError(
                f"{len(finished)} chunks gave no structure at all: {self.failures(entry)}",
                where=domain.domain,
                remedy="raise max_force or max_atoms, or lower temperatures or sigmas",
            )
        more = ceil(left / per_chunk) if per_chunk else MAX_EMPTY_CHUNKS - len(finished)
        return [number for number in range(len(used), len(used) + more) if number not in finished]


def _identity(settings: LabelSettings) -> dict[str, Any]:
    """What decides the result: settings and the versions of what computes it."""
    packages = ["rdkit", "tblite"] + (["pyscf"] if settings.method == "wb97m-v" else [])
    described = settings.model_dump(mode="json", exclude=NOT_RESULT)
    return {"settings": described, "versions": {name: version(name) for name in packages}}


def _chunk_identity(identity: dict[str, Any]) -> dict[str, Any]:
    """What decides the result of a chunk: not how many structures are wanted, so that may change in between."""
    domains = [domain | {"structures": None} for domain in identity["settings"]["domains"]]
    return identity | {"settings": identity["settings"] | {"domains": domains}}


def _finished(settings: LabelSettings, output: Path) -> Pack:
    """Open the pack at `output` if these settings made it.

    Raises:
        InputError: it is another pack, or no pack at all.
    """
    pack = Pack.open(output)
    if {key: pack.meta["provenance"].get(key) for key in _identity(settings)} != _identity(settings):
        raise InputError(
            "exists already and was made with other settings (or other versions of tblite or RDKit)",
            where=str(output),
            remedy="choose another output or remove it",
        )
    shutil.rmtree(_work_folder(output), ignore_errors=True)  # of a campaign killed in its last moment
    return pack


def _work_folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.work")


def _check_backend(backend: str) -> None:
    package = {"dask": "distributed"}.get(backend, backend)
    if backend != "loky" and find_spec(package) is None:
        raise InputError(
            f"backend {backend!r} needs the package {package}, which is not installed",
            where="backend",
            remedy=f"pip install {package}, or set backend: loky",
        )


def _label_all(settings: LabelSettings, chunks: list[tuple[int, int]]) -> Iterator[tuple[int, int, Chunk]]:
    """Label chunks in parallel; yields them as they are finished."""
    joblib = import_optional("joblib")
    return_as, group_size = "generator_unordered", len(chunks)
    with _cluster(settings.backend), joblib.parallel_config(settings.backend, n_jobs=settings.workers):
        if settings.backend == "ray":  # from Ray, joblib gets results only when all are there: keep rounds short
            return_as, group_size = "list", 4 * joblib.effective_n_jobs()
        for start in range(0, len(chunks), group_size):
            parent = os.getpid() if settings.backend == "loky" else None
            tasks = (
                joblib.delayed(_label_task)(settings, *task, parent) for task in chunks[start : start + group_size]
            )
            yield from joblib.Parallel(return_as=return_as, batch_size=1)(tasks)


@contextmanager
def _cluster(backend: str) -> Iterator[None]:
    """Join the cluster that the environment names, or start one on this machine, unless that was done before."""
    if backend == "ray":
        import_optional("ray.util.joblib").register_ray()  # Ray connects when it is first used
    if backend == "dask":
        distributed = import_optional("distributed")
        try:
            distributed.default_client()
        except ValueError:  # there is none
            with distributed.Client():
                yield
            return
    yield


def _label_task(settings: LabelSettings, entry: int, number: int, campaign: int | None) -> tuple[int, int, Chunk]:
    """Label a chunk; a process that was started by `campaign` ends when that is killed."""
    if campaign not in (None, os.getpid()):
        _exit_with_parent(campaign)
    return entry, number, label_chunk(settings, entry, number)


@cache
def _exit_with_parent(parent: int) -> None:
    """End this process soon after `parent`, or it would label on, or wait for work, for nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _bar(state: CampaignState, console: Console) -> Iterator[Callable[[], None]]:
    """A progress bar over labelled structures; yields a function that brings it up to date."""
    rate = TextColumn("{task.fields[rate]:.0f}/s")
    columns = ("labelling", BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(), TimeRemainingColumn())
    started, before = time.perf_counter(), state.num_wanted_labelled
    with Progress(*columns, console=console) as bar:
        total = sum(domain.structures for domain in state.settings.domains)
        task = bar.add_task("", total=total, completed=before, rate=0.0)

        def update() -> None:
            done = state.num_wanted_labelled
            seconds = max(time.perf_counter() - started, 1e-3)  # clocks may stand still or go back
            bar.update(task, completed=done, rate=(done - before) / seconds)

        yield update


def _table(state: CampaignState, rate: float) -> Table:
    """Structures and failures per domain."""
    table = Table("domain", "structures", "failures", title=f"{rate:.0f} labels/s")
    for entry, domain in enumerate(state.settings.domains):
        failures = ", ".join(f"{reason} {n}" for reason, n in state.failures(entry).items())
        table.add_row(domain.domain, str(domain.structures), failures or "none")
    return table
