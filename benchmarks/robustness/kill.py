"""Every long command, killed (SIGKILL) at random moments and at every rename and removal, resumed, and compared.

    python -m benchmarks.robustness.kill --kills 25 --seed 0
    python -m benchmarks.robustness.kill --kills 5 --commands train md --results OUT/results.jsonl

A command runs in a forked child of this process, which has imported everything, so that kills fall into its work and
not into imports. Random kills come in pairs: the resumed command is killed, too. In the others the child kills itself
immediately before or after its k-th rename or removal of a file or folder, for every k. After each kill, whatever
has its final name must be whole: the finished result, or what was there before (a run folder: files of which each is
whole). Then the command is started again as docs/how-to/resume.md says. A kill is survived if it ends with exit code 0
and its folder then holds the same files as after an uninterrupted command, hidden ones included, byte by byte; of a
training, the same numbers to the last bit, but for times.

The records `kill/COMMAND` go into `results.jsonl`.
"""

import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # optimisers do, when they are made

from benchmarks.common.records import Record, argument_parser, provenance, results_file, save_results
from benchmarks.robustness.commands import Command, Contents, commands, contents, fresh, visible, write_inputs
from transip.cli import main as command_line
from transip.config import LabelSettings, load
from transip.data import pack
from transip.extras import import_optional
from transip.inference import md, relax
from transip.labels.chunks import label_chunk
from transip.training import trainer

BEFORE_FORKING = (
    torch._dynamo,
    md,
    relax,
    pack,
    trainer,
    import_optional("joblib"),
)  # all that the children would import
EVENTS = ("replace", "rename", "unlink", "remove", "rmdir")  # of the module `os`, which everything else uses
Hook = Callable[[], None]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=25, help="random moments for each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--commands", nargs="+", default=list(commands(1)), choices=list(commands(1)))
    parser.add_argument("--size", type=int, default=1, help="scales the inputs: how long a command takes")
    parser.add_argument("--stride", type=int, default=1, help="kill at every so-manieth rename only")
    parser.add_argument("--results", type=Path, default=results_file(__file__))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_inputs(Path(place) / "in", arguments.size)
        label_chunk(load(LabelSettings, Path(place) / "in" / "labels.yaml"), 0, 0)  # reads the molecules, once
        for name in arguments.commands:
            campaign = Campaign(Path(place), name, commands(arguments.size)[name])
            began = time.perf_counter()
            found = campaign.run(arguments.kills, random.Random(f"{arguments.seed} {name}"), arguments.stride)
            origin = {"name": f"kill/{name}", "seed": arguments.seed, **provenance("ase", "safetensors")}
            save_results(arguments.results, [origin | found])
            print(f"{name:10} {summary(found)}  ({time.perf_counter() - began:.0f} s)", flush=True)


def summary(found: Record) -> str:
    kills = ", ".join(f"{count} {kind}" for kind, count in found["kills"].items())
    return f"{found['survived']} of {sum(found['kills'].values())} kills survived ({kills})"


class Campaign:
    """All kills of one command."""

    def __init__(self, place: Path, name: str, command: Command):
        self.command, self.inputs, self.folder = command, place / "in", place / name.replace(" ", "-")
        self.log = place / "log"
        self.failures: list[str] = []
        self.survived = 0

    def run(self, kills: int, generator: random.Random, stride: int) -> dict[str, Any]:
        fresh(self.folder, self.inputs, self.command)
        self.before = contents(self.folder)
        events = self._events()
        self.expected = contents(self.folder)
        counts = {"before a rename or removal": 0, "after": 0, "at a random moment": 0}
        for kind, after in (("before a rename or removal", False), ("after", True)):
            for k in range(0, len(events), stride):
                counts[kind] += self._trial(f"{kind}: {events[k]}", at_event(k, after))
        while counts["at a random moment"] < kills:
            counts["at a random moment"] += self._random_trial(generator)
        return {
            "seconds_uninterrupted": round(self.seconds, 3),
            "renames_and_removals": len(events),
            "kills": counts,
            "survived": self.survived,
            "failures": self.failures,
        }

    def _events(self) -> list[str]:
        """What the uninterrupted command renames and removes; how long it takes."""
        record = self.log.with_name("events")
        record.write_text("")
        began = time.perf_counter()
        if self._wait(self._start(watch(lambda event: record.open("a").write(event + "\n") and None))) != 0:
            raise SystemExit(f"the uninterrupted command failed:\n{self.log.read_text()}")
        self.seconds = time.perf_counter() - began
        return record.read_text().splitlines()

    def _trial(self, what: str, hook: Hook) -> int:
        """One kill by the command itself, and its resumption: how many kills that were."""
        fresh(self.folder, self.inputs, self.command)
        code = self._wait(self._start(hook))
        if code != -signal.SIGKILL:
            self.failures.append(f"{what}: was to be killed, but ended with {code}: {self.log.read_text()[-2000:]}")
            return 1
        self._judge(what, 1)
        return 1

    def _random_trial(self, generator: random.Random) -> int:
        """Kill the command, and the resumed command."""
        fresh(self.folder, self.inputs, self.command)
        kills, what = 0, []
        for resume in ((), self.command.resume):
            delay = generator.uniform(0, self.seconds)
            child = self._start(None, resume)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)  # a child that has ended is there until it is waited for
            if self._wait(child) == -signal.SIGKILL:
                kills += 1
                what.append(f"after {delay:.3f} s")
        if kills:
            self._judge(" and ".join(what), kills)
        return kills

    def _judge(self, what: str, kills: int) -> None:
        """Look at what is there, resume, and compare."""
        try:
            if wrong := self._half_written() or self._resumed():
                self.failures.append(f"{what}: {wrong}")
            else:
                self.survived += kills
        except Exception:
            self.failures.append(f"{what}: {traceback.format_exc()}")

    def _half_written(self) -> str:
        """What is wrong with what the kill has left under final names."""
        if strange := visible(self.folder, self.command):
            return f"left {strange}"
        output = self.folder / self.command.output
        if not output.exists():
            return ""
        self.command.whole(output)
        if not self.command.resume:  # no folder that grows: all or nothing
            there = {k: v for k, v in contents(self.folder).items() if Path(k).parts[0] == self.command.output}
            if there not in (self._of_output(self.before), self._of_output(self.expected)):
                return "the output is neither the old nor the new one"
        return ""

    def _of_output(self, found: Contents) -> Contents:
        return {name: value for name, value in found.items() if Path(name).parts[0] == self.command.output}

    def _resumed(self) -> str:
        """What is wrong after the command was resumed."""
        finished = self._of_output(contents(self.folder)) == self._of_output(self.expected)
        code = self._wait(self._start(None, self.command.resume))
        if code != 0:
            return f"resuming ended with {code}: {self.log.read_text()[-2000:]}"
        found = contents(self.folder)
        different = [name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)]
        when = "it was finished before" if finished else "it was not finished"
        return f"{sorted(different)} differ after resuming ({when})" if different else ""

    def _start(self, hook: Hook | None, resume: tuple[str, ...] = ()) -> int:
        """Start the command in a child; returns its process id."""
        arguments = [*self.command.arguments(self.inputs), "-o", str(self.folder / self.command.output), *resume]
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if hook is not None:
                hook()
            command_line(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def _wait(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watch(before: Callable[[str], None], after: Callable[[str], None] = lambda _: None) -> Hook:
    """Call `before` and `after` around each rename and removal, with a description of it."""

    def hook() -> None:
        for name in EVENTS:
            setattr(os, name, _watched(name, getattr(os, name), before, after))

    return hook


def _watched(name: str, call: Callable[..., Any], before: Callable[[str], None], after: Callable[[str], None]) -> Any:
    def watched(path: Any, *arguments: Any, **options: Any) -> Any:
        event = f"{name} {Path(os.fspath(path)).name}".replace(str(os.getpid()), "PID")
        before(event)
        try:
            return call(path, *arguments, **options)
        finally:
            after(event)

    return watched


def at_event(k: int, after: bool) -> Hook:
    """Kill this process before or after event number `k`."""
    left = [k]

    def count(_: str) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    return watch(lambda _: None, count) if after else watch(count)


if __name__ == "__main__":
    main()
