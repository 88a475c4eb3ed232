"""What goes wrong outside of transip: a full disk, a folder that cannot be written, another process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import ase.io
import pytest

from toy import toy_structure
from transip.model.files import save_model

HOLD = """
import sys, time
from transip.files import output_lock
with output_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
Limit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def full_disk() -> Limit:
    """``with full_disk(bytes):`` no file of this process may grow beyond so many bytes, whoever writes it."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's default: the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which nothing can be made; root, who may write everywhere, gets a read-only file system."""
    folder = tmp_path_factory.mktemp("read-only")
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("root cannot mount here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """``held(output)`` starts a process that claims `output`, and returns it when it has."""
    started = []

    def hold(output: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_model) -> Path:
    """A model, and four molecules with labels under the usual names of training data."""
    folder = tmp_path_factory.mktemp("inputs")
    save_model(make_model(forces="conservative", scale=0.1), folder / "model")
    structures = [toy_structure(i) for i in range(4)]
    frames = [structure.to_atoms() for structure in structures]
    for atoms, structure in zip(frames, structures, strict=True):
        atoms.info["REF_energy"] = structure.energy
        atoms.arrays["REF_forces"] = structure.forces
    ase.io.write(folder / "in.extxyz", frames, format="extxyz")
    return folder
