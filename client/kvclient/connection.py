"""One multiplexed connection to one node: requests out, answers in, nothing of what they mean.

Decides: the number of an exchange, when bytes leave, when an exchange is given up, and whether the node is alive.

- What one loop turn asks leaves in one write.  Content beyond `FLUSH_BYTES` leaves at once, so that the transport's own
  back-pressure is felt within the turn; while the transport is full, requests are refused with Overloaded, nothing
  sent.
- At most `in_flight_max` exchanges are open, and `LARGE_BYTES_MAX` of large values; beyond that, Overloaded, nothing
  sent.
- No task and no timer per request.  One timer stands at the earliest deadline and sweeps all that are due.
- Every exchange gets exactly one answer: the node's, or one of this side's own (`UNSENT`, `LOST`, `EXPIRED`), so a
  waiter never sees an exception of the socket and an abandoned one leaves nothing to clean up.
- A node that says nothing for a second while requests wait and a PING is unanswered is *suspected*: what waits there
  and may be repeated elsewhere is answered with LOST, and routing passes it by until it speaks again.  After
  `DEAD_TICKS` the connection is cut.  Ticks are counted, not seconds: a stall of our own loop must not look like
  silence of the node.

Leaves to others: where to connect and when again (`cluster`), what to do with an answer (`retries`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, Final, cast

from kvclient.addresses import Address
from kvclient.errors import Overloaded
from kvclient.wire import frames, messages
from kvclient.wire.messages import (
    CLIENT_ANSWERS,
    GOODBYE,
    HELLO,
    PING,
    PONG,
    PROTOCOL_VERSION,
    SHAPES,
    WELCOME,
)

Answer = list[Any]

UNSENT: Final[Answer] = [-1]
"""The connection was gone before the request left: it cannot have had any effect."""
LOST: Final[Answer] = [-2]
"""The request left, and the connection was lost or fell silent before an answer came."""
EXPIRED: Final[Answer] = [-3]
"""The request left, and no answer came before its deadline."""

WELCOME_BYTES_MAX = 4 * 1024 * 1024
"""A stranger gets this much of our memory: a WELCOME for 65,536 partitions with 7 owners has half a MiB."""
FLUSH_BYTES = 64 * 1024
OUTBOX_BYTES_MAX = 16 * 1024 * 1024
LARGE_BYTES_MAX = 16 * 1024 * 1024
"""Large contents (beyond `FLUSH_BYTES`) in flight to one node, or a single one of any size.  A node sends each to its
peers once more, over links with bounds of their own: many at once would only be refused there, later and at more
cost."""
TICK_S = 0.25
SUSPECT_TICKS = 5
DEAD_TICKS = 24
_IDLE_TICKS = 20
_CLOCK_TICKS = 240
_SWEEP_MIN_S = 0.005
_NOTHING: Final = frozenset[int]()


class Link(asyncio.Protocol):
    """A connection from HELLO to its end.  Made by `dial.dial`."""

    def __init__(self, address: Address, cluster: str, on_change: Callable[[], None]) -> None:
        self.address = address
        self.name = str(address)
        self.is_open = False
        self.is_serving = False
        self.is_suspect = False
        self.offset_ms = 0.0
        """Server time is `loop.time() * 1000 + offset_ms`."""
        self.in_flight_max = 1
        self.loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[dict[str, Any]] = self.loop.create_future()
        self.lost: asyncio.Future[str] = self.loop.create_future()
        """Done with the reason when the connection has ended."""
        self._cluster = cluster
        self._on_change = on_change
        self._decoder = frames.Decoder(WELCOME_BYTES_MAX)
        self._frame_bytes_max = WELCOME_BYTES_MAX
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, tuple[asyncio.Future[Answer], float, bool]] = {}
        self._large: dict[int, int] = {}  # exchange -> bytes, of those whose content is large
        self._out: list[frames.Message] = []
        self._last_id = 0
        self._is_full = False
        self._sweep_at = inf
        self._sweeper: asyncio.TimerHandle | None = None
        self._reason = ""
        self._hello_at = 0.0
        self._was_heard = False
        self._silent_ticks = 0
        self._ping_ticks = 0
        self._ticks = 0
        self._rtt_s = inf

    # -- requests

    def ask(
        self, message: list[Any], deadline_s: float, size: int = 0, *, patient: bool = False
    ) -> asyncio.Future[Answer]:
        """Send a request, number it (element 1), and return the future of its answer.

        `deadline_s` is loop time.  `size` is the length of a large content.  A `patient` request waits out the node's
        silence, because it may not be repeated elsewhere.  Raises Overloaded; nothing was sent then.
        """
        pending = self._pending
        if len(pending) >= self.in_flight_max:
            raise Overloaded(
                f"{len(pending)} requests are in flight to {self.name}, which is its limit: send fewer at once"
            )
        if self._is_full:
            raise Overloaded(f"{OUTBOX_BYTES_MAX} bytes wait to be sent to {self.name}: send less at once")
        future: asyncio.Future[Answer] = self.loop.create_future()
        if not self.is_open:
            future.set_result(UNSENT)
            return future
        if size > FLUSH_BYTES:
            self._admit_large(size)
        self._last_id = message[1] = number = self._last_id + 1
        pending[number] = (future, deadline_s, patient)
        if deadline_s < self._sweep_at:
            self._sweep_later(deadline_s)
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        out.append(message)
        if size > FLUSH_BYTES:
            self._large[number] = size
            self._flush()
        return future

    def _admit_large(self, size: int) -> None:
        held = sum(self._large.values())
        if held and held + size > LARGE_BYTES_MAX:
            raise Overloaded(f"values of {held} bytes are in flight to {self.name}: send fewer large values at once")

    @property
    def is_accepted(self) -> bool:
        """True once somebody has accepted the connection, whoever it is."""
        return self._transport is not None

    @property
    def in_flight(self) -> int:
        """The number of open exchanges."""
        return len(self._pending)

    @property
    def is_usable(self) -> bool:
        """True if requests should go here."""
        return self.is_open and self.is_serving and not self.is_suspect

    def server_ms(self, now_s: float) -> int:
        """Return the node's clock at the loop time `now_s`, in milliseconds since 1970."""
        return int(now_s * 1000 + self.offset_ms)

    def ask_time(self) -> None:
        """Read the node's clock again: it does not agree with what was read before."""
        if self.is_open and not self._ping_ticks:
            self._rtt_s = inf
            self._ping()

    def stop_serving(self) -> None:
        """Pass this node by until it says that it serves: it refused a request because it does not."""
        if self.is_serving:
            self.is_serving = False
            self._on_change()

    def start_serving(self) -> None:
        """Let requests go here again."""
        if not self.is_serving:
            self.is_serving = True
            self._on_change()

    def close(self, reason: str) -> None:
        """End the connection; what is in flight is answered with LOST or UNSENT."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.close()
        self._end()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(frames.encode(out, self._frame_bytes_max))

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say HELLO."""
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=OUTBOX_BYTES_MAX, low=OUTBOX_BYTES_MAX // 4)
        self._hello_at = self.loop.time()
        hello = {"protocol": PROTOCOL_VERSION, "cluster": self._cluster, "role": "client"}
        transport.write(frames.encode([(HELLO, hello)], WELCOME_BYTES_MAX))

    def pause_writing(self) -> None:
        """Refuse requests: the node reads too slowly."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Take requests again."""
        self._is_full = False

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._was_heard = True
        if self.is_suspect:
            self.is_suspect = False
            self._on_change()
        try:
            for batch in self._decoder.feed(data):
                self._receive(batch)
        except frames.FrameError as error:
            self._refuse(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the stream."""
        self._reason = self._reason or (f"the connection broke: {exc}" if exc else "it closed the connection")
        self._end()

    # -- answers

    def _receive(self, batch: list[Any]) -> None:
        """Hand each answer to its waiter.  100,000 a second pass here: no call per message beside the future's own."""
        pending = self._pending
        shapes, answers = SHAPES, CLIENT_ANSWERS if self.is_open else _NOTHING
        for message in batch:
            try:
                kind = message[0]
                if tuple(map(type, message)) != shapes[kind]:
                    raise KeyError
            except (TypeError, IndexError, KeyError):
                return self._refuse(f"not a message of this protocol: {message!r:.80}")
            if kind in answers:
                held = pending.pop(message[1], None)
                if self._large:
                    self._large.pop(message[1], None)
                if held is not None and not held[0].done():
                    held[0].set_result(message)
            elif not self._receive_other(kind, message):
                return None
        return None

    def _receive_other(self, kind: int, message: list[Any]) -> bool:
        """Take a message that answers no request; return False if nothing more may be received."""
        if kind == PONG:
            self._learn_time(message[1] / 1e9, message[2])
        elif kind == PING:
            self._write((PONG, message[1], self.server_ms(self.loop.time())))
        elif kind == WELCOME and not self.is_open and not self.welcomed.done():
            self._welcome(message[1])
        elif kind == GOODBYE:
            self.close(f"it said goodbye ({message[1]}): {message[2]}")
            return False
        else:
            self._refuse(f"a message of kind {kind} is not for a client")
            return False
        return True

    def _welcome(self, facts: dict[str, Any]) -> None:
        try:
            self._check_welcome(facts)
        except (KeyError, TypeError) as error:
            return self._refuse(f"its WELCOME has no usable {error}")
        limits = facts["limits"]
        self.name = facts["name"]
        self.in_flight_max = limits["link_requests_max"]
        self._frame_bytes_max = frames.client_frame_bytes_max(limits["value_bytes_max"])
        self._decoder.frame_bytes_max = 4 * limits["value_bytes_max"] + (1 << 20)
        self._learn_time(self._hello_at, facts["time_ms"])
        self.is_open = True
        self.is_serving = facts["serving"]
        self.welcomed.set_result(facts)
        return None

    def _check_welcome(self, facts: dict[str, Any]) -> None:
        wanted = {
            **messages.WELCOME_FIELDS,
            "nodes": list,
            "partitions": int,
            "preference": list,
            "stores": dict,
            "limits": dict,
            "serving": bool,
        }
        for name, kind in wanted.items():
            if type(facts.get(name)) is not kind:
                raise KeyError(name)
        if facts["protocol"] != PROTOCOL_VERSION:
            raise KeyError(f"protocol: it speaks {facts['protocol']}, this client {PROTOCOL_VERSION}")
        if self._cluster and facts["cluster"] != self._cluster:
            raise KeyError(f"cluster: it is {facts['cluster']!r:.80}, not {self._cluster!r:.80}")
        for name in ("value_bytes_max", "timeout_s", "timeout_s_max", "link_requests_max", "scan_page_max"):
            if type(facts["limits"].get(name)) not in (int, float):
                raise KeyError(f"limits.{name}")

    def _learn_time(self, sent_at_s: float, server_ms: int) -> None:
        """Take a reading of the node's clock, unless it travelled much longer than the best one."""
        now = self.loop.time()
        rtt = max(0.0, now - sent_at_s)
        if rtt <= 2 * self._rtt_s + 0.001:
            self._rtt_s = min(rtt, self._rtt_s)
            self.offset_ms = server_ms + rtt * 500 - now * 1000

    # -- the end of exchanges

    def _refuse(self, reason: str) -> None:
        """Close because of what came in."""
        self._write((GOODBYE, "protocol", reason))
        self.close(reason)

    def _write(self, message: tuple[Any, ...]) -> None:
        if self._transport is not None:
            self._transport.write(frames.encode([message], self._frame_bytes_max))

    def _end(self) -> None:
        if self.lost.done():
            return
        self.is_open = self.is_serving = False
        if self._sweeper is not None:
            self._sweeper.cancel()
        unsent = {message[1] for message in self._out}
        self._out = []
        pending, self._pending = self._pending, {}
        for number, (future, _, _) in pending.items():
            if not future.done():
                future.set_result(UNSENT if number in unsent else LOST)
        self.lost.set_result(self._reason)
        self._on_change()

    def _sweep_later(self, at_s: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = at_s
        self._sweeper = self.loop.call_at(at_s, self._sweep)

    def _sweep(self) -> None:
        now = self.loop.time()
        next_at = inf
        for number, (future, deadline_s, _) in list(self._pending.items()):
            if deadline_s <= now:
                del self._pending[number]
                self._large.pop(number, None)
                if not future.done():
                    future.set_result(EXPIRED)
            elif deadline_s < next_at:
                next_at = deadline_s
        self._sweep_at, self._sweeper = inf, None
        if next_at < inf:
            self._sweep_later(max(next_at, now + _SWEEP_MIN_S))

    # -- is it alive?

    def tick(self) -> None:
        """Look after the node's silence.  Called every `TICK_S`."""
        self._ticks += 1
        if self._was_heard:
            self._was_heard = False
            self._silent_ticks = self._ping_ticks = 0
            if self._ticks % _CLOCK_TICKS == 0:
                self._rtt_s = inf
                self._ping()
            return
        self._silent_ticks += 1
        if self._ping_ticks:
            self._ping_ticks += 1
            self._judge_silence()
        elif self._pending or self._silent_ticks >= _IDLE_TICKS:
            self._ping()

    def _ping(self) -> None:
        self._ping_ticks = 1
        self._write((PING, int(self.loop.time() * 1e9)))

    def _judge_silence(self) -> None:
        if self._ping_ticks > DEAD_TICKS:
            self._reason = f"it was silent for {DEAD_TICKS * TICK_S:g} seconds"
            if self._transport is not None:
                self._transport.abort()
            self._end()
        elif self._ping_ticks > SUSPECT_TICKS and not self.is_suspect:
            self.is_suspect = True
            for future, _, patient in self._pending.values():
                if not patient and not future.done():
                    future.set_result(LOST)
            self._on_change()
