"""The processor's name, and what a call takes of it: time and memory. Standard library only, for every environment.

Time is processor time (`time.process_time`) of a process with one thread, and of several repeats the shortest: what
else runs on the machine then hardly counts. Wall time, the median, is given beside it.
"""

import itertools
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def processor() -> str:
    """Its name, as the operating system has it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def measure(call: Callable[[], object], repeats: int = 30, seconds: float = 60.0) -> dict[str, float]:
    """Time and peak memory of a call, which is made once or twice before it counts.

    Args:
        call: what to measure.
        repeats: at most so many; at least one.
        seconds: no further repeat when this would be exceeded; a first call that takes longer is the one that counts.

    Returns:
        milliseconds: of processor time, the shortest.
        wall_milliseconds: the median.
        first_milliseconds: wall time of the first call, compilation included.
        memory_before_mb: of the process, libraries included, before the first call.
        peak_memory_mb: of the process, libraries included.
    """
    reset_peak_memory()
    before, busy = peak_memory_mb(), time.process_time()
    began = time.perf_counter()
    call()
    first, used, wall = time.perf_counter() - began, [], []
    if first < seconds / 4:
        call()
    elif first > seconds:
        used, wall = [time.process_time() - busy], [first]
    began = time.perf_counter()
    while len(used) < repeats and (not used or time.perf_counter() - began + max(wall) < seconds):
        start, busy = time.perf_counter(), time.process_time()
        call()
        used.append(time.process_time() - busy)
        wall.append(time.perf_counter() - start)
    return {
        "milliseconds": 1e3 * min(used),
        "wall_milliseconds": 1e3 * statistics.median(wall),
        "first_milliseconds": 1e3 * first,
        "memory_before_mb": before,
        "peak_memory_mb": peak_memory_mb(),
    }


def measure_moving(atoms: Any, distance: float, **effort: Any) -> dict[str, float]:
    """Time and peak memory of the forces of `ase.Atoms`, moved by `distance` (Å), forth and back, before each call."""
    steps = itertools.cycle((distance, -distance))

    def step() -> None:
        atoms.positions += next(steps)
        atoms.get_forces()

    return measure(step, **effort)


def reset_peak_memory() -> None:
    """Linux forgets a process's peak when asked; elsewhere the peak is that of all the process has done."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def peak_memory_mb() -> float:
    """Most memory that the process has held since `reset_peak_memory`."""
    if STATUS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def memory_mb() -> float:
    """What the process holds now."""
    return _status("VmRSS") if STATUS.exists() else peak_memory_mb()


def _status(name: str) -> float:
    return float(next(line for line in STATUS.read_text().splitlines() if line.startswith(name)).split()[1]) / 1024
