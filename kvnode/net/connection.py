"""One connection: bytes in, checked messages out; messages in, one write per loop turn out.

Decides: batching, back-pressure, what counts as a broken or dead link, and how a link ends.  Leaves to others: who may
connect (`listener`), when to dial (`peers`), and what a message means (the handlers, declared here).

Invariants:
- A handler sees only messages of kinds that its link may carry, each with exactly its shape, in the order sent.
- A link ends once: `is_open` turns False at once, and its owner hears of it once, in a later turn.
- Whatever a stranger sends ends at worst his link, with a reason.  An exception of a handler is a bug or a broken
  invariant instead: it goes to the loop's exception handler, which stops the node.
- A link holds at most: one incomplete frame, `outbox_bytes_max` and one message of unsent answers.

Back-pressure.  A link that we accepted is not read while its answers stay unsent: a client asks no faster than it
listens.  A link that we dialled is always read: were both sides to stop reading, neither could go on.

Time.  No link has a timer: its owner calls `tick` for all of them together.  A tick counts as its nominal length,
however late it comes, so a process that was stopped for a minute does not find every link silent when it wakes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, cast

from kvclient.wire import messages
from kvclient.wire.frames import BATCH_BYTES, HANDSHAKE_BYTES_MAX, Decoder, FrameError, Message, fits_check, join, pack
from kvclient.wire.messages import GOODBYE, HELLO, PING, PULSE, WELCOME, MessageError
from kvnode.config import Limits

WRITE_HIGH_WATER_BYTES: Final = 256 * 1024
"""Above this much unsent in the transport a link counts as full: one frame of `BATCH_BYTES` is on its way."""
LINGER_S: Final = 1.0
"""How long a closed connection may take to fetch our GOODBYE before it is reset."""
REASON_CHARACTERS_MAX: Final = 500

_log = logging.getLogger(__name__)

_NO_SHAPES: Final[Mapping[int, tuple[type, ...]]] = {}


class Refusal(NamedTuple):
    """Why a handshake fails: the code and text of the GOODBYE that ends it."""

    code: str
    text: str


class Handler(Protocol):
    """What a listener calls; the service and the node implement it."""

    def admit(self, link: Link, hello: dict[str, Any], then: Callable[[dict[str, Any] | Refusal], None]) -> None:
        """Judge a well-formed HELLO and call `then` once, now or later, with WELCOME's fields or a Refusal.

        `link.kind` is set; a handler that knows the node sets `link.index`.  `then` does nothing if the link has ended
        meanwhile, and `on_lost` is not called for it either.  Raises MessageError for malformed content.
        """

    def on_batch(self, link: Link, batch: list[list[Any]]) -> None:
        """Take the messages of one frame.  Raises MessageError for malformed content: the link is closed with it."""

    def on_lost(self, link: Link) -> None:
        """Hear that an admitted link has ended; `link.reason` says why.  Called once per admitted link."""

    def pulse(self) -> tuple[int, int, int, int]:
        """Return our epoch and load, as in PULSE."""


class PeerHandler(Protocol):
    """What `Peers` calls for the links that this node dialled."""

    def hello(self) -> dict[str, Any]:
        """Return the fields of our HELLO."""

    def accept_welcome(self, index: int, welcome: dict[str, Any]) -> Refusal | None:
        """Judge the well-formed WELCOME of node `index`; a Refusal closes the link and it is dialled again later."""

    def on_peer_up(self, index: int, link: Link) -> None:
        """Hear that requests may be sent to node `index`."""

    def on_peer_lost(self, index: int, link: Link) -> None:
        """Hear that a link that was up has ended; what was sent on it has an unknown fate.  Once per `on_peer_up`."""

    def on_batch(self, link: Link, batch: list[list[Any]]) -> None:
        """Take the messages of one frame.  Raises MessageError for malformed content: the link is closed with it."""

    def on_heartbeat(self, index: int, sent_s: float, pulse: tuple[int, int, int, int]) -> None:
        """Hear that node `index` has answered the heartbeat sent at `sent_s`, by the monotonic clock, so everything
        that was sent to it before has been received; and its epoch and load, as in PULSE."""

    def on_unreachable(self, index: int) -> None:
        """Hear that a link to node `index` could not be made, or has ended; it will be tried again."""

    def on_refused(self, index: int, code: str, text: str) -> None:
        """Hear that node `index` answered our HELLO with GOODBYE; after the code "identity" it is not dialled again."""


class Owner(Protocol):
    """What a link tells whoever made it: a listener, or the peers."""

    def on_connected(self, link: Link) -> None:
        """The connection stands; nothing was exchanged."""

    def on_greeting(self, link: Link, message: list[Any]) -> None:
        """The other side's HELLO or WELCOME, with the right shape and unchecked fields.  May raise MessageError."""

    def answer_ping(self, link: Link, sent_ns: int) -> Message:
        """Return the answer to a PING."""

    def on_pulse(self, link: Link, message: list[Any]) -> None:
        """The answer to our PING, on a link that we dialled."""

    def on_ended(self, link: Link) -> None:
        """The link has ended (once per link, in a turn of its own); the connection may still linger."""

    def on_disconnected(self, link: Link) -> None:
        """The connection is gone."""


class Link(asyncio.Protocol):
    """One connection of either side.

    `kind` is "client" or "node" (empty before the handshake); `index` is the node's index in the configuration, or -1;
    `facts` are the fields of the other's HELLO or WELCOME; `code` and `reason` say why it ended, and `was_dismissed` is
    True if they came with the other side's GOODBYE.  `requests` is the handler's count of what is in flight for it.
    """

    __slots__ = (
        "_advanced", "_call_soon", "_decoder", "_feed", "_frame_s", "_full_s", "_greeting_s", "_heard",
        "_is_full", "_is_greeted", "_is_held", "_is_reading", "_limits", "_linger_s", "_loop", "_on_batch", "_outbox",
        "_outbox_bytes", "_owner", "_quiet_s", "_shapes", "_silence_s_max", "_transport", "code", "facts", "index",
        "is_admitted", "is_dialled", "is_open", "kind", "reason", "requests", "was_dismissed",
    )  # fmt: skip

    def __init__(self, owner: Owner, limits: Limits, *, dialled_index: int = -1) -> None:
        self.kind = ""
        self.index = dialled_index
        self.facts: dict[str, Any] = {}
        self.code = self.reason = ""
        self.requests = 0
        self.is_dialled = dialled_index >= 0
        self.is_open = self.is_admitted = self.was_dismissed = False
        self._owner, self._limits = owner, limits
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(HANDSHAKE_BYTES_MAX)
        self._feed = self._decoder.feed
        self._call_soon = self._loop.call_soon
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._shapes = _NO_SHAPES
        self._on_batch: Callable[[Link, list[list[Any]]], None]
        self._transport: asyncio.Transport
        self._is_full = self._is_greeted = False
        self._is_held = self._is_reading = True
        self._heard = self._advanced = False
        self._quiet_s = self._greeting_s = self._frame_s = self._full_s = self._linger_s = self._silence_s_max = 0.0

    # -- sending

    def send(self, message: Message) -> bool:
        """Queue one message for the write at the end of this turn.

        Returns False if nothing was queued: the link has ended, its outbox is full, or the message exceeds the frame
        limit.  True promises nothing about arrival.  The message may be changed afterwards: it is packed at once.
        """
        if self._is_held and not (self.is_open and self.unsent_bytes < self._limits.outbox_bytes_max):
            return False
        packed = pack(message)
        outbox = self._outbox
        if not outbox:
            self._call_soon(self._flush)
        outbox.append(packed)
        self._outbox_bytes = held_bytes = self._outbox_bytes + len(packed)
        return held_bytes < BATCH_BYTES or self._outbox_grew()

    def _outbox_grew(self) -> bool:
        """The outbox is large: take the last message back if it alone is too large, and refuse more at the limit."""
        packed_bytes = len(self._outbox[-1])
        try:
            fits_check(packed_bytes, self._limits.frame_bytes_max)
        except FrameError as error:
            del self._outbox[-1]
            self._outbox_bytes -= packed_bytes
            _log.error("a message for the %s at the other end was dropped: %s", self.kind or "stranger", error)
            return False
        if self._outbox_bytes >= self._limits.outbox_bytes_max - WRITE_HIGH_WATER_BYTES:
            self._is_held = True
        return True

    def close(self, code: str, reason: str) -> None:
        """End the link: send what is queued and a GOODBYE, then disconnect.  Does nothing to a link that has ended."""
        if not self.is_open:
            return
        reason = reason[:REASON_CHARACTERS_MAX]
        self._end(code, reason)
        goodbye = pack((GOODBYE, code, reason))
        self._outbox.append(goodbye)
        self._outbox_bytes += len(goodbye)
        self._transport.write(self._take_outbox())
        # What still comes in is read and dropped, and only our half is shut: closing a socket with unread bytes resets
        # the connection, and the reset can overtake the GOODBYE.
        self._resume_reading()
        try:
            self._transport.write_eof()
        except (OSError, RuntimeError):  # the other side has reset the connection, and we were not told yet
            self._transport.abort()

    def abort(self, code: str, reason: str) -> None:
        """End the link and reset the connection; what is queued is dropped.  May follow `close`."""
        if self.is_open:
            self._end(code, reason)
        self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were queued and that the operating system has not taken yet."""
        return self._outbox_bytes + self._transport.get_write_buffer_size()

    def _has_ended(self) -> bool:
        return not self.is_open

    def _flush(self) -> None:
        if self.is_open and self._outbox:
            self._transport.write(self._take_outbox())
            self._is_held = self._is_full

    def _take_outbox(self) -> bytes:
        data = join(self._outbox, self._outbox_bytes)
        self._outbox, self._outbox_bytes = [], 0
        return data

    def _end(self, code: str, reason: str) -> None:
        self.is_open = False
        self._is_held = True
        self.code, self.reason = code, reason
        self._loop.call_soon(self._owner.on_ended, self)

    # -- the handshake is through

    def admit(
        self,
        kind: str,
        shapes: Mapping[int, tuple[type, ...]],
        frame_bytes_max: int,
        on_batch: Callable[[Link, list[list[Any]]], None],
        silence_s_max: float,
    ) -> None:
        """Let messages with one of `shapes` through to `on_batch`; for owners.

        `silence_s_max` is how long the other side may say nothing at all; 0 means for ever.
        """
        self.kind = kind
        self.is_admitted = True
        self._shapes, self._on_batch, self._silence_s_max = shapes, on_batch, silence_s_max
        self._decoder.frame_bytes_max = frame_bytes_max

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; asyncio calls this."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self.is_open = True
        self._is_held = False
        self._owner.on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the stream; asyncio calls this."""
        self._heard = True
        if not self.is_open:
            return
        try:
            for batch in self._feed(data):
                self._advanced = True
                if self._is_plain(batch):
                    self._on_batch(self, batch)
                else:
                    self._take_mixed(batch)
                if self._has_ended():
                    return
        except (FrameError, MessageError) as error:
            hint = "" if self.is_admitted else f" (this port speaks the kvnode protocol {messages.PROTOCOL_VERSION})"
            self.close("protocol", f"{str(error)[: REASON_CHARACTERS_MAX - len(hint)]}{hint}")
        except Exception as bug:  # asyncio would log it, and lose it if it is an OSError
            self.abort("internal", "the node failed while it handled a message")
            context = {"message": f"the handler of a {self.kind} link failed", "exception": bug, "protocol": self}
            self._loop.call_exception_handler(context)

    def eof_received(self) -> bool:
        """The other side will send no more; asyncio calls this and closes the connection."""
        if self.is_open:
            self._end("lost", "the other side closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; asyncio calls this."""
        if self.is_open:
            self._end("lost", f"the connection was lost: {exc or 'closed'}")
        self._owner.on_disconnected(self)

    def pause_writing(self) -> None:
        """The other side does not keep up with reading; asyncio calls this."""
        self._is_full = self._is_held = True
        if self.is_open and not self.is_dialled and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The transport has room again; asyncio calls this."""
        self._is_full = False
        self._full_s = 0.0
        if self.is_open:
            self._is_held = False
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()

    # -- receiving

    def _is_plain(self, batch: list[list[Any]]) -> bool:
        """Return whether all messages are for the handler and have their shape: the path of nearly every frame."""
        shapes = self._shapes
        try:
            for message in batch:
                if tuple(map(type, message)) != shapes.get(message[0]):
                    return False
        except (IndexError, TypeError):
            return False
        return True

    def _take_mixed(self, batch: list[list[Any]]) -> None:
        """Split a batch that holds messages for the link itself, in order, or raise MessageError for a bad one."""
        passed: list[list[Any]] = []
        for message in batch:
            messages.check(message)
            if message[0] in self._shapes:
                passed.append(message)
                continue
            if passed:
                self._on_batch(self, passed)
                passed = []
            if self._has_ended():
                return
            self._take_own(message)
        if passed and not self._has_ended():
            self._on_batch(self, passed)

    def _take_own(self, message: list[Any]) -> None:
        kind = message[0]
        if kind == GOODBYE:
            self.was_dismissed = True
            self._end(message[1][:REASON_CHARACTERS_MAX], message[2][:REASON_CHARACTERS_MAX])
            self._transport.close()
        elif self.is_admitted and kind == PING:
            self.send(self._owner.answer_ping(self, message[1]))
        elif self.is_admitted and self.is_dialled and kind == PULSE:
            self._owner.on_pulse(self, message)
        elif not self._is_greeted and kind == (WELCOME if self.is_dialled else HELLO):
            self._is_greeted = True
            self._owner.on_greeting(self, message)
        elif self.is_admitted:
            raise MessageError(f"message kind {kind} is not for a link of a {self.kind}")
        else:
            raise MessageError(f"message kind {kind} came before the handshake was through")

    # -- the passing of time

    def tick(self, elapsed_s: float) -> None:
        """Count `elapsed_s` towards every timeout of this link and end it if one has run out; for owners."""
        if not self.is_open:
            self._linger_s += elapsed_s
            if self._linger_s >= LINGER_S:
                self._transport.abort()
            return
        self._quiet_s = 0.0 if self._heard or not self._is_reading else self._quiet_s + elapsed_s
        self._frame_s = self._frame_s + elapsed_s if self._decoder.is_mid_frame and not self._advanced else 0.0
        self._full_s = self._full_s + elapsed_s if self._is_full else 0.0
        self._heard = self._advanced = False
        overdue = self._overdue(elapsed_s)
        if overdue is not None:
            self.close(overdue.code, overdue.text)

    def _overdue(self, elapsed_s: float) -> Refusal | None:
        limits = self._limits
        if not self._is_greeted:
            self._greeting_s += elapsed_s
            if self._greeting_s >= limits.handshake_timeout_s:
                return Refusal("protocol", f"no handshake within {limits.handshake_timeout_s:g} s")
        if self._frame_s >= limits.frame_timeout_s:
            return Refusal("protocol", f"a frame was not completed within {limits.frame_timeout_s:g} s")
        if self._full_s >= limits.frame_timeout_s and not self.is_dialled:
            return Refusal("overloaded", f"answers were not read for {limits.frame_timeout_s:g} s")
        if self._silence_s_max and self._quiet_s >= self._silence_s_max:
            return Refusal("silent", f"nothing was heard for {self._silence_s_max:g} s")
        return None
