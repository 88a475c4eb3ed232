"""Files that are either complete or absent: written under a temporary name, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transip.errors import InputError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` only if the block succeeds.

    Raises:
        InputError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    target = Path(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as handle:  # the rename must not overtake the data
            os.fsync(handle.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            where=str(target),
            remedy="free some space or choose another output; what was there before is unchanged",
        ) from error
    finally:
        with suppress(OSError):  # not there (any more), or never could be
            partial.unlink()


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
