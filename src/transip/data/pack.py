"""`transip data pack`: files of labelled structures into one packed dataset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from transip.config import KeySettings, UnitSettings
from transip.data.info import Summary, summarize_pack
from transip.data.read import DEFAULT_KEYS, DEFAULT_UNITS, inspect_keys, is_pack, read_structures
from transip.data.store import Pack, write_pack
from transip.errors import InputError
from transip.files import output_lock

NAME_THE_KEY = "add it to the file or name its key (--{name}-key, keys.{name})"


def pack_files(
    inputs: Sequence[Path],
    output: Path,
    *,
    level_of_theory: str,
    keys: KeySettings = DEFAULT_KEYS,
    units: UnitSettings = DEFAULT_UNITS,
    overwrite: bool = False,
) -> Summary:
    """Read labelled files in the given order and write one packed dataset; it is complete or absent.

    Args:
        inputs: anything `read_structures` reads.
        output: the pack, `NAME.pack`.
        level_of_theory: of the labels; must be that of any pack among `inputs`.
        keys: where labels, charge and spin are stored in the files.
        units: in which the files are written.
        overwrite: replace `output` if it exists.

    Raises:
        InputError: as `read_structures` and `write_pack`, or another process is writing `output`.
    """
    if not inputs:
        raise InputError("no input files are given", remedy="name at least one file to pack")
    for path in filter(is_pack, inputs):
        stored = Pack.open(path).meta["level_of_theory"]
        if stored != level_of_theory:
            raise InputError(
                f"was labelled with {stored!r}, not {level_of_theory!r}",
                where=str(path),
                remedy="do not mix levels of theory in a pack",
            )
    files = [path for path in inputs if not is_pack(path)]
    with output_lock(output):
        pack = write_pack(
            output,
            chain.from_iterable(read_structures(path, keys, units, when_missing=NAME_THE_KEY) for path in inputs),
            level_of_theory=level_of_theory,
            provenance={
                "inputs": [path.name for path in inputs],
                "keys": inspect_keys(files[0], keys) if files else {},
                "units": units.model_dump(exclude_none=True) if files else {},
            },
            overwrite=overwrite,
            progress=f"packing {output.name}",
        )
    return summarize_pack(pack)
