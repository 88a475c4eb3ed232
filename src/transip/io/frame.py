"""One entry of a file of structures, as every reader of `transip.io` gives it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

QUOTED = (
    r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\{[^}]*\}|\[[^\]]*\]"  # values in extxyz comments that may hold spaces
)
PAIR = re.compile(rf"([^\s=\"'{{}}\[\]]+)\s*=\s*({QUOTED}|\S*)")


@dataclass(frozen=True, eq=False)
class RawFrame:
    """Atoms and everything stored with them as they stand in the file: nothing converted, nothing checked.

    Attributes:
        numbers: atomic numbers, (atoms,).
        positions: coordinates in the file's unit, (atoms, 3).
        cell: lattice vectors in the same unit, (3, 3); None if there are none.
        pbc: which of them are periodic.
        info: values of the whole structure.
        arrays: values per atom.
        results: what a calculator computed.
        comment: the line of an extxyz file from which `info` was read.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: Any
    pbc: Any
    info: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    comment: str = ""

    def text(self, key: str) -> str | None:
        """What stands there as `key`, to the letter: ASE reads numbers and truth values into names such as 007 or F."""
        value = self.info.get(key)
        if value is None or isinstance(value, str):
            return value
        literal = next((text for name, text in PAIR.findall(self.comment) if name == key), str(value))
        if len(literal) > 1 and literal[0] in "\"'{[":
            literal = literal[1:-1]
        return re.sub(r"\\(.)", r"\1", literal)

    @property
    def keys(self) -> list[str]:
        """Names of everything that could be a label."""
        return sorted(({*self.info, *self.arrays, *self.results}) - {"numbers", "positions"})

    def lookup(self, *names: str) -> list[tuple[str, Any]]:
        """Everything that is stored under one of these names, with its name."""
        containers = (self.results, self.info, self.arrays)
        return [
            (name, container[name]) for name in names for container in containers if container.get(name) is not None
        ]
