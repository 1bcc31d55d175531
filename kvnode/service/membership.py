"""Who is who: the identities of the cluster's nodes, and when a new one may serve.

Decides: R1.  A node's name is bound to one id for ever, and to incarnations that only rise; each node keeps the
bindings of the others on disk and shows its own in every handshake.  That finds clones, emptied directories and old
backups.  Each node also tells the others the age of its directory (`age`), and they keep the greatest they were told:
that finds a backup of the present incarnation, and a machine that went back to a snapshot of itself.  Leaves to others:
the data directory's own identity (`kvnode.storage.directory`), connections, the ring (fixed until membership can
change).

A WELCOME is sent only after the binding is durable.  So a node with a new directory counts the nodes that welcomed it,
and serves once they are more than half of the others.  A node with a known directory first gives every other node the
occasion to refuse it: it serves once each has welcomed it or could not be reached.

Ages travel over two links, the one that a node dialled and the one that it accepted, so they may be overtaken.  What is
compared cannot be: the age that a process found when it began with what was told of earlier processes; and the age in
a HELLO with those told over the links that its sender dialled before, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import xxhash

from kvnode.config import Config
from kvnode.service.age import Age
from kvnode.storage.engine import LEAVE_DOWN, Engine


class Identity(NamedTuple):
    """Which process of which life of which node this is."""

    name: str
    node_id: int
    incarnation: int
    process: int
    """Random per process: tells a reconnect from a clone with the same incarnation."""


class Membership:
    """The bindings that this node keeps, and how many nodes keep one of it."""

    def __init__(self, config: Config, own: Identity, epoch: int, engine: Engine, age: Age, *, is_new: bool) -> None:
        self.own = own
        self.epoch = epoch
        self._config = config
        self._engine = engine
        self._age = age
        self._others = {node.id for node in config.nodes} - {own.name}
        self._bound_by: set[str] = set()
        self._untried = set(self._others)
        self.is_new = is_new
        self.ring_digest = ring_digest(config)
        self._bindings = {name: binding for name in self._others if (binding := self._load(name)) is not None}
        self._durable = dict(self._bindings)
        """What is on disk of them: a binding counts for nothing before (R1)."""
        self._ages = {name: self._load_age(name) for name in self._others}
        """The greatest age of each node's directory that it was heard to have."""

    # -- serving

    @property
    def may_serve(self) -> bool:
        """True unless too few of the other nodes have bound this node's name to a new directory, or one of them may
        still refuse a known one."""
        if self.is_new and self._others:
            return len(self._bound_by) * 2 > len(self._others)
        return not self._untried

    def on_bound_by(self, name: str) -> None:
        """Note that node `name` has durably bound this one: it sent a WELCOME."""
        self._bound_by.add(name)
        self._untried.discard(name)

    def on_unreachable(self, name: str) -> None:
        """Note that node `name` cannot be asked now."""
        self._untried.discard(name)

    def wait_no_longer(self) -> None:
        """Count every node that has not answered as one that cannot be asked."""
        self._untried.clear()

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
            "found": self._age.found,
            "age": self._age.durable,
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
        other = Identity(name, facts["node_id"], facts["incarnation"], facts["process"])
        return self._judge_identity(other) or self._judge_age(other, facts, is_answer=bool(expected_name))

    def _judge_identity(self, other: Identity) -> tuple[str, str] | None:
        known = self._bindings.get(other.name)
        if known is None or (known.node_id == other.node_id and other.incarnation > known.incarnation):
            return None
        if known.node_id != other.node_id:
            return "identity", (
                f"the name {other.name!r} belongs to node id {known.node_id:016x}, not {other.node_id:016x}: its data"
                f" directory was emptied or exchanged; put the right one back, as its node left it, or {LEAVE_DOWN}"
                " (docs/protocol.md R1, R44)"
            )
        if other.incarnation == known.incarnation and other.process == known.process:
            return None
        return "identity", (
            f"node {other.name!r} shows incarnation {other.incarnation}, but {known.incarnation} has been seen: its"
            " data directory is a copy or an old backup, and two of them must not vote"
        )

    def _judge_age(self, other: Identity, facts: dict[str, Any], *, is_answer: bool) -> tuple[str, str] | None:
        known, told = self._bindings.get(other.name), self._ages[other.name]
        is_same_process = known is not None and known.process == other.process
        if is_same_process and is_answer:
            return None
        shown = facts["age"] if is_same_process else facts["found"]
        if shown >= told:
            return None
        return "identity", (
            f"the data directory of node {other.name!r} has age {shown}, but {self.own.name!r} has heard from it at age"
            f" {told}: it is a backup, or its machine went back to a snapshot, and lacks what was acknowledged since;"
            f" put the newest copy back, or {LEAVE_DOWN} (docs/protocol.md R1, R44)"
        )

    def on_aged(self, name: str, process: int, age: int) -> None:
        """Keep what node `name` has told of its directory, durably; nobody waits for that."""
        known = self._bindings.get(name)
        if known is not None and known.process == process and age > self._ages[name]:
            self._ages[name] = age
            self._engine.put_meta(_age_meta(name), age.to_bytes(8, "big"), sync=True, then=None)

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

    def _load_age(self, name: str) -> int:
        stored = self._engine.load_meta(_age_meta(name))
        return int.from_bytes(stored, "big") if stored else 0


def _age_meta(name: str) -> str:
    return f"told/{name}"


def ring_digest(config: Config) -> int:
    """Return a number that is equal on two nodes iff they place and count every key alike."""
    nodes = [[node.id, node.zone, node.weight] for node in config.nodes]
    stores = [[name, store.replicas, store.q1, store.q2] for name, store in sorted(config.stores.items())]
    packed: bytes = msgpack.packb([config.partitions, nodes, stores])
    return xxhash.xxh3_64_intdigest(packed)
