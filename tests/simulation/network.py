"""The network between hosts: who listens, how connections come about, and the faults of each directed pair of hosts.

Decides: which faults stand between which hosts, and whether a connection is made, refused or never answered.  Leaves to
others: what a connection carries (`transport`), when faults begin and end (the scenario).

Hosts are named: a node by its id, a client as it was spawned.  `wire(source, target)` holds everything that can be
wrong in one direction; the calls below set the common faults.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from simulation.lives import Life
from simulation.loop import SimLoop
from simulation.transport import Flow, OnBytes, SimTransport, Wire

SOCKET_BYTES = 128 * 1024
SYN_AGAIN_S = 0.5
"""A connection request that is not answered is sent again so often, until whoever asks gives up."""

Address = tuple[str, int]
Factory = Callable[[], asyncio.BaseProtocol]


class SimServer:
    """A listening socket: what the product uses of `asyncio.Server`."""

    def __init__(self, network: SimNetwork, life: Life, factory: Factory, address: Address) -> None:
        self._network = network
        self.life, self.factory, self.address = life, factory, address

    @property
    def sockets(self) -> tuple[SimServer, ...]:
        return (self,)

    def getsockname(self) -> Address:
        return self.address

    def close(self) -> None:
        self._network.forget(self)

    def is_serving(self) -> bool:
        return self._network.listens(self)


class SimNetwork:
    """Wires, listeners and connections."""

    def __init__(self, loop: SimLoop, rng: Random, names: dict[Address, str]) -> None:
        self.latency_s = 0.0002
        self.jitter_s = 0.0002
        """What a wire begins with."""
        self.socket_bytes = SOCKET_BYTES
        """How much the operating system takes from a writer ahead of the reader."""
        self.on_bytes: OnBytes | None = None
        """Sees what arrives: source, target, number of the connection, bytes."""
        self._loop, self._rng, self._names = loop, rng, names
        self._wires: dict[tuple[str, str], Wire] = {}
        self._listeners: dict[Address, SimServer] = {}
        self._transports: dict[Life, list[SimTransport]] = {}
        self._dark: dict[str, list[SimTransport]] = {}
        self._connections = 0

    # -- faults

    def wire(self, source: str, target: str) -> Wire:
        """Return the wire from one host to another."""
        wire = self._wires.get((source, target))
        if wire is None:
            wire = self._wires[source, target] = Wire(source, target, self.latency_s, self.jitter_s)
        return wire

    def block(self, source: str, target: str) -> None:
        """Let nothing from `source` arrive at `target`; what was sent waits."""
        self.wire(source, target).is_blocked = True

    def unblock(self, source: str, target: str) -> None:
        """Let bytes through again, also those that wait."""
        self.wire(source, target).is_blocked = False

    def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Block everything between two groups of hosts, both ways."""
        others = list(other)
        for source in one:
            for target in others:
                self.block(source, target)
                self.block(target, source)

    def heal(self) -> None:
        """End every fault of every wire."""
        for wire in self._wires.values():
            wire.heal(self.latency_s, self.jitter_s)

    def reset(self, one: str, other: str) -> None:
        """Reset every connection between two hosts; some of the bytes on the way are lost."""
        for flow in self._between(one, other):
            flow.cut()
            flow.reset()

    def strand(self, one: str, other: str) -> None:
        """Let every connection between two hosts go dead without a word, as a middlebox does that forgets them."""
        for flow in self._between(one, other):
            flow.is_lost = True

    def _between(self, one: str, other: str) -> list[Flow]:
        return [*self.wire(one, other).flows, *self.wire(other, one).flows]

    # -- lives

    def on_death(self, life: Life, *, silently: bool) -> None:
        """A life has ended: its connections end as the system ends them, or, `silently`, its whole machine is off."""
        for server in [server for server in self._listeners.values() if server.life is life]:
            self.forget(server)
        transports = self._transports.pop(life, [])
        if silently:
            self._dark.setdefault(life.name, []).extend(transports)
        for transport in transports:
            transport.die(silently=silently)

    def on_birth(self, life: Life) -> None:
        """The machine of a host is on (again): it answers."""
        for transport in self._dark.pop(life.name, []):
            transport.answer_again()

    # -- what the loop passes on

    def listen(self, life: Life, factory: Factory, address: Address) -> SimServer:
        """Listen.  Raises OSError if somebody else does."""
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, "the address is in use")
        server = self._listeners[address] = SimServer(self, life, factory, address)
        return server

    def forget(self, server: SimServer) -> None:
        """Stop listening."""
        if self.listens(server):
            del self._listeners[server.address]

    def listens(self, server: SimServer) -> bool:
        """Return whether connections are still taken."""
        return self._listeners.get(server.address) is server

    async def connect(self, life: Life, factory: Factory, address: Address) -> tuple[SimTransport, Any]:
        """Connect to `address`, or raise ConnectionRefusedError; without an answer it waits for ever."""
        waiter: asyncio.Future[tuple[SimTransport, Any]] = self._loop.create_future()
        self._ask(life, factory, address, waiter)
        return await waiter

    def _ask(self, life: Life, factory: Factory, address: Address, waiter: asyncio.Future[Any]) -> None:
        target = self._names.get(address, "")
        there, back = self.wire(life.name, target), self.wire(target, life.name)
        at_s = self._loop.now_s + there.delay_s(self._rng)

        def arrive() -> None:
            if waiter.done() or life.is_dead:
                return
            if there.is_blocked or back.is_blocked or target in self._dark:
                loop.post(loop.kernel, loop.now_s + SYN_AGAIN_S * (0.5 + self._rng.random()), arrive)
                return
            server = self._listeners.get(address)
            if server is None or there.is_refused:
                loop.post(life, loop.now_s + back.delay_s(self._rng), refuse, waiter)
            else:
                self._accept(life, factory, server, waiter)

        loop = self._loop
        loop.post(loop.kernel, at_s, arrive)

    def _accept(self, life: Life, factory: Factory, server: SimServer, waiter: asyncio.Future[Any]) -> None:
        loop, there, back = self._loop, self.wire(life.name, server.life.name), self.wire(server.life.name, life.name)
        self._connections = number = self._connections + 1
        out = Flow(there, self._rng, number, self.on_bytes)
        into = Flow(back, self._rng, number, self.on_bytes)
        dialler = SimTransport(loop, life, into, out, self.socket_bytes)
        accepted = SimTransport(loop, server.life, out, into, self.socket_bytes)
        for flow, transport in ((out, dialler), (into, accepted)):
            self._remember(flow, transport)

        def establish() -> None:
            if waiter.done():
                dialler.abort()
            else:
                waiter.set_result((dialler, dialler.begin(factory)))

        loop.post(server.life, 0.0, accepted.begin, server.factory)
        loop.post(life, loop.now_s + back.delay_s(self._rng), establish)

    def _remember(self, flow: Flow, transport: SimTransport) -> None:
        wire, life = flow.wire, transport.life
        wire.flows = {held: None for held in wire.flows if not held.is_over}
        wire.flows[flow] = None
        transports = self._transports.get(life, [])
        self._transports[life] = [held for held in transports if not held.is_over] + [transport]


def refuse(waiter: asyncio.Future[Any]) -> None:
    """Answer a connection request where nobody listens."""
    if not waiter.done():
        waiter.set_exception(ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there"))
