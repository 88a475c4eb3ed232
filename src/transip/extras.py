"""Optional dependencies: imported where they are used, by whoever has installed them."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from packaging.requirements import Requirement

from transip.errors import InputError

DEVELOPMENT = {"dev", "docs"}


def need(module: str, extra: str = "labels") -> Any:
    """Import an optional dependency.

    Raises:
        InputError: it is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(f"{package} is not installed", remedy=f'pip install "transip[{extra}]"') from error


def extras() -> dict[str, bool]:
    """Extras for users, and whether all that each of them brings is installed."""
    needed = [Requirement(line) for line in requires("transip") or ()]
    names = [name for name in metadata("transip").get_all("Provides-Extra", []) if name not in DEVELOPMENT]
    return {
        name: all(_installed(one.name) for one in needed if one.marker and one.marker.evaluate({"extra": name}))
        for name in names
    }


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
