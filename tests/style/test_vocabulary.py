"""Names in the source are the field's words: the private words that the first versions used do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import transip

SOURCE = Path(transip.__file__).parent
# A retired word, alone or as a part of a name (`atoms_seen`, `TwoTurns`) → what the field says.
WORDS = {
    "beside": "and, compared with",
    "begun": "resumed, restored",
    "faded": "envelope",
    "found": "the thing that was found: metrics, prediction, images",
    "frugal": "recompute, chunked",
    "look": "query",
    "looking": "query",
    "neighbours": "neighbors, as ASE and the other codes spell it",
    "neighbourhood": "local environment, neighbor features",
    "piecewise": "chunked",
    "seen": "key, source, sender; processed; trained on",
    "settle": "resolve",
    "settled": "resolved",
    "share": "fraction, normaliser",
    "shares": "per-atom energies",
    "surround": "periodic images",
    "turn": "rotate, rotation",
    "turned": "rotated",
    "turns": "rotations",
    "twice": "view pair",
}
# A word that is retired as a whole name: within a longer one it may say something.
NAMES = {
    "again": "second_view",
    "each": "a noun of the domain",
    "every_pair": "pair geometry",
    "fade": "envelope",
    "hide": "attention_mask",
    "home": "wrapping shift, run folder",
    "known": "a noun of the domain",
    "later": "the default at a format",
    "mine": "local",
    "near": "neighbors",
    "of": "gather, from_…, a verb",
    "one": "a noun of the domain",
    "paired": "num_paired",
    "part": "chunk, shard, piece",
    "parts": "chunks, shards, pieces",
    "places": "image positions",
    "pool": "unlabelled",
    "see": "encode",
    "took": "seconds, duration",
    "two_views": "view pair",
    "what": "a noun of the domain",
}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a module gives: of functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def retired(name: str) -> str | None:
    """What to say instead, if a name holds a retired word."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
    if "_".join(words) in NAMES:
        return NAMES["_".join(words)]
    return next((WORDS[word] for word in words if word in WORDS), None)


@pytest.mark.parametrize("name", ["found", "atoms_seen", "TwoTurns", "_look", "neighbours", "part", "EveryPair"])
def test_the_check_recognises(name):
    assert retired(name)


@pytest.mark.parametrize("name", ["unseen", "foundation", "return_type", "num_parts_of_speech", "neighbor_list"])
def test_the_check_leaves_alone(name):
    assert retired(name) is None


def test_no_name_in_the_source_is_a_retired_word():
    left = [
        f"{path.relative_to(SOURCE)}:{line}: {name} (say {said})"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, name in names(ast.parse(path.read_text(encoding="utf-8")))
        if (said := retired(name))
    ]
    assert not left, "\n".join(left)
