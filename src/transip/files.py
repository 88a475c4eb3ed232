"""Files that are either complete or absent: written under a temporary name, then renamed, by one process at a time."""

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from transip.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks: nothing is locked there
    fcntl = None

RECIPE, LOG, PACKS = "recipe.yaml", "metrics.jsonl", "packs.json"  # files of a run folder
# of a file or folder NAME that is being written: .NAME.PID.partial; of a folder that it replaces: …previous.partial;
# safetensors has temporary files of its own
STALE_TEMP = re.compile(r"\.(?P<name>.+)\.\d+(?P<previous>\.previous)?\.partial|\.tmp\w{6}")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems that know none


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` only if the block succeeds.

    Raises:
        InputError: the disk is full, the folder cannot be written or `target` is itself a folder or a device; nothing
            is left behind.
    """
    target = resolve_output(target)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors puts a file in its place that nobody else may read
        with partial.open("r+b") as handle:  # the rename must not overtake the data; Windows syncs what may be written
            os.fsync(handle.fileno())
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:  # a full disk, in Python's words and in those of safetensors
        raise unwritable(target, error) from error
    finally:
        with suppress(OSError):  # not there (any more), or never could be
            partial.unlink()


def resolve_output(target: str | Path) -> Path:
    """The file that is to be written as `target`: what a symbolic link points to.

    Raises:
        InputError: it is a folder, or no file that could be replaced, such as ``/dev/null``.
    """
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise InputError("is a folder", where=str(target), remedy="name a file to write")
    if path.exists() and not path.is_file():
        raise InputError("is no ordinary file", where=str(target), remedy="name a file to write")
    return path


@contextmanager
def output_lock(target: str | Path) -> Iterator[None]:
    """Keep other processes from writing the file or folder `target`; clear away what killed ones have left of it.

    The lock is the operating system's, on a file ``.NAME.lock`` beside `target`: it ends with the process, however
    that ends, so a lock file that a killed process leaves means nothing.

    Raises:
        InputError: another process is writing `target`, or its folder cannot be written.
    """
    target = Path(os.path.realpath(target))
    if not target.is_dir():
        resolve_output(target)
    new = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(target)
        remove_stale(target)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            _lock_file(target).unlink()  # before it is unlocked: whoever locks it next sees that it is gone
        lock.close()
        with suppress(OSError):  # nothing was written: no folder either
            for folder in new:
                folder.rmdir()


def remove_stale(target: Path) -> None:
    """Remove what killed processes have left of `target`; put back a folder that one of them was about to replace.

    Args:
        target: that nobody else is writing; the name ``*`` stands for everything in a folder.
    """
    for path in target.parent.glob(".*"):
        match = STALE_TEMP.fullmatch(path.name)
        if match is None or target.name not in ("*", match["name"]):
            continue
        if match["previous"] and not path.with_name(match["name"]).exists():
            path.rename(path.with_name(match["name"]))
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def unwritable(target: Path, error: Exception, rest: str = "what was there before is unchanged") -> InputError:
    """What to say when `target` cannot be written because of `error`; `rest`: what is safe all the same."""
    return InputError(
        f"cannot be written ({getattr(error, 'strerror', None) or error})",
        where=str(target),
        remedy=f"free some space or choose another output; {rest}",
    )


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _acquire(target: Path) -> FileIO:
    """The lock file of `target`, open, locked and with the name of this process in it."""
    path = _lock_file(target)
    while True:
        handle = path.open("a+b", buffering=0)
        if not _lock(handle):
            handle.seek(0)
            holder = handle.read(200).decode(errors="replace")
            handle.close()
            raise InputError(
                "is being written by another process" + (f" ({holder})" if holder else ""),
                where=str(target),
                remedy="wait until it ends, or choose another output",
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                with suppress(OSError):  # no space, but a lock all the same
                    handle.truncate(0)
                    handle.write(f"process {os.getpid()} on {platform.node()}".encode())
                return handle
        handle.close()  # whoever held it has removed the file in the meantime: it locks nothing


def _lock(handle: FileIO) -> bool:
    """Lock an open file; False if another process has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in NO_LOCKS:
            raise
    return True


def write_all(handle: FileIO, text: str) -> None:
    """Write all of `text` to an unbuffered file, at once unless the disk fills up, as an `OSError` then says."""
    left = memoryview(text.encode())
    while left:
        left = left[handle.write(left) :]


def write_text(target: str | Path, text: str) -> None:
    """Write `text` to `target` atomically."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Write `value` to `target` as indented JSON, atomically."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(source: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(source)) from error
    except ValueError as error:
        raise InputError(
            f"is not valid JSON ({error})",
            where=str(source),
            remedy="the file is truncated or corrupt; recreate it",
        ) from error
