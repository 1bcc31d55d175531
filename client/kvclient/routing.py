"""Which node a request goes to: the partition table of the handshake, and the links that are up.

Decides: the primary first, then the other owners of the partition in order, then any node that serves (it forwards): a
matter of speed, never of safety.  Leaves to others: keeping links up (`cluster`) and trying again (`retries`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xxhash import xxh3_64_intdigest

from kvclient.addresses import Address
from kvclient.connection import Link
from kvclient.errors import NotConnected
from kvclient.options import StoreSettings, settings_of


class Table:
    """What one WELCOME says about the cluster.  Frozen by convention: a change makes a new table."""

    __slots__ = (
        "_default",
        "_stores",
        "addresses",
        "cluster",
        "epoch",
        "names",
        "partitions",
        "preference",
        "scan_page_max",
        "timeout_s",
        "timeout_s_max",
        "value_bytes_max",
    )

    def __init__(self, welcome: Mapping[str, Any]) -> None:
        """Raises NotConnected if the tables of the WELCOME do not fit together."""
        limits = welcome["limits"]
        self.cluster: str = welcome["cluster"]
        self.epoch: int = welcome["epoch"]
        self.partitions: int = welcome["partitions"]
        self.preference: Sequence[Sequence[int]] = welcome["preference"]
        self.value_bytes_max: int = limits["value_bytes_max"]
        self.timeout_s: float = limits["timeout_s"]
        self.timeout_s_max: float = limits["timeout_s_max"]
        self.scan_page_max: int = limits["scan_page_max"]
        try:
            self.names = tuple(str(name) for name, _, _ in welcome["nodes"])
            self.addresses = tuple(Address(str(host), int(port)) for _, host, port in welcome["nodes"])
            nodes = range(len(self.names))
            fits = all(index in nodes for owners in self.preference for index in owners)
            self._stores = {name: settings_of(facts) for name, facts in welcome["stores"].items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise NotConnected(f"node {welcome['name']} describes its cluster in no usable way: {error}") from error
        if not fits or len(self.preference) != self.partitions or not self.partitions:
            raise NotConnected(f"node {welcome['name']} has a partition table that does not fit its list of nodes")
        self._default = self._stores.get("default", StoreSettings())

    def settings(self, store: str) -> StoreSettings:
        """Return the settings of a store; one that the cluster does not name has those of `default`."""
        return self._stores.get(store, self._default)

    def partition(self, name: bytes) -> int:
        """Return the partition that owns a name (store, NUL, key)."""
        return int(xxh3_64_intdigest(name)) % self.partitions


class Router:
    """The best link of each partition, kept ready: picking one is a hash and an index."""

    __slots__ = ("_best", "_partitions", "links", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.links: dict[str, Link] = {}
        """Open links by node name."""
        self._partitions = table.partitions
        self._best: list[Link | None] = [None] * table.partitions

    def refresh(self) -> None:
        """Compute the best links again.  Call it when a link or the table has changed."""
        table = self.table
        self._partitions = table.partitions
        by_index = [self._usable(name) for name in table.names]
        fallback = next((link for link in by_index if link is not None), None)
        firsts: dict[tuple[int, ...], Link | None] = {}
        best: list[Link | None] = []
        for owners in table.preference:
            order = tuple(owners)
            if order not in firsts:
                firsts[order] = next((by_index[index] for index in order if by_index[index] is not None), fallback)
            best.append(firsts[order])
        self._best = best

    def pick(self, name: bytes) -> Link | None:
        """Return the link for a request on `name`, or None if no node serves."""
        return self._best[xxh3_64_intdigest(name) % self._partitions]

    def owners(self, partition: int) -> list[Link]:
        """Return the usable links to the owners of a partition, best first."""
        names = self.table.names
        return [link for index in self.table.preference[partition] if (link := self._usable(names[index])) is not None]

    def others(self) -> list[Link]:
        """Return every usable link."""
        return [link for link in self.links.values() if link.is_usable]

    def _usable(self, name: str) -> Link | None:
        link = self.links.get(name)
        return link if link is not None and link.is_usable else None
