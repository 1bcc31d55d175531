"""Scans: every partition's keys merged into one order, read page by page from the nodes that own them.

Decides: which node reads which partitions (each partition at its best reachable owner), one stream of pages per node,
and where a stream goes on when its node is lost: its partitions are shared out among their next owners, after the last
key that the stream had received.  So no key comes twice, and memory holds one page per stream.  Caveat: a scan is
eventual, see `Store.scan`.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterable
from typing import Any

from kvclient.cluster import Cluster
from kvclient.connection import Answer, Link
from kvclient.errors import InvalidRequest, KvError, NotConnected
from kvclient.item import Item, item_of_body
from kvclient.options import prefix_check
from kvclient.retries import REFUSALS_MAX, error_of
from kvclient.wire.messages import FAILED, PAGE, SCAN
from kvclient.wire.values import NO_VERSION


def scan(
    cluster: Cluster, store: str, prefix: str, *, after: str, values: bool, limit: int | None, timeout_s: float
) -> AsyncIterator[Item]:
    """Return an iterator over the items of a store.  Raises InvalidRequest at once, other errors while it runs."""
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidRequest(f"limit must be a number of items, 0 or more, not {limit!r:.80}")
    return _Scan(cluster, store, prefix_check(prefix), values, limit, timeout_s).items(prefix_check(after, "after"))


class _Stream:
    """Pages of some partitions from one node."""

    __slots__ = ("after", "at", "is_last", "link", "partitions", "rows")

    def __init__(self, link: Link, partitions: list[int], after: str) -> None:
        self.link = link
        self.partitions = partitions
        self.after = after
        self.rows: list[Any] = []
        self.at = 0
        self.is_last = False

    def take(self, answer: Answer) -> None:
        """Keep the rows of a page.  Raises KvError for a page that leads nowhere."""
        _, _, rows, more = answer
        for row in rows:
            if type(row) is not list or [type(field) for field in row] != [str, bytes]:
                raise KvError(f"{self.link.name} sent a page with the row {row!r:.80}, which is no key and body")
        if more and not rows:
            raise KvError(f"{self.link.name} sent an empty page that is not the last")
        self.rows, self.at, self.is_last = rows, 0, not more
        if rows:
            self.after = rows[-1][0]


class _Scan:
    def __init__(
        self, cluster: Cluster, store: str, prefix: str, values: bool, limit: int | None, timeout_s: float
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._prefix = prefix
        self._values = values
        self._limit = limit
        self._timeout_s = timeout_s
        self._heads: list[tuple[str, int, _Stream]] = []
        self._refusals: dict[str, int] = {}
        self._number = 0

    async def items(self, after: str) -> AsyncIterator[Item]:
        """Yield the items of all streams in key order, those whose key is greater than `after`."""
        left = self._limit
        if left == 0:
            return
        await self._read(after, range(self._cluster.table.partitions))
        heads = self._heads
        while heads:
            key, _, stream = heapq.heappop(heads)
            body = stream.rows[stream.at][1]
            item = item_of_body(key, body) if self._values else Item(key, NO_VERSION, b"", 0, 0)
            stream.at += 1
            if item is not None:
                yield item
                if left is not None:
                    self._limit = left = left - 1
                    if left == 0:
                        return
            await self._advance(stream)

    async def _advance(self, stream: _Stream) -> None:
        if stream.at == len(stream.rows) and not stream.is_last:
            await self._read(stream.after, stream.partitions)
        else:
            self._push(stream)

    def _push(self, stream: _Stream) -> None:
        if stream.at < len(stream.rows):
            self._number += 1
            heapq.heappush(self._heads, (stream.rows[stream.at][0], self._number, stream))

    async def _read(self, after: str, partitions: Iterable[int]) -> None:
        """Read the next page of these partitions, from as many nodes as it takes, all at once."""
        deadline_s = self._cluster.loop.time() + self._timeout_s
        todo = list(partitions)
        while todo:
            streams = await self._share_out(todo, after, deadline_s)
            asked = [(stream, self._ask(stream, deadline_s)) for stream in streams]
            todo, last = [], None
            for stream, future in asked:
                answer = await future
                if answer[0] == PAGE:
                    stream.take(answer)
                    self._refusals.pop(stream.link.name, None)
                    self._push(stream)
                else:
                    last = self._refused(stream, answer)
                    todo += stream.partitions
            if last is not None and self._is_hopeless(todo):
                raise last

    def _ask(self, stream: _Stream, deadline_s: float) -> Any:
        limit = self._cluster.table.scan_page_max
        if self._limit is not None:
            limit = min(limit, self._limit)
        values = 1 if self._values else 0
        message = [SCAN, 0, self._store, self._prefix, stream.partitions, stream.after, limit, values]
        return stream.link.ask(message, deadline_s)

    def _refused(self, stream: _Stream, answer: Answer) -> KvError:
        name = stream.link.name
        self._refusals[name] = self._refusals.get(name, 0) + 1
        error = error_of(stream.link, answer)
        if isinstance(error, InvalidRequest):
            raise error
        if answer[0] == FAILED and isinstance(error, NotConnected):
            stream.link.stop_serving()
        return error

    def _is_hopeless(self, partitions: list[int]) -> bool:
        router = self._cluster.known_router
        owners = {link.name for partition in partitions for link in router.owners(partition)}
        return bool(owners) and all(self._refusals.get(name, 0) >= REFUSALS_MAX for name in owners)

    async def _share_out(self, partitions: list[int], after: str, deadline_s: float) -> list[_Stream]:
        """Give each partition to its best owner, fewest refusals first."""
        router = self._cluster.known_router
        shares: dict[str, _Stream] = {}
        for partition in partitions:
            links = router.owners(partition)
            if links:
                link = min(links, key=lambda link: self._refusals.get(link.name, 0))
            else:  # wait for any owner: only an owner has the rows
                link = await self._await_owner(partition, deadline_s)
            shares.setdefault(link.name, _Stream(link, [], after)).partitions.append(partition)
        return list(shares.values())

    async def _await_owner(self, partition: int, deadline_s: float) -> Link:
        cluster = self._cluster
        router = cluster.known_router
        while not cluster.is_closed and (left_s := deadline_s - cluster.loop.time()) > 0:
            links = router.owners(partition)
            if links:
                return links[0]
            await cluster.wait_for_change(left_s)
        raise NotConnected(f"no replica of partition {partition} is connected: the scan cannot be complete")
