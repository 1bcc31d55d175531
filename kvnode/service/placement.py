"""Where a key lives: its row key, its owners in order, and the quorum sizes of its store.

Decides: what a valid name is (R-free: lengths and UTF-8) and which placement it has.  Leaves to others: the ring's
table (`core.ring`) and who of the owners is alive.

There is one placement per store configuration and partition, made at start, so a request costs one hash and two
look-ups. Store names that the configuration does not mention share the placements of "default".
"""

from __future__ import annotations

from typing import NamedTuple

from kvclient.wire.values import KEY_BYTES_MAX, STORE_BYTES_MAX
from kvnode.config import Config, StoreConfig
from kvnode.core.quorum import Quorums
from kvnode.core.ring import Ring, RingNode


class BadName(ValueError):
    """A request's store or key name is outside its bounds; the text says which and how."""


class Placement(NamedTuple):
    """One partition of one store configuration."""

    prefix: bytes
    """First two bytes of the row key: the partition."""
    preference: tuple[int, ...]
    """All nodes, best first; the first `quorums.n` are the owners."""
    owners: tuple[int, ...]
    members: int
    """The owners as bits."""
    quorums: Quorums
    store: StoreConfig
    others: tuple[int, ...]
    """The owners without this node."""
    is_home: bool
    """True if this node is an owner."""


class Placements:
    """The placements of every store and partition, as one node sees them."""

    def __init__(self, config: Config, home: int) -> None:
        self.ring = Ring([RingNode(node.id, node.zone, node.weight) for node in config.nodes], config.partitions)
        self._tables = {
            name.encode(): [self._place(store, partition, home) for partition in range(config.partitions)]
            for name, store in config.stores.items()
        }
        self._default = self._tables[b"default"]
        self.grace_ms_min = 1000 * min(store.gc_grace_s for store in config.stores.values())
        """The shortest gc_grace of any store: what is younger is stale in none (R37)."""

    def _place(self, store: StoreConfig, partition: int, home: int) -> Placement:
        preference = self.ring.preference[partition]
        owners = preference[: store.replicas]
        return Placement(
            partition.to_bytes(2, "big"),
            preference,
            owners,
            sum(1 << index for index in owners),
            Quorums(store.replicas, store.q1, store.q2),
            store,
            tuple(index for index in owners if index != home),
            home in owners,
        )

    def of(self, name: bytes) -> Placement:
        """Return the placement of `store + 0x00 + key`.  Raises BadName."""
        store, separator, key = name.partition(b"\0")
        if not separator or not 0 < len(key) <= KEY_BYTES_MAX or not 0 < len(store) <= STORE_BYTES_MAX:
            raise BadName(_complaint(store, separator, key))
        if not name.isascii():
            _check_utf8(name)
        return self._tables.get(store, self._default)[self.ring.partition_of(name)]

    def is_row_key(self, key: bytes) -> bool:
        """Return whether a row key is a name behind the number of its partition.  A key that is none would be read as
        something else, or stop whoever meets its row."""
        try:
            return self.of(key[2:]).prefix == key[:2]
        except BadName:
            return False


def _check_utf8(name: bytes) -> None:
    try:
        name.decode()
    except UnicodeDecodeError as error:
        raise BadName(f"store and key must be UTF-8: {error}") from None


def _complaint(store: bytes, separator: bytes, key: bytes) -> str:
    if not separator:
        return "a name is store, a zero byte, key; there is no zero byte in it"
    if not 0 < len(store) <= STORE_BYTES_MAX:
        return f"a store name has 1 to {STORE_BYTES_MAX} bytes, not {len(store)}"
    return f"a key has 1 to {KEY_BYTES_MAX} bytes of UTF-8, not {len(key)}"
