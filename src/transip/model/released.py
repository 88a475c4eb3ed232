"""Models by name: shipped inside the package, or kept in a repository of the Hugging Face Hub.

A released model is a model folder and `sha256.json`, which says what its files must be.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

from transip.errors import InputError, InputWarning
from transip.extras import install_command
from transip.files import read_json, write_json

SHIPPED = Path(str(files("transip").joinpath("models")))
WEIGHTS, CONFIG, CARD, CHECKSUMS = "model.safetensors", "config.json", "README.md", "sha256.json"
REPOSITORY = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>\S+))?", re.ASCII)
HUB = "huggingface_hub"
RESERVED_FOLDERS = (
    "runs",
    "demo",
)  # where our commands leave models: a run that is not there yet is not asked for on the Hub


def builtin_models() -> dict[str, dict[str, Any]]:
    """Names of the models inside the package, with what their config.json says."""
    folders = sorted(path.parent for path in SHIPPED.glob(f"*/{CONFIG}"))
    return {folder.name: read_json(folder / CONFIG) for folder in folders}


def resolve_pretrained(name: str | Path) -> Path | None:
    """The folder of the released model `name`, checked; None if that is no released model's name.

    Args:
        name: of a shipped model, or a repository of the Hub, ``"owner/name"`` or ``"owner/name@revision"``. A
            repository is looked for in the local cache first. If there is a folder ``owner`` here, a path is meant.

    Raises:
        InputError: the files are damaged, the repository cannot be had, or a shipped model has nearly that name.
    """
    name = name.as_posix() if isinstance(name, Path) else name
    if "/" not in name:
        if (SHIPPED / name / CONFIG).is_file():
            return check_files(SHIPPED / name, name, remedy="install transip again")
        if closest := difflib.get_close_matches(name, builtin_models(), 1, cutoff=0.8):
            raise InputError("no model of this name", where=name, remedy=f"did you mean {closest[0]!r}?")
        return None
    repository = REPOSITORY.fullmatch(name)
    owner = name.partition("/")[0]
    if repository is None or Path(owner).exists() or owner in RESERVED_FOLDERS:
        return None
    folder = _downloaded(repository["id"], repository["revision"], name)
    return check_files(folder, name, remedy="delete it from the cache (`hf cache`) and download it again")


def _downloaded(repository: str, revision: str | None, name: str) -> Path:
    """The folder of a repository's files: from the cache if they are there, else from the Hub."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(
            f"neither a folder nor a shipped model; for models of the Hugging Face Hub, {HUB} is needed",
            where=name,
            remedy=f"{install_command('hub')}, or give a model folder or a name that `transip models` lists",
        ) from error
    wanted = [WEIGHTS, CONFIG, CARD, CHECKSUMS]  # nothing else is ever fetched, least of all a pickle
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, local_files_only=True))
        if all((folder / file).is_file() for file in (WEIGHTS, CONFIG)):
            return folder
    except (OSError, ValueError):  # not in the cache, or no name that the Hub would allow
        pass
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # no network, no such repository or revision, no permission
        raise InputError(
            "neither a folder nor a shipped model, and no repository of the Hugging Face Hub "
            f"that can be had: {first_line(error)}",
            where=name,
            remedy="check the name and the network (HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN are respected)",
        ) from error
    missing = [file for file in (WEIGHTS, CONFIG) if not (folder / file).is_file()]
    if missing:
        raise InputError(f"is no transip model: the repository has no {' and no '.join(missing)}", where=name)
    return folder


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make a model."""
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in (WEIGHTS, CONFIG)}


def write_checksums(folder: Path) -> None:
    """Make the model folder `folder` one that can be released: write its sha256.json."""
    write_json(folder / CHECKSUMS, checksums(folder))


def check_files(folder: Path, name: str, remedy: str) -> Path:
    """Return `folder` if its files are those that sha256.json names; warn if there is no such file.

    Raises:
        InputError: they are not.
    """
    if not (folder / CHECKSUMS).is_file():
        warnings.warn(f"{name}: has no {CHECKSUMS}, so its files cannot be checked", InputWarning, stacklevel=3)
        return folder
    expected, actual = read_json(folder / CHECKSUMS), checksums(folder)
    if damaged := [file for file in actual if actual[file] != expected.get(file)]:
        raise InputError(f"{' and '.join(damaged)}: not what {CHECKSUMS} says", where=name, remedy=remedy)
    return folder
