"""Optional dependencies: imported where they are used, by whoever has installed them."""

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from transip.errors import InputError

REQUIREMENT = re.compile(r"""^([\w.-]+).*extra == ["'](\w+)""", re.MULTILINE)  # the package, the extra
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
    found: dict[str, bool] = {}
    for package, extra in REQUIREMENT.findall("\n".join(requires("transip") or ())):
        if extra not in DEVELOPMENT:
            found[extra] = found.get(extra, True) and _installed(package)
    return found


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
