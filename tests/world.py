"""A cluster in one process, on manual time and over links that a test cuts, holds and drains by hand.

The nodes are whole (`kvnode.node.Node` with all its rooms) but for sockets and disks: messages pass through the real
codec and wait in a queue per directed link; rows go to `MemoryEngine`, so a crash loses what was not synced.

    world = World(3)
    call = world.put("k", b"1")          # asks the key's primary
    world.run()                          # until nothing moves
    assert call.kind == APPLIED
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
from world_time import Scheduler, WorldClock, WorldTimers

from kvclient.wire import messages as m
from kvclient.wire.values import body_content, body_pack, body_version, etag_of
from kvnode.config import Config, Limits, NodeConfig, StoreConfig, local
from kvnode.core.register import Register
from kvnode.node import EPOCH, Node
from kvnode.runtime import Runtime
from kvnode.service.membership import Identity
from kvnode.storage.memory import MemoryDisk, MemoryEngine

SESSION = b"session1"
_sequences = itertools.count(1)


class WorldLink:
    """The link on which one node's replies or requests leave for another."""

    def __init__(self, world: World, source: int, target: int) -> None:
        self.world = world
        self.source = source
        self.index = target
        self.connection = world.connection(source, target)
        self.requests = 0

    def send(self, message: Any) -> bool:
        """Queue a message, unless the connection has ended since: nothing goes over to a later one."""
        is_open = self.connection == self.world.connection(self.source, self.index)
        return is_open and self.world.post(self.source, self.index, message)


@dataclass(eq=False)
class Call:
    """A client's request and, once it is there, its answer."""

    number: int
    answer: list[Any] | None = None
    index: int = -1
    requests: int = 0

    def send(self, message: Any) -> bool:
        assert self.answer is None, "a request was answered twice"
        self.answer = msgpack.unpackb(msgpack.packb(message))
        return True

    @property
    def kind(self) -> int | None:
        return self.answer[0] if self.answer else None

    @property
    def code(self) -> str:
        assert self.answer is not None
        return self.answer[2] if self.answer[0] == m.FAILED else ""

    @property
    def outcome(self) -> str:
        assert self.answer is not None
        return self.answer[3] if self.answer[0] == m.FAILED else "applied"

    @property
    def value(self) -> bytes | None:
        """What a get or a conflict shows, without its tag; None if the key is absent."""
        assert self.answer is not None
        assert self.answer[0] in (m.ITEM, m.CONFLICT), self.answer
        content = body_content(self.answer[2])
        return content[1:] if content else None

    @property
    def etag(self) -> str:
        assert self.answer is not None
        version = self.answer[2] if self.answer[0] == m.APPLIED else body_version(self.answer[2])
        return etag_of(version)


@dataclass
class _Host:
    node: Node
    engine: MemoryEngine
    clock: WorldClock
    timers: WorldTimers
    is_up: bool = True
    incarnation: int = 1
    links: dict[int, WorldLink] = field(default_factory=dict)


class World:
    """N nodes that own every key."""

    def __init__(
        self, nodes: int = 3, seed: int = 0, *, store: StoreConfig | None = None, limits: Limits | None = None
    ):
        base = local(nodes)
        stores = {"default": store or StoreConfig("default", replicas=min(3, nodes))}
        self.config = Config(
            base.cluster_name,
            tuple(NodeConfig(node.id, node.host, node.port) for node in base.nodes),
            base.data_dir,
            partitions=16,
            stores=stores,
            limits=limits or Limits(),
        )
        self.scheduler = Scheduler()
        self.rng = random.Random(seed)
        self.queues: dict[tuple[int, int], deque[bytes]] = {}
        self._connections: dict[tuple[int, int], int] = {}
        self.held: set[tuple[int, int]] = set()
        self.held_disks: dict[int, list[Callable[[], object]]] = {}
        self.disk_delays_s: dict[int, float] = {}
        self.cut_links: set[tuple[int, int]] = set()
        self.on_post: Callable[[int, int, Any], bool] = lambda source, target, message: True
        """Sees every message before it is queued; False drops it."""
        self._calls = itertools.count(1)
        self.hosts = [self._start(index, MemoryDisk(), 1) for index in range(nodes)]
        for index in range(nodes):
            self._join(index)
        self.run()

    # -- lives

    def _start(self, index: int, disk: MemoryDisk, incarnation: int, offset_ms: int = 0) -> _Host:
        clock, timers = WorldClock(self.scheduler), WorldTimers(self.scheduler)
        clock.offset_ms = offset_ms
        engine = MemoryEngine(lambda then: self._on_disk(index, timers, then), _fail, disk)
        identity = Identity(self.config.nodes[index].id, 1000 + index, incarnation, self.rng.getrandbits(32))
        runtime = Runtime(clock, self.rng, timers)
        node = Node(self.config, identity, engine, runtime, is_new=False)
        host = _Host(node, engine, clock, timers, incarnation=incarnation)

        def serve() -> None:
            node.coordinator.is_serving = True

        node.ceilings.start(serve)
        node._sweep()
        return host

    def set_clock(self, index: int, offset_ms: int) -> None:
        """Set a node's wall clock, and let it believe that the others' say the same."""
        host = self.hosts[index]
        host.clock.offset_ms = offset_ms
        host.node.clock.wall_ms()
        host.node.clock.hear([(host.node.clock.leap_ms, 0)] * len(self.hosts), len(self.hosts))

    def _on_disk(self, index: int, timers: WorldTimers, then: Callable[[], object]) -> None:
        if index in self.held_disks:
            self.held_disks[index].append(lambda: timers.call_soon(then))
        elif index in self.disk_delays_s:
            timers.call_later(self.disk_delays_s[index], then)
        else:
            timers.call_soon(then)

    def _join(self, index: int) -> None:
        for other in range(len(self.hosts)):
            if other != index and self.hosts[other].is_up:
                self._connect(index, other)
                self._connect(other, index)

    def _connect(self, source: int, target: int) -> None:
        if (source, target) in self.cut_links or (target, source) in self.cut_links:
            return
        link = WorldLink(self, source, target)
        self.hosts[source].node.exchanges.on_peer_up(target, link)

    def crash(self, index: int, *, keep_unsynced: int = 0) -> None:
        """Kill a node: what was not synced is lost, what was on its way is lost, the others notice."""
        host = self.hosts[index]
        host.is_up = False
        host.timers.is_dead = True
        self.held_disks.pop(index, None)
        host.engine.crash(keep_unsynced)
        for pair in [pair for pair in self.queues if index in pair]:
            self.queues.pop(pair)
        for other, remote in enumerate(self.hosts):
            self._disconnect(index, other)
            if other != index and remote.is_up:
                remote.node.exchanges.on_peer_lost(index)

    def restart(self, index: int, *, offset_ms: int = 0) -> None:
        """Start a crashed node again from its disk, as its next incarnation."""
        old = self.hosts[index]
        self.hosts[index] = self._start(index, old.engine.disk, old.incarnation + 1, offset_ms)
        self._join(index)
        self.run()

    def cut(self, one: int, other: int) -> None:
        """Cut the links between two nodes, both ways; what was on them is lost, and both notice."""
        self._disconnect(one, other)
        for source, target in ((one, other), (other, one)):
            self.cut_links.add((source, target))
            self.queues.pop((source, target), None)
            if self.hosts[source].is_up:
                self.hosts[source].node.exchanges.on_peer_lost(target)

    def mend(self, one: int, other: int) -> None:
        """Connect two nodes again."""
        for source, target in ((one, other), (other, one)):
            self.cut_links.discard((source, target))
        for source, target in ((one, other), (other, one)):
            self._connect(source, target)

    def connection(self, one: int, other: int) -> int:
        """Return the number of the connection between two nodes: the next one is another."""
        return self._connections.get((min(one, other), max(one, other)), 0)

    def _disconnect(self, one: int, other: int) -> None:
        self._connections[min(one, other), max(one, other)] = self.connection(one, other) + 1

    # -- disks

    def hold_disk(self, index: int) -> None:
        """Let every write of a node wait, unsynced, until `release_disk`; a crash loses it."""
        self.held_disks.setdefault(index, [])

    def slow_disk(self, index: int, delay_s: float) -> None:
        """Let every step of a node's disk take so long from now on."""
        self.disk_delays_s[index] = delay_s

    def release_disk(self, index: int) -> None:
        """Let a node's disk go on."""
        for then in self.held_disks.pop(index, []):
            then()

    # -- messages

    def post(self, source: int, target: int, message: Any) -> bool:
        if (source, target) in self.cut_links or not self.hosts[target].is_up or not self.hosts[source].is_up:
            return False
        if self.on_post(source, target, message):
            self.queues.setdefault((source, target), deque()).append(msgpack.packb(message))
        return True

    def hold(self, source: int, target: int) -> None:
        """Let messages of a directed link wait until `release`."""
        self.held.add((source, target))

    def release(self, source: int, target: int) -> None:
        self.held.discard((source, target))

    @contextmanager
    def silenced(self, *indexes: int) -> Iterator[None]:
        """Within the block nothing from or to these nodes is delivered; it is afterwards (a paused process)."""
        pairs = {(a, b) for a in range(len(self.hosts)) for b in range(len(self.hosts)) if a in indexes or b in indexes}
        before = set(self.held)
        self.held |= pairs
        yield
        self.held = before

    def deliver(self, source: int, target: int) -> list[Any] | None:
        """Deliver the oldest message of a directed link, held or not; None if there is none."""
        queue = self.queues.get((source, target))
        if not queue:
            return None
        message = msgpack.unpackb(queue.popleft())
        m.check(message)
        host = self.hosts[target]
        host.node.on_batch(WorldLink(self, target, source), [message])
        return message

    def _deliver_any(self) -> bool:
        pairs = [pair for pair, queue in self.queues.items() if queue and pair not in self.held]
        if not pairs:
            return False
        self.deliver(*self.rng.choice(pairs))
        return True

    def run(self, elapsed_s: float = 0.0) -> None:
        """Deliver and run until nothing moves, then let `elapsed_s` pass with all that falls due in it."""
        end_s = self.scheduler.now_s + elapsed_s
        while True:
            while self.scheduler.turn() or self._deliver_any():
                pass
            due = [entry[0] for entry in self.scheduler.later[:1] if entry[0] <= end_s]
            if not due:
                break
            self.scheduler.now_s = max(self.scheduler.now_s, due[0])
        self.scheduler.now_s = end_s

    # -- what tests look at

    def owners(self, key: str) -> tuple[int, ...]:
        """Return a key's owners, primary first."""
        return self.hosts[0].node.placements.of(name_of(key)).owners

    def row_key(self, key: str) -> bytes:
        return self.hosts[0].node.placements.of(name_of(key)).prefix + name_of(key)

    def register(self, index: int, key: str) -> Register:
        return self.hosts[index].node.registers.get(self.row_key(key))

    def now_ms(self, index: int = 0) -> int:
        return self.hosts[index].clock.wall_ms()

    def invariants(self) -> None:
        """Check every register of every node."""
        for host in self.hosts:
            if host.is_up:
                for register in host.node.registers._cache.values():
                    register.invariants()

    # -- requests

    def ask(self, index: int, *fields: Any) -> Call:
        """Send a client's request to a node."""
        call = Call(next(self._calls))
        message = msgpack.unpackb(msgpack.packb([fields[0], call.number, *fields[1:]]))
        m.check(message)
        self.hosts[index].node.on_batch(call, [message])
        return call

    def put(self, key: str, value: bytes, at: int | None = None, **options: Any) -> Call:
        """A strong put; options as of `mutate`."""
        return self.mutate(key, m.PUT, b"\0" + value, at, **options)

    def delete(self, key: str, at: int | None = None, **options: Any) -> Call:
        """A strong delete."""
        return self.mutate(key, m.DELETE, b"", at, **options)

    def mutate(
        self,
        key: str,
        action: int,
        content: bytes,
        at: int | None = None,
        *,
        etag: str | None = None,
        create: bool = False,
        sequence: int | None = None,
        session: bytes = SESSION,
        attempt: int = 1,
        mark: int = 0,
        ttl_ms: int = 0,
        w: int = 0,
        timeout_ms: int = 5000,
        issued_at_ms: int | None = None,
    ) -> Call:
        index = self.owners(key)[0] if at is None else at
        check = m.CHECK_ABSENT if create else m.CHECK_NONE if etag is None else m.CHECK_ETAG
        issued = self.now_ms(index) if issued_at_ms is None else issued_at_ms
        number = next(_sequences) if sequence is None else sequence
        return self.ask(
            index, m.MUTATE, name_of(key), session, number, attempt, mark, issued, issued + timeout_ms,
            action, check, etag or "", content, ttl_ms, w,
        )  # fmt: skip

    def get(self, key: str, at: int | None = None, *, strong: bool = True, r: int = 1, timeout_ms: int = 5000) -> Call:
        index = self.owners(key)[0] if at is None else at
        return self.ask(index, m.GET, name_of(key), int(strong), r, timeout_ms, 0)

    def write(
        self,
        key: str,
        value: bytes | None,
        at: int | None = None,
        *,
        w: int = 1,
        ttl_ms: int = 0,
        token: bytes = b"",
        stamp: bytes = b"",
        timeout_ms: int = 5000,
    ) -> Call:
        """An eventual put (or delete, if `value` is None)."""
        index = self.owners(key)[0] if at is None else at
        content = b"" if value is None else b"\0" + value
        return self.ask(index, m.WRITE, name_of(key), w, timeout_ms, content, ttl_ms, token, stamp)

    def read(self, key: str, at: int | None = None, **options: Any) -> bytes | None:
        """Run a strong read to its end and return the value."""
        call = self.get(key, at, **options)
        self.run()
        if call.answer is None:
            self.run(6.0)
        return call.value


def name_of(key: str) -> bytes:
    return b"default\0" + key.encode()


def body(version: bytes, value: bytes) -> bytes:
    return body_pack(version, 0, 0, b"\0" + value)  # type: ignore[arg-type]


def _fail(error: BaseException) -> None:
    raise AssertionError(f"the engine failed: {error}")


__all__ = ["EPOCH", "SESSION", "Call", "World", "body", "name_of"]
