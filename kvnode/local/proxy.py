"""A TCP proxy between two nodes, whose every direction can be cut, slowed, dripped or reset.

Decides: what happens to bytes on their way.  Leaves to others: which links are hurt and when (`network`).

A link leads from one node to another, and both nodes' connections use it: the dialled one's requests and the accepted
one's replies.  A cut link behaves like a network that drops packets, as TCP shows it: nothing arrives, nothing is lost,
nobody is told.  What was sent is held, in order, and arrives when the link is mended, even if its sender has died; a
connection that is begun meanwhile is not completed.  A reset is the other way to fail: both ends are told at once.

Invariants:
- Within one direction of a connection nothing is reordered, repeated or lost, save by a reset.
- A direction holds at most HELD_BYTES_MAX and one read; then its sender is not read any more.
- After `close` no socket and no timer is left.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

HELD_BYTES_MAX: Final = 4 << 20
CONNECT_TIMEOUT_S: Final = 5.0
DRIP_S: Final = 0.02
"""A drip lets through what its rate gives in this time, then waits as long."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""Closing with this sends a reset in place of an orderly end."""
_END: Final = b""


@dataclass(frozen=True, slots=True)
class Condition:
    """What becomes of bytes on a link."""

    is_cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more delay, drawn for each read; order is kept."""
    bytes_per_s: int = 0
    """0: as fast as they come."""

    @property
    def is_clear(self) -> bool:
        """True if bytes pass at once."""
        return not (self.is_cut or self.delay_s or self.jitter_s or self.bytes_per_s)


CLEAR: Final = Condition()


class Link:
    """The way from one node to another, shared by every connection between the two."""

    def __init__(self, source: str, target: str, rng: random.Random) -> None:
        self.source, self.target = source, target
        self.condition = CLEAR
        self.streams: set[Stream] = set()
        self._rng = rng
        self._mended = asyncio.Event()
        self._mended.set()

    def set(self, condition: Condition) -> None:
        """Put the link into this condition; what is held goes on as far as it may."""
        self.condition = condition
        (self._mended.clear if condition.is_cut else self._mended.set)()
        for stream in tuple(self.streams):
            stream.pump(flush=condition.is_clear)

    async def mended(self) -> None:
        """Return when the link is not cut."""
        await self._mended.wait()

    def delay_s(self) -> float:
        """Draw how long the next bytes are under way."""
        return self.condition.delay_s + self.condition.jitter_s * self._rng.random()


class Stream:
    """One direction of one connection: from the end that reads to the end that writes."""

    def __init__(self, link: Link, source: End, sink: End) -> None:
        self._link, self._source, self._sink = link, source, sink
        self._loop = asyncio.get_running_loop()
        self._held: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self._last_due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True
        link.streams.add(self)

    def send(self, data: bytes) -> None:
        """Take what the source's socket gave; nothing (`_END`) is its orderly end."""
        if not self.is_open:
            return
        condition = self._link.condition
        if condition.is_clear and not self._held and self._sink.is_connected:
            self._deliver(data)
            return
        due_s = max(self._loop.time() + self._link.delay_s(), self._last_due_s)
        step = max(1, int(condition.bytes_per_s * DRIP_S)) if condition.bytes_per_s else len(data) or 1
        for at in range(0, len(data) or 1, step):
            piece = data[at : at + step]
            self._held.append((due_s, piece))
            if condition.bytes_per_s:
                due_s += len(piece) / condition.bytes_per_s
        self._last_due_s = due_s
        self.held_bytes += len(data)
        self.pump()

    def pump(self, *, flush: bool = False) -> None:
        """Deliver what is due; all of it, if the link has become clear (`flush`)."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link.condition.is_cut or not self._sink.is_connected:
            return
        now_s = self._loop.time()
        while self._held and (flush or self._held[0][0] <= now_s):
            _, data = self._held.popleft()
            self.held_bytes -= len(data)
            self._deliver(data)
        if self._held:
            self._timer = self._loop.call_at(self._held[0][0], self.pump)
        self.throttle()

    @property
    def is_ending(self) -> bool:
        """True while the source's end is on its way."""
        return bool(self._held) and not self._held[-1][1]

    def throttle(self) -> None:
        """Read from the source only while there is room for what it says."""
        self._source.read(not self._sink.is_full and self.held_bytes <= HELD_BYTES_MAX)

    def _deliver(self, data: bytes) -> None:
        if data:
            self._sink.write(data)
        else:
            self.close()
            self._sink.end()

    def close(self) -> None:
        """Forget what is held; nothing is delivered any more."""
        self.is_open = False
        self._held.clear()
        self._link.streams.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class End(asyncio.Protocol):
    """One socket of a proxied connection."""

    def __init__(self, connection: Connection) -> None:
        self.out: Stream
        """Takes what this socket's node says."""
        self.into: Stream
        """Brings what it is told."""
        self.is_connected = False
        self.is_full = False
        self._connection = connection
        self._transport: asyncio.Transport
        self._is_reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_connected = True
        self._connection.on_made(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.out.send(data)
        self.out.throttle()

    def eof_received(self) -> bool:
        """Pass the end on; the other direction may go on, if there is one."""
        self.out.send(_END)
        return self._connection.far.is_connected

    def pause_writing(self) -> None:
        """The node does not read fast enough."""
        self.is_full = True
        self.into.throttle()

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_full = False
        self.into.throttle()

    def connection_lost(self, error: Exception | None) -> None:
        """What this node had said still arrives, and then the end; what it was to be told is void."""
        self.is_connected = False
        self.into.close()
        if self.out.is_open:
            self.out.send(_END)
        self._connection.on_lost()

    def write(self, data: bytes) -> None:
        """Send to the node."""
        if self.is_connected:
            self._transport.write(data)

    def end(self) -> None:
        """Tell the node that nothing follows; once both have been told, the connection is over."""
        if not self.out.is_open:
            self._connection.close()
        elif self.is_connected:
            try:
                self._transport.write_eof()
            except OSError:  # the node has reset it, which we have not read yet
                self._transport.abort()

    def close(self) -> None:
        """Close the socket when everything is sent."""
        if self.is_connected:
            self._transport.close()

    def read(self, wanted: bool) -> None:
        """Read from the socket, or let the node wait."""
        if wanted is self._is_reading or not self.is_connected or self._transport.is_closing():
            return
        self._is_reading = wanted
        (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def reset(self) -> None:
        """Break the connection so that the node is told at once."""
        if self.is_connected:
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self._transport.abort()


class Connection:
    """A connection through a proxy: the dialler's socket, the target's, and a stream each way."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.near, self.far = End(self), End(self)
        self.near.out = self.far.into = Stream(proxy.outward, self.near, self.far)
        self.far.out = self.near.into = Stream(proxy.homeward, self.far, self.near)
        self._task: asyncio.Task[None] | None = None

    def on_made(self, end: End) -> None:
        """The dialler is there: reach its target.  The target is there: deliver what waited."""
        if end is self.near:
            self._proxy.connections.add(self)
            self._task = self._proxy.tasks.create_task(self._reach())
        else:
            self.near.out.pump()

    async def _reach(self) -> None:
        """Connect to the target as soon as both links are mended, unless the dialler gives up before."""
        proxy = self._proxy
        try:
            await proxy.outward.mended()
            await proxy.homeward.mended()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(lambda: self.far, *proxy.target)
        except OSError:  # a timeout is one: nobody listens there
            self.near.reset()

    def on_lost(self) -> None:
        """One socket has gone: without the dialler there is nobody to reach a target for."""
        if self._task is not None and not self.near.is_connected:
            self._task.cancel()
        if not (self.near.is_connected or self.far.is_connected):
            self.reset()

    def close(self) -> None:
        """End both sockets in order."""
        self.near.close()
        self.far.close()

    def reset(self) -> None:
        """Break both ends."""
        if self._task is not None:
            self._task.cancel()
        for end in (self.near, self.far):
            end.out.close()
            end.reset()
        self._proxy.connections.discard(self)


class Proxy:
    """Listens for one node in place of another: what `source` dials to reach `target`."""

    def __init__(self, outward: Link, homeward: Link, target: tuple[str, int], tasks: asyncio.TaskGroup) -> None:
        self.outward, self.homeward, self.target, self.tasks = outward, homeward, target, tasks
        self.connections: set[Connection] = set()
        self.host, self.port = "127.0.0.1", 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a port that is free."""
        accept: Callable[[], End] = lambda: Connection(self).near  # noqa: E731
        self._server = await asyncio.get_running_loop().create_server(accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """Break every connection; the next ones go through."""
        for connection in tuple(self.connections):
            connection.reset()

    def close(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        self.reset()
