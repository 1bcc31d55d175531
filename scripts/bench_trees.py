"""What finding differences costs: hash trees of two replicas over a million keys, of which d differ (`difference`).

No cluster: the trees and the walk are the product's (`kvnode.core.merkle`), the bytes those of its packed messages
(`kvnode.service.healing.comparing`).  Each range that differs takes one question and one answer a level, and one each
for the keys below the leaves that differ; the roots of all ranges are one message.
"""

from __future__ import annotations

import random
from array import array

from xxhash import xxh3_64_intdigest

from kvnode.core.merkle import BITS_MAX, Tree, children, levels_of, shorten
from kvnode.core.record import EMPTY_IMAGE
from kvnode.service.healing import comparing

RANGES = 256
DIFFERING = (0, 1, 10, 100, 1000, 10_000)
_SALT = 0x9E3779B97F4A7C15
_KEY_BYTES = len(comparing.pack_key(0, 0, EMPTY_IMAGE))


class Replica:
    """The trees of one replica, and how many keys each of their leaves has."""

    def __init__(self) -> None:
        self.trees = [Tree(BITS_MAX) for _ in range(RANGES)]
        self.keys_of = [array("H", bytes(2 << BITS_MAX)) for _ in range(RANGES)]

    def change(self, key: int, old: int, new: int) -> None:
        """Let a key have another state: 0 is none."""
        position = xxh3_64_intdigest(key.to_bytes(8, "big"))
        self.trees[key % RANGES].replace(position, _item(key, old), _item(key, new))
        self.keys_of[key % RANGES][position >> (64 - BITS_MAX)] += not old


def _item(key: int, state: int) -> int:
    return xxh3_64_intdigest(key.to_bytes(8, "big"), state) if state else 0


def measure(keys: int) -> dict[str, dict[str, int]]:
    """Return, for each number of differing keys, what a comparison sends."""
    one, other = Replica(), Replica()
    for key in range(keys):
        one.change(key, 0, 1)
    for mine, theirs in zip(one.trees, other.trees, strict=True):
        theirs.leaves, theirs.root, theirs.count = array("Q", mine.leaves), mine.root, mine.count
    chosen = random.Random(1).sample(range(keys), min(keys, max(DIFFERING)))
    found: dict[str, dict[str, int]] = {}
    changed = 0
    for differing in DIFFERING:
        for key in chosen[changed:differing]:
            other.change(key, 1, 2)
        changed = min(differing, len(chosen))
        found[f"of {keys:,} keys {changed:,} differ"] = _compare(one, other)
    return found


def _compare(one: Replica, other: Replica) -> dict[str, int]:
    roots = comparing.pack_roots((1, number, tree.root) for number, tree in enumerate(one.trees))
    messages, size, nodes, listed = 1, len(roots), 0, 0
    for mine, theirs, keys_of in zip(one.trees, other.trees, one.keys_of, strict=True):
        if mine.root == theirs.root:
            continue
        level, numbers = 0, [0]
        for deeper in levels_of(BITS_MAX, mine.count):
            asked = children(level, deeper, numbers)
            sent = [shorten(node, _SALT) for node in mine.nodes(deeper, asked)]
            numbers, level = theirs.differing(deeper, asked, sent, _SALT), deeper
            messages, nodes = messages + 2, nodes + len(sent)
            size += len(comparing.pack_nodes(sent)) + len(comparing.pack_numbers(numbers))
        keys = children(level, BITS_MAX, numbers)
        messages, listed = messages + 2, listed + sum(keys_of[leaf] for leaf in keys)
    return {"messages": messages, "nodes": nodes, "keys listed": listed, "bytes": size + listed * _KEY_BYTES}
