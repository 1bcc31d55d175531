"""A scripted cluster: real sockets, the real wire format, and answers that a test decides.

By default it behaves like a small correct store in memory (with the request window of R23), so that a test states only
what goes wrong.  A node's `rule` sees each request first: it returns an answer, `HOLD` (say nothing), `DROP` (cut the
connection), or None (behave).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest

import kvclient
from kvclient.wire import frames
from kvclient.wire import messages as m
from kvclient.wire.values import ENTRY_ABSENT, VERSION_BYTES, body_pack, etag_parse

HOLD = "hold"
DROP = "drop"
FRAME_BYTES_MAX = 64 << 20

Rule = Callable[[list[Any]], Any]


class Node:
    """One node of the scripted cluster."""

    HOLD, DROP = HOLD, DROP

    def __init__(self, cluster: ScriptedCluster, index: int) -> None:
        self.cluster = cluster
        self.index = index
        self.name = f"n{index + 1}"
        self.port = 0
        self.requests: list[list[Any]] = []
        self.hellos: list[dict[str, Any]] = []
        self.rule: Rule | None = None
        self.welcome_changes: dict[str, Any] = {}
        self.answers_pings = True
        self.held: list[tuple[Peer, list[Any]]] = []
        self.peers: set[Peer] = set()
        self._server: asyncio.Server | None = None
        self._news = asyncio.Condition()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for peer in list(self.peers):
            peer.transport.abort()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kinds(self, *kinds: int) -> list[list[Any]]:
        """Return the requests of these kinds, or all, in the order in which they came."""
        return [request for request in self.requests if request[0] in kinds or not kinds]

    def welcome(self) -> dict[str, Any]:
        facts = {
            "protocol": m.PROTOCOL_VERSION,
            "cluster": "test",
            "name": self.name,
            "node_id": self.index + 1,
            "incarnation": 1,
            "process": 1,
            "epoch": 0,
            "time_ms": self.cluster.now_ms(),
            "serving": True,
            "nodes": [[node.name, "127.0.0.1", node.port] for node in self.cluster.nodes],
            "partitions": len(self.cluster.preference),
            "preference": self.cluster.preference,
            "stores": self.cluster.stores,
            "limits": self.cluster.limits,
        }
        return {**facts, **self.welcome_changes}

    def take(self, peer: Peer, message: list[Any]) -> None:
        if message[0] == m.HELLO:
            self.hellos.append(message[1])
            peer.send((m.WELCOME, self.welcome()))
        elif message[0] == m.PING:
            if self.answers_pings:
                peer.send((m.PONG, message[1], self.cluster.now_ms()))
        elif message[0] != m.GOODBYE:
            self.requests.append(message)
            self._answer(peer, message)
            self._tell()

    def _answer(self, peer: Peer, message: list[Any]) -> None:
        answer = self.rule(message) if self.rule is not None else None
        if answer is None:
            answer = self.cluster.answer(message)
        if answer == DROP:
            peer.transport.abort()
        elif answer == HOLD:
            self.held.append((peer, message))
        else:
            peer.send(answer)

    def release(self) -> None:
        """Answer what was held, as a correct store."""
        held, self.held = self.held, []
        for peer, message in held:
            peer.send(self.cluster.answer(message))

    def _tell(self) -> None:
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def received(self, count: int, *kinds: int) -> None:
        """Wait until so many requests (of these kinds) have come."""
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: len(self.kinds(*kinds)) >= count)

    @staticmethod
    def failed(
        message: list[Any], code: str, outcome: str = "not applied", settled: int = 0, text: str = "scripted"
    ) -> tuple[Any, ...]:
        return (m.FAILED, message[1], code, outcome, settled, text)


class Peer(asyncio.Protocol):
    """One client's connection to a scripted node."""

    transport: asyncio.Transport

    def __init__(self, node: Node) -> None:
        self.node = node
        self.decoder = frames.Decoder(FRAME_BYTES_MAX)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.node.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.node.peers.discard(self)

    def data_received(self, data: bytes) -> None:
        for batch in self.decoder.feed(data):
            for message in batch:
                m.check(message)
                self.node.take(self, message)

    def send(self, message: tuple[Any, ...]) -> None:
        self.transport.write(frames.encode([message], FRAME_BYTES_MAX))


class ScriptedCluster:
    """Nodes that share one correct store."""

    def __init__(self, nodes: int = 3, partitions: int = 8) -> None:
        self.nodes = [Node(self, index) for index in range(nodes)]
        self.preference = [[(first + step) % nodes for step in range(nodes)] for first in range(partitions)]
        replicas = min(3, nodes)
        settings = {"replicas": replicas, "q1": replicas // 2 + 1, "q2": replicas // 2 + 1, "r": 1, "w": 1}
        settings |= {"consistency": "eventual", "concurrency": "last-write", "durability": "fsync", "mix": "allow"}
        self.stores: dict[str, dict[str, Any]] = {"default": {**settings, "ttl_s": 0}}
        self.limits: dict[str, Any] = {
            "value_bytes_max": 1 << 20,
            "timeout_s": 5.0,
            "timeout_s_max": 3600.0,
            "link_requests_max": 4096,
            "scan_page_max": 1000,
        }
        self.clock_ahead_ms = 0
        self.rows: dict[bytes, bytes] = {}
        self.window: dict[tuple[bytes, int], tuple[Any, ...]] = {}
        self.changes = 0
        self.clients: list[kvclient.Kv] = []

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()

    async def connect(self, **options: Any) -> kvclient.Kv:
        kv = await kvclient.connect([node.address for node in self.nodes if node.port], **options)
        self.clients.append(kv)
        return kv

    async def close(self) -> None:
        for kv in self.clients:
            await kv.close()
        for node in self.nodes:
            await node.stop()

    def now_ms(self) -> int:
        return int(time.time() * 1000) + self.clock_ahead_ms

    def everywhere(self, rule: Rule | None) -> None:
        for node in self.nodes:
            node.rule = rule

    def partition(self, store: str, key: str) -> int:
        from xxhash import xxh3_64_intdigest

        return int(xxh3_64_intdigest(store.encode() + b"\0" + key.encode()) % len(self.preference))

    def primary(self, key: str, store: str = "default") -> Node:
        return self.nodes[self.preference[self.partition(store, key)][0]]

    def requests(self, *kinds: int) -> list[list[Any]]:
        return [request for node in self.nodes for request in node.kinds(*kinds)]

    # -- a correct store

    def answer(self, message: list[Any]) -> tuple[Any, ...]:
        kind, number = message[0], message[1]
        if kind == m.GET:
            return (m.ITEM, number, self.rows.get(message[2], b""), {"asked": self.changes} if message[6] else {})
        if kind == m.MUTATE:
            return self._mutate(message)
        if kind == m.WRITE:
            return self._write(message)
        if kind == m.STAMP:
            return (m.STAMPED, number, bytes([ENTRY_ABSENT]) + self._eventual_version())
        if kind == m.SCAN:
            return self._scan(message)
        peers = {node.name: "up" for node in self.nodes}
        return (m.RESULT, number, {"state": "serving", "agree": True, "peers": peers})

    def _mutate(self, message: list[Any]) -> tuple[Any, ...]:
        _, number, name, session, sequence, _, _, issued, _, action, check, etag, content, ttl_ms, _ = message
        known = self.window.get((session, sequence))
        if known is not None:
            return (known[0], number, *known[2:])
        steps = [[action, check, etag, content, ttl_ms]]
        if action == m.TRANSACT:
            steps = msgpack.unpackb(content)
        body = self.rows.get(name, b"")
        for step_action, step_check, step_etag, step_content, step_ttl_ms in steps:
            stands = etag_parse(step_etag) == body[:VERSION_BYTES] if body else False
            if (step_check == m.CHECK_ABSENT and body) or (step_check == m.CHECK_ETAG and not stands):
                return (m.CONFLICT, number, self.rows.get(name, b""))
            expires = issued + step_ttl_ms if step_ttl_ms else 0
            version = self._strong_version()
            body = body_pack(version, expires, issued, step_content) if step_action == m.PUT else b""
        self._set(name, body)
        answer = (m.APPLIED, number, version, 0)
        self.window[session, sequence] = answer
        return answer

    def _write(self, message: list[Any]) -> tuple[Any, ...]:
        _, number, name, _, _, content, ttl_ms, _, stamp = message
        version = stamp[1:] if stamp else self._eventual_version()
        ms = int.from_bytes(version[28:34], "big")
        self._set(name, body_pack(version, ms + ttl_ms if ttl_ms else 0, ms, content) if content else b"")
        return (m.APPLIED, number, version, 0)

    def _scan(self, message: list[Any]) -> tuple[Any, ...]:
        _, number, store, prefix, partitions, after, limit, values = message
        rows = []
        for name in sorted(self.rows):
            row_store, key = name.decode().split("\0", 1)
            is_here = self.partition(row_store, key) in partitions
            if row_store == store and is_here and key.startswith(prefix) and key > after:
                rows.append([key, self.rows[name] if values else b""])
        return (m.PAGE, number, rows[:limit], int(len(rows) > limit))

    def _set(self, name: bytes, body: bytes) -> None:
        if body:
            self.rows[name] = body
        else:
            self.rows.pop(name, None)

    def _strong_version(self) -> Any:
        self.changes += 1
        return self.changes.to_bytes(8, "big") + bytes(VERSION_BYTES - 8)

    def _eventual_version(self) -> Any:
        self.changes += 1
        ms = self.now_ms().to_bytes(6, "big")
        return bytes(28) + ms + self.changes.to_bytes(2, "big") + bytes(8)


@pytest.fixture
async def cluster() -> AsyncIterator[ScriptedCluster]:
    scripted = ScriptedCluster()
    await scripted.start()
    yield scripted
    await scripted.close()


@pytest.fixture
async def kv(cluster: ScriptedCluster) -> kvclient.Kv:
    return await cluster.connect()


@pytest.fixture
def make_cluster() -> type[ScriptedCluster]:
    return ScriptedCluster
