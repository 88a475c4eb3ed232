"""Ways to damage a file: bytes, words and numbers of a text, nodes of a JSON tree, headers of binary formats.

Everything is drawn from the `random.Random` that is passed in, so a seed names an input.
"""

from __future__ import annotations

import json
import random
import re
import struct
from typing import Any

Files = dict[str, bytes]  # path inside the input → content

NUMBERS = (
    "0", "-0", "1", "-1", "2", "3", "255", "256", "-32769", "65536", "2147483648", "-9223372036854775809",
    "18446744073709551616", "1e39", "-1e39", "1e308", "1e400", "-1e400", "1e-320", "nan", "NaN", "-nan", "inf",
    "-Infinity", "0.5", "1_000", "0x10", "0b1", "1e", "--1", "٣", "½", "9" * 5000, "1" + "0" * 400, "", "true", "null",
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "\x1b[31m", "\x7f", "\r", "\n", "\r\n\r\n", "\t", '"', "'", "\\", "\\u0000", "\ufeff", "\u202e",
    "\u2028", "é", "原子", "🧪", "../../../escape", "/etc/passwd", "C:\\x", "file:///x", "<script>", "[/bold]", "[red]",
    "%s%n", "{0}", "${x}", "$(id)", "`id`", "A" * 5000, "_JSON [[1]", '_JSON {"a": 1}', "[" * 3000, "{" * 3000,
    '{"a":' * 2000, "__import__('os')", "!!python/object/apply:os.system [id]", "&a [*a]", "<<: *a",
)  # fmt: skip
TREES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 10**6, 10**9, 10**12, 2**31, 2**63, -(2**63) - 1, 10**400, 1e39, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "1", "\x00", "\ud800", "a\nb", "[/x]", "<script>", "../../x",
    [], {}, [[]], [1, 2, 3], ["x"], [None], {"a": 1}, {"__ndarray__": [[10**11], "float64", [0.0]]},
    {"__ndarray__": [[3], "O", [1, 2, 3]]}, {"__ndarray__": [[1], "S2000000000", ["x"]]}, {"__complex__": [1, 2]},
    {"__datetime__": "x"}, {"__ase_objtype__": "atoms"}, {"__ase_objtype__": "bandpath", "labelseq": "G" * 999},
    {"__ndarray__": 1}, [0] * 5000, "A" * 5000,
)  # fmt: skip
TOKEN = re.compile(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?|[A-Za-z_]+")
NUMBER = re.compile(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")


def encoded(text: str) -> bytes:
    """UTF-8, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------------------------------------- bytes and text


def damage_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, insert, cut, repeat, truncate, or splice with `other`."""
    if not data:
        return rng.randbytes(rng.randrange(64))
    content, at = bytearray(data), rng.randrange(len(data))
    length = min(len(data) - at, int(2 ** rng.uniform(0, 10)))
    match rng.randrange(9):
        case 0:
            content[at] ^= 1 << rng.randrange(8)
        case 1:
            content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 2:
            content[at:at] = rng.randbytes(length)
        case 3:
            del content[at : at + length]
        case 4:
            content[at:at] = content[at : at + length] * rng.randrange(1, 4)
        case 5:
            del content[at:]
        case 6:
            start = rng.randrange(len(other) + 1)
            content[at : at + length] = other[start : start + length]
        case 7:
            form = rng.choice(("<H", "<I", "<Q"))
            size = struct.calcsize(form)
            value = rng.choice((0, 1, 2**15, 2**31, 2**63, 2**64 - 1, len(data), rng.randrange(2**20)))
            content[at : at + size] = struct.pack(form, value % 2 ** (8 * size))
        case _:
            content[at : at + length] = bytes([rng.choice((0, 0xFF))]) * length
    return bytes(content)


def damage_text(data: bytes, words: tuple[str, ...], rng: random.Random) -> bytes:
    """Put another number or word in place of one, add odd characters, or move, repeat and drop lines."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            return _replaced(data, NUMBER, rng.choice(NUMBERS), rng)
        case 1:
            return _replaced(data, TOKEN, rng.choice((*words, *TEXTS, *NUMBERS)), rng)
        case 2:
            place = rng.randrange(len(data) + 1)
            return data[:place] + encoded(rng.choice((*TEXTS, *words))) + data[place:]
        case 3:
            del lines[at]
        case 4:
            lines[at:at] = [lines[at]] * rng.choice((1, 1, 2, 200))
        case 5:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            lines[at] = b" ".join(rng.sample(parts := lines[at].split(), len(parts)))
    return b"\n".join(lines)


def _replaced(data: bytes, pattern: re.Pattern[bytes], text: str, rng: random.Random) -> bytes:
    places = list(pattern.finditer(data))
    if not places:
        return data + encoded(text)
    place = rng.choice(places)
    return data[: place.start()] + encoded(text) + data[place.end() :]


# ---------------------------------------------------------------------------------------------- trees


def damage_tree(tree: Any, rng: random.Random) -> Any:
    """Replace, drop, rename, wrap or double one node of a JSON tree; returns a new tree."""
    tree = json.loads(json.dumps(tree))
    places = list(_places(tree))
    if not places:
        return rng.choice(TREES)
    parent, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[rng.choice((*TEXTS[:30], *parent))] = parent.pop(key)
        case 2:
            parent[key] = [parent[key]]
        case 3 if isinstance(parent, list):
            parent.extend(parent[:] * rng.choice((1, 50)))
        case 4:
            other, name = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
        case 5:
            parent[key] = rng.choice(TEXTS)
        case _:
            parent[key] = rng.choice(TREES)
    return tree


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """`damage_tree` of a JSON text; its bytes, if it is none."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return damage_text(data, (), rng)
    return json.dumps(damage_tree(tree, rng)).encode()


def _places(tree: Any) -> Any:
    for key in _keys(tree):
        yield tree, key
        yield from _places(tree[key])


def _keys(tree: Any) -> Any:
    return list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()


# ---------------------------------------------------------------------------------------------- binary formats


def damage_npy(data: bytes, rng: random.Random) -> bytes:
    """Another header, or other numbers in the array."""
    if data[:6] != b"\x93NUMPY" or len(data) < 128:
        return damage_bytes(data, data, rng)
    if rng.random() < 0.5:
        words = ("|O", "<f8", ">f4", "<M8[s]", "|S0", "|V8", "<f4,<f4", "True", "descr", "(1,)", "10**9", "()", "-1")
        header = damage_text(data[10:128].rstrip(), words, rng)
        return data[:8] + struct.pack("<H", len(header) % 65536) + header + data[128:]
    size = rng.choice((1, 2, 4, 8))
    entries = max(1, (len(data) - 128) // size)
    at, values = 128 + size * rng.randrange(entries), (0, 1, 87, 200, 2**15, 2**31, 2**63, 2**64 - 1, 0x7FF8 << 48)
    number = struct.pack("<Q", rng.choice(values))[:size] if rng.random() < 0.7 else struct.pack("<d", 1e300)[-size:]
    return data[:at] + number + data[at + size :]


def damage_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Another header: names, types, shapes and offsets; or another length of it."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return damage_bytes(data, data, rng)
    if rng.random() < 0.1:
        return struct.pack("<Q", rng.choice((0, 1, length + 8, 2**31, 2**63, 2**64 - 1))) + data[8:]
    if rng.random() < 0.3 and header:
        entry = header[rng.choice(list(header))]
        if isinstance(entry, dict) and "dtype" in entry:
            entry["dtype"] = rng.choice(("I32", "F32", "F64", "BF16", "F16", "BOOL", "U8", "F8_E4M3", "C64", "X"))
    else:
        header = damage_tree(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
