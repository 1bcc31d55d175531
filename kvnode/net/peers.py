"""One dialled link to every other node: kept up, measured, and given up when it falls silent.

Decides: when to dial, when a link counts as up, how far the other's clock is off.  Leaves to others: whether the node
at the other end is the right one (`PeerHandler.accept_welcome`, R1) and what to do about a clock (R4).

Invariants: `links[i]` is set exactly between `on_peer_up(i)` and `on_peer_lost(i)`; at most one connection or attempt
per node exists at any moment.  A measured offset outlives its link (R4), and the time that this node goes by: samples
are held against the monotonic clock, so when our wall clock is set all of them tell of it at once, not one by one.

Dialling again waits a random time whose upper end doubles from `reconnect_min_s` to `reconnect_max_s`, so that nodes
that lost each other do not meet in storms; the first answer to a PING on a link sets it back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any, Final

from kvclient.wire.frames import Message
from kvclient.wire.messages import HELLO, PING, PONG, WELCOME_FIELDS
from kvnode.config import Limits
from kvnode.net.connection import Link, PeerHandler
from kvnode.net.listener import NODE_SHAPES, greeting_check, node_fields_check
from kvnode.net.sweep import Sweep
from kvnode.runtime import Runtime, TimerHandle

_SAMPLES: Final = 5
_CLOSE: Final = 0.25
"""Of max_offset: a sample of a shorter round trip counts as exact."""
_RTT_S_MAX: Final = 60.0
"""An answer later than this says nothing about a clock."""
_DOUBLINGS_MAX: Final = 20

_log = logging.getLogger(__name__)


class _Peer:
    """What is known of one other node."""

    __slots__ = (
        "attempt", "complaint", "failures", "host", "index", "port", "rough_ms", "rtt_ms", "samples_ms", "timer",
    )  # fmt: skip

    def __init__(self, index: int, host: str, port: int) -> None:
        self.index, self.host, self.port = index, host, port
        self.failures = 0
        self.complaint = ""
        self.samples_ms: deque[float] = deque(maxlen=_SAMPLES)
        """How far its wall clock was ahead of our monotonic one."""
        self.rough_ms: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        """The same from slow answers since the last quick one, and by how much each may be off."""
        self.rtt_ms: float | None = None
        self.attempt: asyncio.Task[None] | None = None
        self.timer: TimerHandle | None = None


class Peers:
    """Keeps a link to every node of `addresses` (host and port by node index) but our own.

    `links[i]` is node i's link, or None while it is not up; it may be read at any time.  Just after a link has ended it
    may still stand there: its `send` returns False.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        own_index: int,
        handler: PeerHandler,
        limits: Limits,
        runtime: Runtime,
    ) -> None:
        self.links: list[Link | None] = [None] * len(addresses)
        self._handler, self._limits, self._runtime = handler, limits, runtime
        self._peers = {
            index: _Peer(index, host, port) for index, (host, port) in enumerate(addresses) if index != own_index
        }
        self._sweep = Sweep(runtime, limits.heartbeat_s, self._heartbeat)
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup
        self._is_closing = False

    async def start(self) -> None:
        """Begin to dial every node; returns at once.  The task that calls this must also call `close`."""
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._sweep.start()
        for peer in self._peers.values():
            self._dial(peer)

    async def close(self) -> None:
        """Say GOODBYE to every node and dial no more."""
        self._is_closing = True
        for peer in self._peers.values():
            if peer.timer is not None:
                peer.timer.cancel()
            if peer.attempt is not None:
                peer.attempt.cancel()
        await self._sweep.close("shutdown", "the node is shutting down")
        await self._stack.aclose()

    def offset_ms(self, index: int) -> tuple[int, int] | None:
        """Return how far node `index`'s wall clock is ahead of our time, and by how much that may be off; None: nothing
        was measured.

        It is the median of the last quick answers, unless a slow one since then proves that it is so no more: that is
        off by half its round trip at most.
        """
        peer, clock = self._peers[index], self._runtime.clock
        ahead_ms, error_ms = (median(peer.samples_ms), 0.0) if peer.samples_ms else (0.0, math.inf)
        if peer.rough_ms:
            rough_ms, rough_error_ms = min(peer.rough_ms, key=lambda sample: sample[1])
            if error_ms > rough_error_ms or abs(rough_ms - ahead_ms) > rough_error_ms:
                ahead_ms, error_ms = rough_ms, rough_error_ms
        if error_ms == math.inf:
            return None
        return round(ahead_ms + clock.monotonic_s() * 1e3 - clock.wall_ms()), math.ceil(error_ms)

    def rtt_ms(self, index: int) -> float | None:
        """Return the last measured round trip to node `index` in milliseconds; None: none yet."""
        return self._peers[index].rtt_ms

    def nudge(self, index: int) -> None:
        """Dial node `index` at once if its next attempt was put off: it has just dialled us, so it is there."""
        peer = self._peers[index]
        if peer.timer is not None:
            peer.timer.cancel()
            peer.failures = 0
            self._dial(peer)

    # -- what links tell their owner

    def on_connected(self, link: Link) -> None:
        """Introduce ourselves."""
        self._sweep.links[link] = None
        if self._is_closing:
            link.close("shutdown", "the node is shutting down")
        else:
            link.send((HELLO, self._handler.hello()))

    def on_greeting(self, link: Link, message: list[Any]) -> None:
        """Judge a WELCOME; if it is good, the peer is up."""
        welcome = message[1]
        greeting_check("WELCOME", welcome, WELCOME_FIELDS)
        node_fields_check("WELCOME", welcome)
        link.kind, link.facts = "node", welcome
        refusal = self._handler.accept_welcome(link.index, welcome)
        if refusal is not None:
            link.close(refusal.code, refusal.text)
            return
        limits = self._limits
        silence_s_max = max(limits.link_silence_s, 2 * limits.heartbeat_s)
        link.admit("node", NODE_SHAPES, limits.frame_bytes_max, self._handler.on_batch, silence_s_max)
        self._ping(link)
        self.links[link.index] = link
        self._peers[link.index].complaint = ""
        self._handler.on_peer_up(link.index, link)

    def answer_ping(self, link: Link, sent_ns: int) -> Message:
        """Answer, though the side that dialled asks."""
        return (PONG, sent_ns, self._runtime.clock.machine_ms())

    def on_pulse(self, link: Link, message: list[Any]) -> None:
        """Take one sample, for the answerer read its clock about half a round trip ago, and how the node is."""
        _, sent_ns, wall_ms, *pulse = message
        clock = self._runtime.clock
        now_s = clock.monotonic_s()
        rtt_s = now_s - sent_ns / 1e9
        if not 0 <= rtt_s <= _RTT_S_MAX:
            return
        peer = self._peers[link.index]
        peer.rtt_ms = rtt_s * 1e3
        peer.failures = 0
        if self.links[link.index] is link:
            self._handler.on_heartbeat(link.index, sent_ns / 1e9, (pulse[0], pulse[1], pulse[2], pulse[3]))
        ahead_ms = wall_ms - (now_s * 1e3 - peer.rtt_ms / 2)
        if peer.rtt_ms <= _CLOSE * self._limits.max_offset_ms:
            peer.samples_ms.append(ahead_ms)
            peer.rough_ms.clear()
        else:  # one side was paused or busy, or the way is long: it is off by up to half its round trip
            peer.rough_ms.append((ahead_ms, peer.rtt_ms / 2))

    def on_ended(self, link: Link) -> None:
        """Tell the handler, and dial again."""
        peer = self._peers[link.index]
        if self.links[link.index] is link:
            self.links[link.index] = None
            self._handler.on_peer_lost(link.index, link)
        elif link.was_dismissed:
            self._handler.on_refused(link.index, link.code, link.reason)
            if link.code == "identity":
                return
        self._retry(peer, f"{link.code}: {link.reason}")
        self._handler.on_unreachable(peer.index)

    def on_disconnected(self, link: Link) -> None:
        """Forget the connection."""
        self._sweep.links.pop(link, None)

    # -- inside

    def _heartbeat(self) -> None:
        for link in self.links:
            if link is not None:
                self._ping(link)

    def _ping(self, link: Link) -> None:
        link.send((PING, int(self._runtime.clock.monotonic_s() * 1e9)))

    def _dial(self, peer: _Peer) -> None:
        peer.timer = None
        if not self._is_closing:
            peer.attempt = self._tasks.create_task(self._connect(peer), name=f"dial node {peer.index}")

    async def _connect(self, peer: _Peer) -> None:
        loop = asyncio.get_running_loop()
        make_link = lambda: Link(self, self._limits, dialled_index=peer.index)  # noqa: E731
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_s):
                await loop.create_connection(make_link, peer.host, peer.port)
        except (OSError, UnicodeError) as error:  # a timeout is an OSError
            self._retry(peer, f"cannot connect: {str(error) or 'no answer'}")
            self._handler.on_unreachable(peer.index)
        finally:
            peer.attempt = None

    def _retry(self, peer: _Peer, complaint: str) -> None:
        if self._is_closing or peer.timer is not None:
            return
        if complaint != peer.complaint:
            _log.info("node %d at %s:%d is not linked: %s", peer.index, peer.host, peer.port, complaint)
            peer.complaint = complaint
        peer.timer = self._runtime.timers.call_later(self._backoff_s(peer.failures), lambda: self._dial(peer))
        peer.failures = min(peer.failures + 1, _DOUBLINGS_MAX)

    def _backoff_s(self, failures: int) -> float:
        limits = self._limits
        longest_s = min(limits.reconnect_max_s, limits.reconnect_min_s * 2.0 ** (failures + 1))
        return limits.reconnect_min_s + (longest_s - limits.reconnect_min_s) * self._runtime.rng.random()
