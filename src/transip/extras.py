"""Optional dependencies, imported where they are used; and whether this package shares its folder with another one."""

import re
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

from transip.errors import InputError

DISTRIBUTION = "transip-potentials"  # `transip` on the public index is a hosting company's API client
REQUIREMENT = re.compile(r"""^([\w.-]+).*extra == ["'](\w+)""", re.MULTILINE)  # the package, the extra
DEVELOPMENT = {"dev", "docs"}


def import_optional(module: str, extra: str = "labels") -> Any:
    """Import an optional dependency.

    Raises:
        InputError: it is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(f"{package} is not installed", remedy=install_command(extra)) from error


def install_command(extra: str) -> str:
    """The command that installs an extra; the distribution is on no index, so the clone is named."""
    return f'pip install -e ".[{extra}]" in the clone of transip'


def extras() -> dict[str, bool]:
    """Extras for users, and whether all that each of them brings is installed; none in a source tree."""
    try:
        requirements = requires(DISTRIBUTION) or ()
    except PackageNotFoundError:
        return {}
    installed: dict[str, bool] = {}
    for package, extra in REQUIREMENT.findall("\n".join(requirements)):
        if extra not in DEVELOPMENT:
            installed[extra] = installed.get(extra, True) and _is_installed(package)
    return installed


@cache
def check_name_clash() -> None:
    """Make sure that the distribution `transip`, another project's, has no files in this package's folder.

    Both are imported as `transip`. In one site-packages, the one that is installed last overwrites files of the other.

    Raises:
        InputError: it has.
    """
    folder = Path(__file__).resolve().parent
    for other in distributions(name="transip"):
        files = (Path(str(other.locate_file(file))).resolve() for file in other.files or ())
        if any(file.is_relative_to(folder) for file in files):
            raise InputError(
                f"the distribution `transip` {other.version}, an unrelated project, is installed into the same folder "
                f"as {DISTRIBUTION}, and either may have overwritten files of the other",
                where=str(folder),
                remedy=f"pip uninstall transip {DISTRIBUTION}, then pip install . in the clone of transip",
            )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
