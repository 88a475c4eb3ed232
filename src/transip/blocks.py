"""Blocks of query atoms and the key atoms that they see: which atoms a network compares, found before it runs.

A small molecule is one block, whose keys are its queries. A large structure, or the cell of a crystal, is cut into
blocks of neighbouring atoms, whose keys are all atoms and periodic images within the cutoff of any of them: then cost
and memory grow with the atoms and not with their pairs. Axes as in `transip.model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from transip.lattice import wrap_shift

if TYPE_CHECKING:
    from transip.batch import Batch

BLOCK_SIZE = 32
MAX_DENSE_ATOMS = 64  # of molecules that are one block and need no neighbour list
SKIN = 0.5  # Å; lists that serve dynamics reach further by this, so that they serve several steps


@dataclass(frozen=True, eq=False)
class Blocks:
    """B blocks, each of Q query atoms and K key atoms.

    Values of atoms lie in slots, B · Q of them; rows are the slots and then the periodic images that are keys.

    Attributes:
        query_index: the atom in each slot of each block; slots that hold none repeat another atom of the structure,
            (B, Q).
        slot_index: in which of the slots each atom is, (atoms,).
        key_mask: False for keys that are padding, (B, K).
        key_index: which row each key is, (B, K); None: the keys of a block are its queries.
        wrap_shifts: lattice vectors from each atom to where it lies in its cell, (atoms, 3); None of molecules.
        image_slot: the slot of the atom that each image is one of, (images,); None of molecules.
        image_shifts: lattice vectors from that atom, in its cell, to the image, (images, 3); None of molecules.
        pair_index: which of the B · Q · K pairs are within the cutoff, or an atom with itself, (pairs,); None: all are.
        pair_rows: the key of each of them, (pairs,); None like `pair_index`.
        neighbor_index: the rows within the local cutoff of each query, (B, Q, M); None: they have not been looked for,
            and any key of a block may be.
        neighbor_mask: False for neighbours that are padding, (B, Q, M); None like `neighbor_index`.
        is_full: whether the slots hold the atoms in order and without padding.
    """

    query_index: Int64[Tensor, "B Q"]
    slot_index: Int64[Tensor, "atoms"]
    key_mask: Bool[Tensor, "B K"]
    key_index: Int64[Tensor, "B K"] | None = None
    wrap_shifts: Float[Tensor, "atoms 3"] | None = None
    image_slot: Int64[Tensor, "images"] | None = None
    image_shifts: Float[Tensor, "images 3"] | None = None
    pair_index: Int64[Tensor, "pairs"] | None = None
    pair_rows: Int64[Tensor, "pairs"] | None = None
    neighbor_index: Int64[Tensor, "B Q M"] | None = None
    neighbor_mask: Bool[Tensor, "B Q M"] | None = None
    is_full: bool = False

    def to_blocks(self, values: Float[Tensor, "atoms *rest"]) -> Float[Tensor, "B Q *rest"]:
        """Per-atom values in their slots."""
        if not torch.compiler.is_compiling() and self.is_full:  # one graph serves both, if it does not look
            return values.unflatten(0, self.query_index.shape)
        return _take(values, self.query_index)

    def from_blocks(self, values: Float[Tensor, "B Q *rest"]) -> Float[Tensor, "atoms *rest"]:
        """Inverse of `to_blocks`."""
        values = values.flatten(0, 1)
        return values if not torch.compiler.is_compiling() and self.is_full else _take(values, self.slot_index)

    def wrap(self, positions: Float[Tensor, "atoms 3"], cell: Tensor | None, batch: Batch) -> Float[Tensor, "atoms 3"]:
        """Positions of atoms within their cells, Å; `cell` holds lattice vectors of the structures of `batch`."""
        if cell is None or self.wrap_shifts is None:
            return positions
        return positions + (self.wrap_shifts[:, None] @ cell[batch.structure_index])[:, 0]

    def to_rows(self, values: Float[Tensor, "B Q *rest"]) -> Float[Tensor, "rows *rest"]:
        """Values of the slots and of images, which have those of their atoms."""
        values = values.flatten(0, 1)
        return values if self.image_slot is None else torch.cat([values, _take(values, self.image_slot)])

    def gather_keys(self, rows: Float[Tensor, "rows *rest"]) -> Float[Tensor, "B K *rest"]:
        """Values of the keys of each block."""
        return rows.unflatten(0, self.query_index.shape) if self.key_index is None else _take(rows, self.key_index)

    def gather_neighbors(self, rows: Float[Tensor, "rows *rest"]) -> Float[Tensor, "B #Q M *rest"]:
        """Values of the neighbours of each query, or once for all queries of a block if they are all its keys."""
        if self.neighbor_index is None:
            return rows.unflatten(0, self.query_index.shape)[:, None]
        return _take(rows, self.neighbor_index)

    def scatter_pairs(self, values: Float[Tensor, "*rest pairs"], fill: float) -> Float[Tensor, "*rest B Q K"]:
        """Values of the pairs in `pair_index` in their places, `fill` in all others."""
        assert self.pair_index is not None
        shape = *self.query_index.shape, self.key_mask.shape[1]
        rest = values.shape[:-1]
        empty = values.new_full((math.prod(rest), math.prod(shape)), fill)
        return empty.index_copy(1, self.pair_index, values.flatten(0, -2)).view(*rest, *shape)

    def padding_mask(self, like: Float[Tensor, "*any"]) -> Float[Tensor, "B K"] | None:
        """−∞ for keys that are padding, else 0, in the precision of `like`; None if none is."""
        if not torch.compiler.is_compiling() and self.is_full:
            return None
        return like.new_zeros(self.key_mask.shape).masked_fill(~self.key_mask, -math.inf)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Blocks:
        """The same on another device, lattice vectors in another precision."""
        tensors = {f.name: x for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)}
        return replace(self, **{n: x.to(device, dtype if x.is_floating_point() else None) for n, x in tensors.items()})


def find_blocks(batch: Batch, cutoff: float | None, local_cutoff: float, skin: float = 0.0) -> Blocks:
    """Blocks of the structures of `batch`.

    Args:
        batch: molecules or cells.
        cutoff: Å, within which atoms are keys; None: all atoms of a molecule are.
        local_cutoff: Å, within which they are neighbours.
        skin: Å by which both are exceeded, so that the blocks serve until an atom has moved by half of it.
    """
    if _needs_no_lists(batch):
        return _one_block_each(batch)
    if cutoff is None:
        return _with_neighbors(_one_block_each(batch), batch, local_cutoff + skin)
    return _cut_into_blocks(batch, cutoff + skin, local_cutoff + skin)


def _needs_no_lists(batch: Batch) -> bool:
    """Whether all structures are molecules so small that each is one block, of which any key may be a neighbour."""
    return batch.cell is None and batch.max_num_atoms <= MAX_DENSE_ATOMS


class VerletBlocks:
    """Finds blocks and keeps them, with a skin, for as long as the same atoms stay near (Verlet's lists).

    The first blocks of a system have no skin: only what is simulated or relaxed comes again.
    """

    def __init__(self):
        self._last: tuple[Batch, Blocks, float] | None = None

    def __call__(self, batch: Batch, find: Callable[[Batch, float], Blocks]) -> Blocks:
        """Blocks of `batch`: those of the last call, if they still serve, or what `find` makes of it and a skin."""
        if _needs_no_lists(batch):
            return find(batch, 0.0)
        last, skin = self._last, 0.0
        if last is not None and _same_atoms(last[0], batch):
            moved = (batch.positions - last[0].positions).square().sum(1).max().sqrt()
            if moved <= last[2] / 2:
                return last[1]
            skin = SKIN
        blocks = find(batch, skin)
        self._last = batch.clone(), blocks, skin  # a caller may move the atoms in place
        return blocks

    def __reduce__(self) -> tuple[Any, ...]:
        return VerletBlocks, ()


def _same_atoms(batch: Batch, other: Batch) -> bool:
    """Whether two batches differ in positions alone."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else a.device == b.device and torch.equal(a, b)

    names = ("numbers", "atom_counts", "cell")
    return all(same(getattr(batch, name), getattr(other, name)) for name in names)


def _take(values: Float[Tensor, "values *rest"], index: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape *rest"]:
    """``values[index]``, whose derivative is several times faster this way."""
    return values.index_select(0, index.flatten()).unflatten(0, index.shape)


def _one_block_each(batch: Batch) -> Blocks:
    """Each structure as a block."""
    slots = torch.arange(len(batch) * batch.max_num_atoms, device=batch.numbers.device)
    slots = slots.view(len(batch), batch.max_num_atoms)
    if batch.num_atoms == slots.numel():
        return Blocks(slots, slots.flatten(), batch.mask, is_full=True)
    first = batch.atom_counts.cumsum(0) - batch.atom_counts
    within = torch.arange(batch.max_num_atoms, device=slots.device)
    return Blocks(first[:, None] + torch.where(batch.mask, within, 0), batch.padded_index, batch.mask)


def _with_neighbors(blocks: Blocks, batch: Batch, cutoff: float) -> Blocks:
    """`blocks`, one of each molecule, with lists of the neighbours within `cutoff`."""
    lists, first = [], 0
    for number, positions in enumerate(_split(batch.positions, batch)):
        pairs = _pairs(positions, None, cutoff)
        lists.append((pairs.query + first, pairs.key + number * batch.max_num_atoms))
        first += len(positions)
    query, key = (np.concatenate(values) for values in zip(*lists, strict=True))
    return _place_neighbors(blocks, *map(torch.from_numpy, _padded_lists(query, key, batch.num_atoms)))


def _place_neighbors(blocks: Blocks, index: Int64[Tensor, "atoms M"], mask: Bool[Tensor, "atoms M"]) -> Blocks:
    index, mask = (values.to(blocks.query_index.device)[blocks.query_index] for values in (index, mask))
    return replace(blocks, neighbor_index=index, neighbor_mask=mask)


class _Pairs(NamedTuple):
    """Pairs of atoms within a cutoff, sorted by query: their numbers, lattice vectors from key to image, length."""

    query: Int64[np.ndarray, "pairs"]
    key: Int64[np.ndarray, "pairs"]
    shifts: Int64[np.ndarray, "pairs 3"] | None
    lengths: Float64[np.ndarray, "pairs"]


def _pairs(positions: Float64[np.ndarray, "atoms 3"], cell: Float64[np.ndarray, "3 3"] | None, cutoff: float) -> _Pairs:
    import vesin

    neighbors = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    if cell is None:
        query, key, lengths = neighbors.compute(positions, np.zeros((3, 3)), periodic=False, quantities="ijd")
        shifts = None
    else:
        query, key, shifts, lengths = neighbors.compute(positions, cell, periodic=cell.any(1), quantities="ijSd")
        shifts = shifts.astype(np.int64)
    return _Pairs(query.astype(np.int64), key.astype(np.int64), shifts, lengths)


def _cut_into_blocks(batch: Batch, cutoff: float, local_cutoff: float) -> Blocks:
    """Blocks of `BLOCK_SIZE` neighbouring atoms of each structure."""
    cells = [None] * len(batch) if batch.cell is None else [x if x.any() else None for x in _host(batch.cell)]
    size = min(BLOCK_SIZE, batch.max_num_atoms)
    structures = zip(_split(batch.positions, batch), cells, strict=True)
    cuts = [_cut(positions, cell, cutoff, local_cutoff, size) for positions, cell in structures]
    num_keys, num_neighbors = max(cut.keys.shape[1] for cut in cuts), max(cut.neighbors.shape[1] for cut in cuts)
    num_slots = sum(cut.queries.size for cut in cuts)
    atom = slot = 0
    image = num_slots
    tensors: dict[str, list[np.ndarray]] = {}
    for cut in cuts:

        def to_rows(keys: np.ndarray) -> np.ndarray:
            """Rows of the batch: the first ones of `cut` are its slots."""
            return keys + np.where(keys < cut.queries.size, slot, image - cut.queries.size)  # noqa: B023

        values = {
            "query_index": cut.queries + atom,
            "slot_index": cut.slots + slot,
            "key_mask": _widen(cut.key_mask, num_keys),
            "key_index": to_rows(_widen(cut.keys, num_keys)),
            "wrap_shifts": cut.wrap_shifts,
            "image_slot": cut.image_slot + slot,
            "image_shifts": cut.image_shifts,
            "pair_index": (cut.pair_queries + slot) * num_keys + cut.pair_places,
            "pair_rows": to_rows(cut.pair_keys),
            "neighbor_index": to_rows(_widen(cut.neighbors, num_neighbors)),
            "neighbor_mask": _widen(cut.neighbor_mask, num_neighbors),
        }
        for name, value in values.items():
            tensors.setdefault(name, []).append(value)
        atom, slot, image = atom + len(cut.slots), slot + cut.queries.size, image + len(cut.image_slot)
    if batch.cell is None:
        for name in ("wrap_shifts", "image_slot", "image_shifts"):
            del tensors[name]
    on_device = {n: torch.from_numpy(np.concatenate(x)).to(batch.positions.device) for n, x in tensors.items()}
    on_device |= {n: on_device[n].to(batch.positions.dtype) for n in ("wrap_shifts", "image_shifts") if n in on_device}
    index, mask = on_device.pop("neighbor_index"), on_device.pop("neighbor_mask")
    return _place_neighbors(Blocks(**on_device), index, mask)


def _widen(values: np.ndarray, width: int) -> np.ndarray:
    """`values`, padded with zeros to the right."""
    return np.pad(values, [(0, 0), (0, width - values.shape[1])])


class _Cut(NamedTuple):
    """One structure cut into blocks. Atoms, slots and rows are numbered within it."""

    queries: Int64[np.ndarray, "blocks Q"]  # atoms
    slots: Int64[np.ndarray, "atoms"]
    keys: Int64[np.ndarray, "blocks K"]  # rows
    key_mask: Bool[np.ndarray, "blocks K"]
    wrap_shifts: Int64[np.ndarray, "atoms 3"]
    image_slot: Int64[np.ndarray, "images"]
    image_shifts: Int64[np.ndarray, "images 3"]
    pair_queries: Int64[np.ndarray, "pairs"]  # slots
    pair_keys: Int64[np.ndarray, "pairs"]  # rows
    pair_places: Int64[np.ndarray, "pairs"]  # of the key among the K of its block
    neighbors: Int64[np.ndarray, "atoms M"]  # rows
    neighbor_mask: Bool[np.ndarray, "atoms M"]


def _cut(
    positions: Float64[np.ndarray, "atoms 3"],
    cell: Float64[np.ndarray, "3 3"] | None,
    cutoff: float,
    local_cutoff: float,
    size: int,
) -> _Cut:
    num_atoms, wrap_shifts = len(positions), np.zeros((len(positions), 3), np.int64)
    if cell is not None:
        wrap_shifts = -wrap_shift(positions, cell)
        positions = positions + wrap_shifts @ cell
    pairs, order = _pairs(positions, cell, cutoff), _compact_order(positions, size)
    num_blocks = -(-num_atoms // size)
    num_slots = num_blocks * size
    queries, slots = np.full(num_slots, order[-1]), np.empty(num_atoms, np.int64)
    queries[:num_atoms], slots[order] = order, np.arange(num_atoms)

    key_rows, image_slot, image_shifts = _rows(slots[pairs.key], pairs.shifts, num_slots)
    # An atom is also a key of itself, and not even padding attends to nothing.
    every_slot = np.arange(num_slots)
    pair_queries = np.concatenate([slots[pairs.query], every_slot])
    pair_keys = np.concatenate([key_rows, every_slot])

    num_rows = num_slots + len(image_slot)
    code = pair_queries // size * num_rows + pair_keys
    unique = np.unique(code)  # each key of each block once
    block, row = np.divmod(unique, num_rows)
    counts = np.bincount(block, minlength=num_blocks)
    place = np.arange(len(unique)) - (counts.cumsum() - counts)[block]
    keys = np.zeros((num_blocks, counts.max()), np.int64)
    keys[block, place] = row

    is_neighbor = pairs.lengths < local_cutoff
    neighbors, neighbor_mask = _padded_lists(pairs.query[is_neighbor], key_rows[is_neighbor], num_atoms)
    return _Cut(
        queries=queries.reshape(num_blocks, size),
        slots=slots,
        keys=keys,
        key_mask=np.arange(keys.shape[1]) < counts[:, None],
        wrap_shifts=wrap_shifts,
        image_slot=image_slot,
        image_shifts=image_shifts,
        pair_queries=pair_queries,
        pair_keys=pair_keys,
        pair_places=place[np.searchsorted(unique, code)],
        neighbors=neighbors,
        neighbor_mask=neighbor_mask,
    )


def _rows(
    slots: Int64[np.ndarray, "pairs"], shifts: Int64[np.ndarray, "pairs 3"] | None, num_slots: int
) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "images"], Int64[np.ndarray, "images 3"]]:
    """Rows of keys, which are atoms in `slots` moved by lattice vectors `shifts`; slots and shifts of the images."""
    if shifts is None:
        return slots, np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    most = np.abs(shifts).max(0, initial=0)
    spans = 2 * most + 1
    cell_of_image = ((shifts[:, 0] + most[0]) * spans[1] + shifts[:, 1] + most[1]) * spans[2] + shifts[:, 2] + most[2]
    num_cells = int(spans.prod())
    is_image = cell_of_image != num_cells // 2
    images, which = np.unique(slots[is_image] * num_cells + cell_of_image[is_image], return_inverse=True)
    rows = slots.copy()
    rows[is_image] = num_slots + which
    image_shifts = np.stack(np.unravel_index(images % num_cells, tuple(spans)), -1) - most
    return rows, images // num_cells, image_shifts


def _padded_lists(
    query: Int64[np.ndarray, "pairs"], values: Int64[np.ndarray, "pairs"], num_atoms: int
) -> tuple[Int64[np.ndarray, "atoms M"], Bool[np.ndarray, "atoms M"]]:
    """The values of each query, which is sorted, in a row of its own; and where there are any."""
    counts = np.bincount(query, minlength=num_atoms)
    rank = np.arange(len(query)) - (counts.cumsum() - counts)[query]
    lists = np.zeros((num_atoms, max(counts.max(initial=0), 1)), np.int64)
    lists[query, rank] = values
    return lists, np.arange(lists.shape[1]) < counts[:, None]


def _compact_order(positions: Float64[np.ndarray, "atoms 3"], size: int) -> Int64[np.ndarray, "atoms"]:
    """Atoms in such an order that each `size` of them lie close together.

    They are halved again and again across their longest extension, as in a k-d tree; all blocks but the last are full.
    """
    pending, blocks = [np.arange(len(positions))], []
    while pending:
        atoms = pending.pop()
        if len(atoms) <= size:
            blocks.append(atoms)
            continue
        half = (-(-len(atoms) // size) + 1) // 2 * size
        x = positions[atoms]
        along = x[:, np.ptp(x, axis=0).argmax()]
        atoms = atoms[np.argpartition(along, half - 1)]
        pending += [atoms[half:], atoms[:half]]
    return np.concatenate(blocks)


def _split(values: Tensor, batch: Batch) -> list[np.ndarray]:
    """Per-atom values of each structure, on the host."""
    return np.split(_host(values), np.cumsum(batch.atom_counts.tolist())[:-1])


def _host(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
