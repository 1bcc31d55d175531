"""One connection: two transports, and between them a flow of bytes each way, as TCP would carry them.

Decides: what a protocol is told and when, given the wire's delays and faults; what each end still hears when the other
closes, resets or dies.  Leaves to others: which faults stand (`network`), what the bytes mean (the product).

- A flow keeps order.  Bytes on a blocked wire wait, as TCP would send them again; they never reach a later connection.
- The first `socket_bytes` that have not arrived are the operating system's; what is beyond is the transport's write
  buffer, with the high and low water marks of asyncio.
- Whoever closes with bytes unread, or gets bytes after closing, resets the other side; a reset may overtake bytes.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from math import inf, log
from random import Random
from typing import Any, cast

from simulation.lives import Life
from simulation.loop import SimLoop
from xxhash import xxh3_64_intdigest

RETRANSMIT_S, RETRANSMIT_S_MAX = 0.2, 5.0
PIECES_MAX = 64
"""A write falls into at most so many pieces: a large value must not make a run endless."""

OnBytes = Callable[[str, str, int, bytes], None]


class Wire:
    """What happens to bytes from one host to another.  Anything may be set at any time; it holds for what comes."""

    __slots__ = (
        "_is_blocked",
        "bytes_per_s",
        "flows",
        "is_refused",
        "jitter_s",
        "latency_s",
        "loss",
        "piece_bytes_max",
        "source",
        "target",
    )

    def __init__(self, source: str, target: str, latency_s: float, jitter_s: float) -> None:
        self.source, self.target = source, target
        self.latency_s = latency_s
        """The least time that anything takes."""
        self.jitter_s = jitter_s
        """The mean of what comes on top; it has a long tail."""
        self.loss = 0.0
        """Probability that a piece must be sent again, which takes `RETRANSMIT_S`, then twice that, and so on."""
        self.piece_bytes_max = 0
        """Pieces of 1 to so many bytes arrive one by one; 0: as they were written."""
        self.bytes_per_s = inf
        self._is_blocked = False
        self.is_refused = False
        """Connections are refused, as if nobody listened."""
        self.flows: dict[Flow, None] = {}

    @property
    def is_blocked(self) -> bool:
        """True: nothing arrives, and nobody is told; what waits goes on afterwards."""
        return self._is_blocked

    @is_blocked.setter
    def is_blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        for flow in tuple(self.flows):
            flow.arm()
            flow.on_reset()

    def heal(self, latency_s: float, jitter_s: float) -> None:
        """End every fault."""
        self.latency_s, self.jitter_s, self.loss = latency_s, jitter_s, 0.0
        self.piece_bytes_max, self.bytes_per_s = 0, inf
        self.is_refused = self.is_blocked = False

    def delay_s(self, rng: Random) -> float:
        """Draw the time that one piece takes."""
        delay_s = self.latency_s - self.jitter_s * log(1.0 - rng.random())
        if self.loss:
            again_s = RETRANSMIT_S
            while again_s < RETRANSMIT_S_MAX and rng.random() < self.loss:
                delay_s += again_s
                again_s *= 2
        return delay_s


class Flow:
    """The bytes of one direction of a connection."""

    __slots__ = (
        "due_s",
        "is_armed",
        "is_cut",
        "is_lost",
        "number",
        "on_bytes",
        "queue",
        "queued_bytes",
        "receiver",
        "reset_s",
        "rng",
        "sender",
        "wire",
    )

    def __init__(self, wire: Wire, rng: Random, number: int, on_bytes: OnBytes | None) -> None:
        self.wire, self.rng, self.number, self.on_bytes = wire, rng, number, on_bytes
        self.sender: SimTransport
        self.receiver: SimTransport
        self.queue: deque[tuple[float, bytes]] = deque()
        """Pieces with the times when they arrive; an empty one is the end of the stream."""
        self.queued_bytes = 0
        self.due_s = 0.0
        self.reset_s = inf
        self.is_armed = self.is_cut = self.is_lost = False

    def push(self, data: bytes) -> None:
        """Send bytes, or the end of the stream if there are none."""
        wire = self.wire
        if self.is_cut:
            return
        if wire.piece_bytes_max and data:
            self._push_pieces(data)
        else:
            self._push(data)
        if not self.is_armed:
            self.arm()

    def end(self) -> None:
        """Send the end of the stream, also of one that was cut."""
        self._push(b"")
        self.arm()

    def _push_pieces(self, data: bytes) -> None:
        longest = max(self.wire.piece_bytes_max, 2 * len(data) // PIECES_MAX)
        at = 0
        while at < len(data):
            end = at + 1 + int(self.rng.random() * longest)
            self._push(data[at:end])
            at = end

    def _push(self, data: bytes) -> None:
        wire, size = self.wire, len(data)
        due_s = self.sender.loop.now_s + wire.delay_s(self.rng)
        self.due_s = due_s = max(due_s, self.due_s) + size / wire.bytes_per_s
        self.queue.append((due_s, data))
        self.queued_bytes += size

    def arm(self) -> None:
        """Wait for the first piece, if it can arrive."""
        if self.is_armed or not self.queue or self.wire._is_blocked or self.is_lost:
            return
        receiver = self.receiver
        if not receiver.takes_bytes:
            return
        self.is_armed = True
        loop = receiver.loop
        loop.post(loop.kernel if receiver.life.is_dead else receiver.life, self.queue[0][0], self._arrive)

    def _arrive(self) -> None:
        """Hand over what has arrived by now."""
        self.is_armed = False
        queue, receiver = self.queue, self.receiver
        if not queue or self.wire._is_blocked or self.is_lost or not receiver.takes_bytes:
            return
        now_s = receiver.loop.now_s
        due_s, data = queue[0]
        if due_s > now_s:
            self.arm()
            return
        queue.popleft()
        while data and queue and queue[0][0] <= now_s and queue[0][1]:
            data += queue.popleft()[1]
        if data:
            self.queued_bytes -= len(data)
            self.sender.on_drained()
            receiver.loop.note(xxh3_64_intdigest(data))
            if self.on_bytes is not None:
                self.on_bytes(self.wire.source, self.wire.target, self.number, data)
            receiver.on_bytes(data)
        else:
            receiver.on_end()
        if queue:
            self.arm()

    @property
    def is_over(self) -> bool:
        """True if nobody will send or receive any more."""
        return self.sender.is_over and self.receiver.is_over

    def cut(self) -> None:
        """Lose what has not arrived, but for a random beginning, and all that comes: the sender's machine or connection
        has ended."""
        self.is_cut = True
        kept = int(self.rng.random() * (self.queued_bytes + 1))
        pieces, self.queue, self.queued_bytes = self.queue, deque(), 0
        for due_s, data in pieces:
            data = data[: kept - self.queued_bytes]
            if not data:
                break
            self.queue.append((due_s, data))
            self.queued_bytes += len(data)

    def reset(self) -> None:
        """Send a reset, which may overtake bytes."""
        if self.reset_s == inf:
            loop = self.sender.loop
            self.reset_s = loop.now_s + self.wire.delay_s(self.rng)
            loop.post(loop.kernel, self.reset_s, self.on_reset)

    def on_reset(self) -> None:
        """Let a reset arrive that is due."""
        receiver = self.receiver
        if self.reset_s > receiver.loop.now_s or self.wire._is_blocked or self.is_lost:
            return
        receiver.loop.post(receiver.life, 0.0, receiver.lose, ConnectionResetError(errno.ECONNRESET, "reset by peer"))


class SimTransport(asyncio.Transport):
    """One end of a connection, as asyncio's own transports behave."""

    def __init__(self, loop: SimLoop, life: Life, into: Flow, out: Flow, socket_bytes: int) -> None:
        self.loop, self.life, self._socket_bytes = loop, life, socket_bytes
        self._into, self._out = into, out
        into.receiver = out.sender = self
        self._protocol: asyncio.Protocol
        self._is_connected = self._is_closing = self._has_ended = self._is_gone = self._has_unread = False
        self._is_reading = True
        self._is_paused = False
        self.is_dark = False
        """True while the machine of a dead life is off: it does not answer."""
        self._high, self._low = 64 * 1024, 16 * 1024

    # -- called by the product

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self._has_ended or not data or self.life.is_dead:
            return
        self._out.push(bytes(data))
        if not self._is_paused and self._out.queued_bytes - self._socket_bytes > self._high:
            self._is_paused = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if self._is_closing or self._has_ended or self.life.is_dead:
            return
        self._has_ended = True
        self._out.push(b"")

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if self._is_closing or self.life.is_dead:
            return
        self._is_closing = True
        if not self._has_ended:
            self._has_ended = True
            self._out.push(b"")
        self._into.arm()
        self._finish_if_drained()

    def abort(self) -> None:
        if self._is_gone or self.life.is_dead:
            return
        self._out.cut()
        self._out.reset()
        self._is_closing = self._has_ended = True
        self.loop.post(self.life, 0.0, self.lose, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return max(0, self._out.queued_bytes - self._socket_bytes)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._into.arm()

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # -- called by the network

    def begin(self, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.BaseProtocol:
        """Make the protocol and tell it that it is connected."""
        self._protocol = cast("asyncio.Protocol", factory())
        self._protocol.connection_made(self)
        self._is_connected = True
        if self._is_gone:
            self._protocol.connection_lost(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
        self._into.arm()
        return self._protocol

    @property
    def takes_bytes(self) -> bool:
        """True if something that arrives now would be read, or answered with a reset."""
        if self.life.is_dead:
            return not self.is_dark
        return self._is_closing or (self._is_connected and self._is_reading)

    @property
    def is_over(self) -> bool:
        """True if this end will never do anything again."""
        return self._is_gone or self.life.is_dead

    def on_bytes(self, data: bytes) -> None:
        """Take bytes from the wire."""
        if self._is_gone or self.life.is_dead:
            self._out.reset()
        elif self._is_closing:
            self._has_unread = True
        else:
            self._protocol.data_received(data)

    def on_end(self) -> None:
        """Take the end of the other side's stream."""
        if not (self._is_closing or self.life.is_dead) and not self._protocol.eof_received():
            self.close()

    def on_drained(self) -> None:
        """Bytes of ours have arrived."""
        waiting_bytes = self._out.queued_bytes - self._socket_bytes
        if self._is_paused and waiting_bytes <= self._low:
            self.loop.post(self.life, 0.0, self._resume_writing)
        if self._is_closing and waiting_bytes <= 0:
            self._finish_if_drained()

    def _resume_writing(self) -> None:
        if self._is_paused and not self._is_gone and self.get_write_buffer_size() <= self._low:
            self._is_paused = False
            self._protocol.resume_writing()

    def _finish_if_drained(self) -> None:
        if self._out.queued_bytes <= self._socket_bytes and not (self._is_gone or self.life.is_dead):
            self.loop.post(self.life, 0.0, self.lose, None)

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is gone, once."""
        if self._is_gone:
            return
        self._is_closing = self._has_ended = self._is_gone = True
        if self._has_unread:
            self._out.reset()
        self._into.arm()
        if self._is_connected:
            self._protocol.connection_lost(error)

    def die(self, *, silently: bool) -> None:
        """The life has ended: the system closes its half, or the machine is gone and nobody hears of it."""
        self.is_dark = silently
        if self._is_gone:
            return
        self._out.cut()
        if silently:
            return
        if self._out.rng.random() < 0.5:
            self._out.end()
        else:
            self._out.reset()
        self._into.arm()

    def answer_again(self) -> None:
        """The machine of a dead life is on again: what comes in is answered with a reset."""
        self.is_dark = False
        self._into.arm()
