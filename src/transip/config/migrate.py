"""Files of earlier formats are brought up to the newest one, a small step at a time.

Whoever changes what a file says appends a function that makes the new format of the one before it, and never changes
an older function: files of every format stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transip.errors import InputError

Migration = Callable[[dict[str, Any]], dict[str, Any]]

RECIPE_MIGRATIONS: tuple[Migration, ...] = ()  # the n-th makes format n + 1 of format n
MODEL_MIGRATIONS: tuple[Migration, ...] = ()  # likewise, of a model's config.json


def migrate(values: dict[str, Any], version: Any, migrations: Sequence[Migration], where: str) -> dict[str, Any]:
    """`values` of a file of format `version` as the newest format has them.

    Raises:
        InputError: `version` is no number of a format, or newer than the newest.
    """
    newest = 1 + len(migrations)
    if type(version) is not int or version < 1:
        raise InputError(f"has no valid format number: {version!r}", where=where)
    if version > newest:
        raise InputError(
            f"has format {version}, newer than format {newest} that this transip reads",
            where=where,
            remedy="upgrade transip",
        )
    for step in migrations[version - 1 :]:
        values = step(values)
    return values
