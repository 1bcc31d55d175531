"""The ring: which nodes own a partition, in which order.

Decides: the partition of a key and the preference list of a partition.  Everyone computes the same table from the same
node list; nothing is stored, and a join or a leave moves only what it must.

A fixed number of partitions is spread over the nodes by weighted rendezvous hashing: each node's score for a partition
is `weight / -ln(hash)`, the greatest first.  Zones: the list takes the best node of each zone in turn, so N copies lie
in as many zones as there are.  The first N of a list are owners, the first of all is the primary, the rest are
fallbacks.

Sources: Thaler & Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996); Schindelhauer & Schomaker (2005) for
weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import xxhash


class RingNode(NamedTuple):
    """What the ring knows of a node; the id decides its place, not its position in the list."""

    id: str
    zone: str
    weight: float


class Ring:
    """The preference list of every partition, as indexes into the node list it was made from."""

    __slots__ = ("partitions", "preference")

    def __init__(self, nodes: Sequence[RingNode], partitions: int) -> None:
        self.partitions = partitions
        self.preference: list[tuple[int, ...]] = [_preference(nodes, number) for number in range(partitions)]

    def partition_of(self, name: bytes) -> int:
        """Return the partition of a key's name (store + 0x00 + key)."""
        return xxhash.xxh3_64_intdigest(name) % self.partitions

    def owners(self, partition: int, replicas: int) -> tuple[int, ...]:
        """Return the nodes that hold the copies of a partition, primary first."""
        return self.preference[partition][:replicas]

    def invariants(self) -> None:
        """Raise AssertionError unless every list names every node once."""
        for order in self.preference:
            assert sorted(order) == list(range(len(order)))


def _score(node: RingNode, partition: int) -> float:
    digest = xxhash.xxh3_64_intdigest(f"{partition}\0{node.id}".encode())
    # 52 bits and a half: a float holds that exactly, so the greatest digest does not round to 1, whose logarithm is 0
    return node.weight / -math.log(((digest >> 12) + 0.5) / 2**52)


def _preference(nodes: Sequence[RingNode], partition: int) -> tuple[int, ...]:
    best = sorted(range(len(nodes)), key=lambda index: (-_score(nodes[index], partition), nodes[index].id))
    order: list[int] = []
    while best:
        zones: set[str] = set()
        for index in list(best):
            if nodes[index].zone not in zones:
                zones.add(nodes[index].zone)
                order.append(index)
                best.remove(index)
    return tuple(order)
