"""Hash trees over the keys of one range: two replicas find where they differ by comparing a few numbers.

Decides: what a key contributes (R32: committed version and overlay; nothing for a settled tombstone, R38), how
contributions are combined, and how two trees are walked.  Leaves to others: which keys there are, and what is done
about a difference (`kvnode.service.healing.anti_entropy`).

A key has a *position* (a hash of its name) and an *item* (a hash of its state; 0: nothing to compare).  A leaf holds
the exclusive or of the items whose positions begin with its number, a node that of its leaves.  So a write costs two
operations, whatever the tree's size, no order matters, and an inner node need not be stored: it is computed from its
leaves when a walk asks for it.  A tree of 4,096 leaves takes 32 KiB, with no more for a million keys than for none.

A walk compares the nodes of one level after the other, below those that differ only: `LEVELS` in bits, so each message
carries 64 or 8 children of each node.  Nodes travel as 4 bytes, made of 8 by a number of the comparison's own (the
salt): two that differ and look alike will not do so the next time.

Sources: Merkle (1987); DeCandia et al., "Dynamo" (2007), for its use; Bellare & Micciancio (1997) for combining hashes
without order (their warning about forgers is none here: replicas trust each other).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

from kvnode.core.record import Image

LEVELS = (6, 9, 12)
"""Bits of the levels that a walk looks at."""
BITS_MAX = 12
_MASK = (1 << 64) - 1


def position_of(key: bytes) -> int:
    """Return where the row key `key` stands among all names, as 64 bits."""
    return xxh3_64_intdigest(key[2:])


def item_of(key: bytes, image: Image) -> int:
    """Return what a key contributes; 0 if there is nothing that another replica should have.

    Promises and accepted entries are no data (R13).  A settled tombstone and an absent key are equal (R38).
    """
    body, overlay, settled = image[4][0], image[5], image[6]  # by number: every write comes here twice
    if overlay:
        if settled or not body:
            return xxh3_64_intdigest(key + overlay[1:45], 1)
        return xxh3_64_intdigest(key + body[:44] + overlay[1:45], 1)
    return 0 if settled or not body else xxh3_64_intdigest(key + body[:44])


def shorten(node: int, salt: int) -> int:
    """Return 4 bytes of a node; the salt is odd."""
    return (node * salt & _MASK) >> 32


class Tree:
    """The tree of one range; 2 ** `bits` leaves."""

    __slots__ = ("bits", "count", "leaves", "root")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.leaves: array[int] = array("Q", bytes(8 << bits))
        self.root = 0
        self.count = 0
        """Keys that contribute."""

    def replace(self, position: int, old: int, new: int) -> None:
        """Let a key contribute `new` where it contributed `old` (0: nothing)."""
        change = old ^ new
        self.root ^= change
        self.leaves[position >> (64 - self.bits)] ^= change
        if not old or not new:
            self.count += (1 if new else 0) - (1 if old else 0)

    def nodes(self, level: int, numbers: Iterable[int]) -> list[int]:
        """Return nodes of a level, which is given in bits and not deeper than the leaves."""
        shift = self.bits - level
        leaves = self.leaves
        if not shift:
            return [leaves[number] for number in numbers]
        found = []
        for number in numbers:
            node = 0
            for leaf in leaves[number << shift : (number + 1) << shift]:
                node ^= leaf
            found.append(node)
        return found

    def differing(self, level: int, numbers: list[int], shortened: list[int], salt: int) -> list[int]:
        """Return those of `numbers` whose node here, shortened, is not what the other tree has."""
        here = self.nodes(level, numbers)
        pairs = zip(numbers, here, shortened, strict=True)
        return [number for number, node, other in pairs if shorten(node, salt) != other]

    def invariants(self) -> None:
        """Raise AssertionError if the root is not what the leaves say."""
        assert self.nodes(0, (0,)) == [self.root]
        assert self.count >= 0


def levels_of(bits: int, keys: int, *, per_node_max: int = 2) -> list[int]:
    """Return the levels that a walk through two trees of `bits` (the smaller counts) and about `keys` keys looks at.

    Once a node has few keys, listing them costs less than another level.
    """
    levels: list[int] = []
    for level in LEVELS:
        if level > bits or (levels and keys <= per_node_max << levels[-1]):
            break
        levels.append(level)
    return levels or [min(bits, LEVELS[0])]


def children(level: int, deeper: int, numbers: Iterable[int]) -> list[int]:
    """Return the numbers, at level `deeper`, of what lies below `numbers` of `level`."""
    fan = 1 << (deeper - level)
    return [number * fan + child for number in numbers for child in range(fan)]
