"""The arrays of a packed dataset: their types, writing them as they grow, and mapping them.

======================  =======  =====================================================================
`positions.npy`         float32  Å, (atoms, 3); structures more than 100 Å from the origin are moved there
`forces.npy`            float32  eV/Å, (atoms, 3); absent if the pack is unlabelled
`numbers.npy`           uint8    atomic numbers, (atoms,)
`offsets.npy`           int64    first atom of each structure, then the number of atoms, (structures + 1,)
`cell.npy`              float32  lattice vectors in Å, one per row, zeros where nothing repeats, (structures, 3, 3);
                                 absent if all structures are molecules
`stress.npy`            float32  ∂E/∂ε / V in eV/Å³, (structures, 3, 3), NaN where unlabelled; absent if all are
`charges.npy`           float32  partial charges in e, (atoms,), NaN where unlabelled; absent if all are
`spin_populations.npy`  float32  unpaired electrons, (atoms,), NaN where unlabelled; absent if all are
`dipole.npy`            float32  e·Å about the centre of mass, (structures, 3), NaN where unlabelled; absent if all
                                 are
`energy.npy`            float64  total energies in eV, (structures,); absent if the pack is unlabelled
`charge.npy`            int16    e, (structures,)
`spin.npy`              int16    multiplicity 2S + 1, (structures,)
`domain.npy`            int16    index into `domains` of `meta.json`, (structures,)
`source.npy`            uint8    identifiers in UTF-8, one after another
`source_ends.npy`       int64    where each identifier ends, (structures,)
======================  =======  =====================================================================
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from transip.errors import InputError
from transip.structure import OPTIONAL_FIELDS

COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # name → dtype, shape of one entry
    "positions": ("<f4", (3,)),
    "forces": ("<f4", (3,)),
    "numbers": ("|u1", ()),
    "offsets": ("<i8", ()),
    "cell": ("<f4", (3, 3)),
    "stress": ("<f4", (3, 3)),
    "charges": ("<f4", ()),
    "spin_populations": ("<f4", ()),
    "dipole": ("<f4", (3,)),
    "energy": ("<f8", ()),
    "charge": ("<i2", ()),
    "spin": ("<i2", ()),
    "domain": ("<i2", ()),
    "source": ("|u1", ()),
    "source_ends": ("<i8", ()),
}


def column_names(labelled: bool, optional: Collection[str] = ()) -> list[str]:
    """Names of the arrays of a pack, its optional fields if they are among `optional`."""
    needed = [name for name in COLUMNS if labelled or name not in ("energy", "forces")]
    return [name for name in needed if name not in OPTIONAL_FIELDS or name in optional]


class NpyWriter:
    """A .npy file that grows: its header is written with length 0 and corrected on closing."""

    def __init__(self, folder: Path, name: str):
        self._dtype, self._entry = np.dtype(COLUMNS[name][0]), COLUMNS[name][1]
        self._length = 0
        self._handle: BinaryIO = (folder / f"{name}.npy").open("wb")
        self._write_header()

    def extend(self, values: Any) -> None:
        """Append entries."""
        array = np.asarray(values).astype(self._dtype)
        self._handle.write(array.tobytes())
        self._length += len(array)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._handle.seek(0)
                self._write_header()  # NumPy pads headers so that a longer first axis still fits
                self._handle.flush()
                os.fsync(self._handle.fileno())
        finally:
            self._handle.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length, *self._entry)}
        np.lib.format.write_array_header_1_0(self._handle, header)


def load_column(path: Path, name: str) -> np.ndarray:
    """Map one array of a pack; never unpickles: an array of objects is an error."""
    file = path / f"{name}.npy"
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # np.load would also take archives
    except Exception as error:  # a damaged header can make NumPy's parser fail in any way
        problem = "is missing" if isinstance(error, FileNotFoundError) else f"is truncated or corrupt ({error})"
        raise InputError(problem, where=str(file), remedy="copy the pack again or pack the data again") from error
    dtype, entry = COLUMNS[name]
    if array.dtype != np.dtype(dtype) or array.shape[1:] != entry or array.ndim != 1 + len(entry):
        raise InputError(
            f"holds {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of {('n', *entry)}",
            where=str(file),
            remedy="pack the data again",
        )
    return np.asarray(array)  # a plain view of the map: indexing np.memmap itself is several times slower
