"""Who is who: the identities of the cluster's nodes, and when a new one may serve.

Decides: R1.  A node's name is bound to one id for ever, and to incarnations that only rise; each node keeps the
bindings of the others on disk and shows its own in every handshake.  That finds clones, emptied directories and old
backups.  Leaves to others: the data directory's own identity (`kvnode.storage.directory`), connections, the ring (fixed
until membership can change).

A WELCOME is sent only after the binding is durable.  So a node with a new directory counts the nodes that welcomed it,
and serves once they are more than half of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import xxhash

from kvnode.config import Config
from kvnode.storage.engine import Engine


class Identity(NamedTuple):
    """Which process of which life of which node this is."""

    name: str
    node_id: int
    incarnation: int
    process: int
    """Random per process: tells a reconnect from a clone with the same incarnation."""


class Membership:
    """The bindings that this node keeps, and how many nodes keep one of it."""

    def __init__(self, config: Config, own: Identity, epoch: int, engine: Engine, *, is_new: bool) -> None:
        self.own = own
        self.epoch = epoch
        self._config = config
        self._engine = engine
        self._others = {node.id for node in config.nodes} - {own.name}
        self._bound_by: set[str] = set()
        self._is_new = is_new
        self.ring_digest = ring_digest(config)
        self._bindings = {name: binding for name in self._others if (binding := self._load(name)) is not None}
        self._durable = dict(self._bindings)
        """What is on disk of them: a binding counts for nothing before (R1)."""

    # -- serving

    @property
    def may_serve(self) -> bool:
        """True unless the directory is new and too few of the other nodes have bound this node's name to it."""
        return not self._is_new or not self._others or len(self._bound_by) * 2 > len(self._others)

    def on_bound_by(self, name: str) -> None:
        """Note that node `name` has durably bound this one: it sent a WELCOME."""
        self._bound_by.add(name)

    # -- handshakes

    def facts(self) -> dict[str, Any]:
        """Return what every handshake of this node presents."""
        own = self.own
        return {
            "cluster": self._config.cluster_name,
            "name": own.name,
            "node_id": own.node_id,
            "incarnation": own.incarnation,
            "process": own.process,
            "epoch": self.epoch,
            "ring": self.ring_digest,
        }

    def judge(self, facts: dict[str, Any], expected_name: str = "") -> tuple[str, str] | None:
        """Return why the other side of a handshake is refused, as (code, text), or None.  Nothing is stored."""
        name = facts["name"]
        if facts["cluster"] != self._config.cluster_name:
            return (
                "cluster",
                f"this is cluster {self._config.cluster_name!r}, not {facts['cluster']!r}; check the addresses",
            )
        if name not in self._others or (expected_name and name != expected_name):
            return "cluster", f"node {name!r} was not expected here; is every node started with the same cluster.toml?"
        if facts.get("ring") != self.ring_digest:
            return "cluster", (
                f"nodes {self.own.name!r} and {name!r} have different nodes, partitions or quorums in cluster.toml"
            )
        return self._judge_identity(Identity(name, facts["node_id"], facts["incarnation"], facts["process"]))

    def _judge_identity(self, other: Identity) -> tuple[str, str] | None:
        known = self._bindings.get(other.name)
        if known is None or (known.node_id == other.node_id and other.incarnation > known.incarnation):
            return None
        if known.node_id != other.node_id:
            return "identity", (
                f"the name {other.name!r} belongs to node id {known.node_id:016x}, not {other.node_id:016x}: a data"
                " directory was emptied or exchanged; restore it (docs/protocol.md R44)"
            )
        if other.incarnation == known.incarnation and other.process == known.process:
            return None
        return "identity", (
            f"node {other.name!r} shows incarnation {other.incarnation}, but {known.incarnation} has been seen: its"
            " data directory is a copy or an old backup, and two of them must not vote"
        )

    def bind(self, facts: dict[str, Any], then: Callable[[], None]) -> None:
        """Bind the name to the id and incarnation shown, and call `then` once that is durable."""
        other = Identity(facts["name"], facts["node_id"], facts["incarnation"], facts["process"])
        if self._durable.get(other.name) == other:
            then()
            return

        def on_durable() -> None:
            self._durable[other.name] = other
            then()

        self._bindings[other.name] = other
        self._engine.put_meta(f"binding/{other.name}", msgpack.packb(list(other)), sync=True, then=on_durable)

    def _load(self, name: str) -> Identity | None:
        stored = self._engine.load_meta(f"binding/{name}")
        return Identity(*msgpack.unpackb(stored)) if stored else None


def ring_digest(config: Config) -> int:
    """Return a number that is equal on two nodes iff they place and count every key alike."""
    nodes = [[node.id, node.zone, node.weight] for node in config.nodes]
    stores = [[name, store.replicas, store.q1, store.q2] for name, store in sorted(config.stores.items())]
    packed: bytes = msgpack.packb([config.partitions, nodes, stores])
    return xxhash.xxh3_64_intdigest(packed)
