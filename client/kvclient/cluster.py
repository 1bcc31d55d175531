"""The client's view of a cluster: one link to each of its nodes, kept up in the background.

Decides: when to connect and when again (jittered, 0.05 to 2 seconds), which table of partitions stands, when a node
that did not serve may be asked again.  Leaves to others: what is asked (`store`), and what is done about failures
(`retries`).

Every background job is a child of one task group, held by one task, which `close` ends.  It may be shared by any number
of tasks of one event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from kvclient import chance
from kvclient.addresses import Address, Seeds
from kvclient.connection import TICK_S, Link
from kvclient.dial import dial
from kvclient.errors import NotConnected
from kvclient.routing import Router, Table
from kvclient.session import IssuedIds, Seen, Session
from kvclient.wire.messages import RESULT, STATUS

RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 2.0
STEADY_S = 1.0
"""A link that lived so long starts the next backoff from the beginning."""
WARM_UP_S = 0.5
"""How long `open` waits for the other nodes once one has answered."""
PROBE_TICKS = 2
"""A node that does not serve is asked for its state every so many ticks."""


class Cluster:
    """Links, table and session of one client.  Use `await Cluster.open(...)`."""

    def __init__(self, seeds: Seeds, connect_timeout_s: float) -> None:
        self.seeds = seeds
        self.loop = asyncio.get_running_loop()
        self.session = Session()
        self.seen = Seen()
        self.issued = IssuedIds()
        self.router: Router | None = None
        self.is_closed = False
        self._connect_timeout_s = connect_timeout_s
        self._group: asyncio.TaskGroup | None = None
        self._root: asyncio.Task[None] | None = None
        self._keepers: dict[Address, asyncio.Task[None]] = {}
        self._tried: dict[Address, asyncio.Future[NotConnected | None]] = {}
        self._changed: asyncio.Future[None] = self.loop.create_future()

    @classmethod
    async def open(cls, seeds: Seeds, connect_timeout_s: float) -> Cluster:
        """Connect to the first node that answers, then to all nodes that it names.

        Raises NotConnected if none of the seeds can be used, naming each with its reason.
        """
        cluster = cls(seeds, connect_timeout_s)
        ready: asyncio.Future[None] = cluster.loop.create_future()
        cluster._root = cluster.loop.create_task(cluster._run(ready), name="kvclient")
        try:
            await ready
            await cluster._first_answer()
        except BaseException:
            await cluster.close()
            raise
        return cluster

    @property
    def table(self) -> Table:
        """The table of partitions that stands."""
        return self.known_router.table

    @property
    def known_router(self) -> Router:
        """The router, which is there once `open` has returned."""
        assert self.router is not None
        return self.router

    @property
    def links(self) -> dict[str, Link]:
        """The open links by node name."""
        return {} if self.router is None else self.router.links

    def pick(self, name: bytes) -> Link | None:
        """Return the link for a request on `name`, or None if no node serves."""
        return None if self.router is None else self.router.pick(name)

    async def close(self) -> None:
        """End every link and every background job.  What is in flight ends as lost.  Idempotent."""
        self.is_closed = True
        for link in list(self.links.values()):
            link.close("the client was closed")
        self.on_change()
        root, self._root = self._root, None
        if root is not None:
            root.cancel()
            await asyncio.wait((root,))
            if not root.cancelled() and (defect := root.exception()) is not None:
                raise defect

    def retire(self, session: Session) -> None:
        """Begin a new session, because an operation of this one ended without a definite outcome."""
        if self.session is session:
            self.session = Session()

    def on_change(self) -> None:
        """Take notice that a link came, went, or became better or worse."""
        if self.router is not None:
            self.router.refresh()
        if not self._changed.done():
            self._changed.set_result(None)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when a link has changed, or after `timeout_s`."""
        if self._changed.done():
            self._changed = self.loop.create_future()
        await asyncio.wait((self._changed,), timeout=timeout_s)

    # -- background

    async def _run(self, ready: asyncio.Future[None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for address in self.seeds.addresses:
                self._keep(address)
            group.create_task(self._tend())
            if not ready.done():
                ready.set_result(None)

    async def _first_answer(self) -> None:
        """Wait until one seed was welcomed, then a moment for the other nodes."""
        waiting = set(self._tried.values())
        while waiting and self.router is None:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self.router is None:
            reasons = [str(tried.result()) for tried in self._tried.values()]
            raise NotConnected("; ".join(reasons))
        nodes = [self._tried[address] for address in self.table.addresses if address in self._tried]
        if nodes:
            await asyncio.wait(nodes, timeout=min(WARM_UP_S, self._connect_timeout_s))

    def _keep(self, address: Address) -> None:
        """Keep a link to `address` from now on."""
        if address not in self._keepers and self._group is not None:
            self._tried[address] = self.loop.create_future()
            self._keepers[address] = self._group.create_task(self._keeper(address))

    async def _keeper(self, address: Address) -> None:
        backoff_s = RECONNECT_MIN_S
        while self.router is None or address in self.seeds.addresses or address in self.table.addresses:
            connected_at = self.loop.time()
            await self._stay_connected(address)
            if self.loop.time() - connected_at >= STEADY_S + self._connect_timeout_s:
                backoff_s = RECONNECT_MIN_S
            await asyncio.sleep(backoff_s * (0.5 + chance.fraction() / 2))
            backoff_s = min(2 * backoff_s, RECONNECT_MAX_S)
        del self._keepers[address]  # the node has left

    async def _stay_connected(self, address: Address) -> None:
        """Connect, and return when that node has no link any more, or could not be reached."""
        cluster_name = self.seeds.cluster if self.router is None else self.table.cluster
        try:
            link = await dial(address, cluster_name, self._connect_timeout_s, self.on_change)
        except NotConnected as error:
            self._report(address, error)
            return
        try:
            self._adopt(link)
            self._report(address, None)
            stands = self.links[link.name]
            if stands is not link:  # the same node under another address, which is as good
                link.close("this client is connected already")
            await asyncio.wait((stands.lost,))
        except NotConnected as error:
            self._report(address, error)
        finally:
            link.close("the client has no use for this connection")
            if self.links.get(link.name) is link:
                del self.links[link.name]
                self.on_change()

    def _report(self, address: Address, failure: NotConnected | None) -> None:
        """Tell `open` how the first attempt at an address went."""
        tried = self._tried[address]
        if not tried.done():
            tried.set_result(failure)

    def _adopt(self, link: Link) -> None:
        """Use a new link, and what its node says about the cluster.  Raises NotConnected if that is unusable."""
        table = Table(link.welcomed.result())
        if self.router is None:
            self.router = Router(table)
        elif table.epoch >= self.router.table.epoch:
            self.router.table = table
        self.links.setdefault(link.name, link)
        self.on_change()
        for name, address in zip(self.table.names, self.table.addresses, strict=True):
            if name not in self.links:
                self._keep(address)

    async def _tend(self) -> None:
        """Look after silent links, and ask nodes that do not serve whether they do now."""
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            for link in list(self.links.values()):
                link.tick()
                if ticks % PROBE_TICKS == 0 and link.is_open and not link.is_serving:
                    self._probe(link)

    def _probe(self, link: Link) -> None:
        def judge(answer: asyncio.Future[list[Any]]) -> None:
            if not answer.cancelled() and answer.result()[0] == RESULT and answer.result()[2].get("state") == "serving":
                link.start_serving()

        if link.in_flight < link.in_flight_max:
            link.ask([STATUS, 0], self.loop.time() + PROBE_TICKS * TICK_S).add_done_callback(judge)
