"""The way in: `connect`, and the client that it makes.

Decides: how a connection is opened and closed, and the calls that concern no key.  A client is the store "default" and
hands out the others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any

from kvclient import chance
from kvclient.addresses import Seeds, seeds_of
from kvclient.cluster import Cluster
from kvclient.connection import Answer
from kvclient.errors import NotConnected
from kvclient.health import Health, judge
from kvclient.options import Concurrency, Consistency, Copies, Options, Ttl, seconds, text
from kvclient.retries import error_of
from kvclient.session import SESSION_BYTES, OperationId
from kvclient.store import Store
from kvclient.wire.messages import RESULT, STATUS

CONNECT_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S_MAX = 3600.0
DEFAULT_STORE = "default"
HEALTH_TIMEOUT_S = 1.0
"""A node that does not say within it how it is, is not well."""


def connect(
    where: str | os.PathLike[str] | Iterable[str],
    *,
    cluster: str = "",
    consistency: Consistency | None = None,
    concurrency: Concurrency | None = None,
    r: int | None = None,
    w: Copies | None = None,
    ttl: Ttl | None = None,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT_S,
) -> Connecting:
    """Connect to a cluster: `async with connect(...) as kv`, or `kv = await connect(...)` and `await kv.close()` later.

    `where`: "host:port", several with commas or as an iterable, or the path of `cluster.toml`; one node that answers is
    enough, it names the others.  `cluster`: refuse a cluster of another name.  The other options are the defaults of
    every call (see `Store`), but `connect_timeout`: seconds that one node has for accepting and shaking hands.

    Raises InvalidRequest or ConfigError here and now; awaited, NotConnected with a reason for each address.
    """
    options = Options(consistency=consistency, concurrency=concurrency, r=r, w=w, ttl=ttl, timeout=timeout)
    seeds = seeds_of(where)
    connect_timeout_s = seconds("connect_timeout", connect_timeout, CONNECT_TIMEOUT_S_MAX)
    return Connecting(
        seeds._replace(cluster=text(cluster, "the name of a cluster") or seeds.cluster), options, connect_timeout_s
    )


class Connecting:
    """A connection to be: await it or enter it."""

    def __init__(self, seeds: Seeds, options: Options, connect_timeout_s: float) -> None:
        self._seeds = seeds
        self._options = options
        self._connect_timeout_s = connect_timeout_s
        self._client: Kv | None = None

    def __await__(self) -> Generator[Any, None, Kv]:
        return self._open().__await__()

    async def __aenter__(self) -> Kv:
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> Kv:
        cluster = await Cluster.open(self._seeds, self._connect_timeout_s)
        try:
            return Kv(cluster, self._options)
        except BaseException:
            await cluster.close()
            raise


class Kv(Store):
    """A connected client, and its store "default".  Made by `connect`; any number of tasks of one loop may share it."""

    def __init__(self, cluster: Cluster, options: Options) -> None:
        super().__init__(cluster, DEFAULT_STORE, options)

    def store(
        self,
        name: str,
        *,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
    ) -> Store:
        """Return the store `name` (1 to 128 bytes of UTF-8, no NUL) with defaults of its own.  Raises
        InvalidRequest."""
        options = Options(consistency=consistency, concurrency=concurrency, r=r, w=w, ttl=ttl, timeout=timeout)
        return Store(self._cluster, name, options.over(self._options))

    def new_operation_id(self, *, timeout: float | None = None) -> OperationId:
        """Return a fresh id for a mutation that may have to be asked for again, by whatever process.

        The operation may run until `timeout` seconds from now, and for a minute longer its outcome can be asked for.
        Give it, as it is or as text, to `operation_id=`; keep the text before the call.  Raises NotConnected.

        Given as it is to this client, it is known to be fresh, so that a refusal is definite.  Therefore the text is
        for others once this client's call has ended or its process has: none may use it beside a first call.
        Whoever gives the text is taken to be a later one, whose refusals leave earlier calls open (OutcomeUnknown).
        """
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        link = next(iter(self._cluster.links.values()), None)
        if link is None:
            raise NotConnected(
                "no node of the cluster is connected, so the time of the cluster is not known: try again"
            )
        now_ms = link.server_ms(self._loop.time())
        made = OperationId(chance.some_bytes(SESSION_BYTES), 1, now_ms, now_ms + max(1, int(timeout_s * 1000)))
        self._cluster.issued.note_issued(made)
        return made

    async def status(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:  # noqa: ASYNC109
        """Return for each node, by name, what it says about itself.

        A node that does not answer has `state` "unreachable" and the reason in `error`.
        """
        deadline_s = self._loop.time() + (self._timeout_s if timeout is None else self._checked_timeout(timeout))
        table, links = self._cluster.table, self._cluster.links
        asked: dict[str, asyncio.Future[Answer]] = {}
        for name in table.names:
            if name in links:
                asked[name] = links[name].ask([STATUS, 0], deadline_s)
        facts: dict[str, dict[str, Any]] = {}
        for name, address in zip(table.names, table.addresses, strict=True):
            link = links.get(name)
            if name not in asked:
                error = "no connection"
            elif (answer := await asked[name])[0] == RESULT:
                facts[name] = answer[2]
                continue
            else:
                error = str(error_of(link, answer))
            facts[name] = {"node": name, "address": str(address), "state": "unreachable", "error": error}
        return facts

    async def health(self, stores: Iterable[str] = (DEFAULT_STORE,), *, timeout: float = HEALTH_TIMEOUT_S) -> Health:  # noqa: ASYNC109
        """Return whether every key of these stores can be read and written with a quorum now.

        It asks every node for its state, so do not call it before each request: keep the answer for a second.
        """
        facts = await self.status(timeout=timeout)
        return judge(self._cluster.table, list(stores), facts)

    async def close(self) -> None:
        """Close every connection.  Calls in flight end as lost: NotConnected or OutcomeUnknown.  Idempotent."""
        await self._cluster.close()

    async def __aenter__(self) -> Kv:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
