"""The HTTP connections of the gateway, with a limit on everything that a client can make it hold.

Decides: how many connections there may be, how many bytes a request's head may have, how long a client may take to send
a request or to read an answer, and how many requests it may send ahead.  Leaves to others: HTTP itself (uvicorn), and
what a body may weigh (`http`, which reads it).

A request that breaks a limit never reaches the application, or reaches it without the end of its body, for which the
application waits before it does anything: so nothing was applied, and the answer may say so.  Answers to requests
before it on the connection come first.  Asking for another protocol (`Upgrade`) is not heeded, as HTTP allows: Java's
client asks so with its first request, whatever that is.  One sweep serves all connections: a request costs no timer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from kvnode.dapr.admission import Admission
from kvnode.dapr.errors import RETRY_AFTER_S
from kvnode.dapr.settings import Bounds

PIPELINE_MAX = 64
"""Requests that one connection may send before the first of them is answered."""
SWEEP_S = 1.0
_HEADER_EXTRA = 4
"""": " and the line's end, which count as well."""


class Guard:
    """All connections of one server.  Enter it while the server runs; `protocol` is what uvicorn makes for each."""

    def __init__(self, bounds: Bounds, admission: Admission | None = None) -> None:
        """Answers that wait for their readers count in `admission`."""
        self.bounds = bounds
        self.admission = admission or Admission(bounds)
        self.connections: set[GuardedProtocol] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def __enter__(self) -> Guard:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._swept)
        return self

    def __exit__(self, *_: object) -> None:
        if self._sweep is not None:
            self._sweep.cancel()

    def protocol(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> GuardedProtocol:
        """Return the protocol of a new connection: `uvicorn.Config(http=guard.protocol)`."""
        return GuardedProtocol(self, config, server_state, app_state)

    def _swept(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(SWEEP_S, self._swept)
        for connection in tuple(self.connections):
            connection.end_if_slow(loop.time())


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self, guard: Guard, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._guard = guard
        self._refusal: tuple[int, str] | None = None
        self._last_refusal: tuple[int, str] | None = None
        """What is said when the requests before it are answered; then the connection ends."""
        self._asks_to_upgrade = False
        self._head_bytes = 0
        self._named_bytes = 0
        self._is_in_head = True
        self._unread_bytes = 0
        """What counts in the admission because the client does not read it."""
        self._since_s: float | None = None
        """When the client began what it has not finished: a connection, a request, or the reading of an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or refuse it where there are too many."""
        super().connection_made(transport)
        connections = self._guard.connections
        if len(connections) >= self._guard.bounds.connections_max:
            self._refuse(503, f"the gateway has {len(connections)} connections, which is its limit: try again later")
            return
        connections.add(self)
        self._since_s = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._guard.connections.discard(self)
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent, as far as it keeps to the limits."""
        if self.transport.is_closing() or self._last_refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("this is not HTTP as it is served here: send HTTP/1.1")
        if self._is_in_head and self._head_bytes > self._guard.bounds.header_bytes_max and not self._is_closing():
            self._refuse(431, self._head_text())

    def _feed(self, data: bytes) -> None:
        """Parse.  A head that asks for another protocol is parsed again without that, or its body would be lost."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            rest = data[error.args[0] :]
            first = b"%s %s HTTP/%s" % (
                self.scope["method"].encode(), self.url, self.scope["http_version"].encode(),
            )  # fmt: skip
            lines = [first, *(b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"), b"\r\n"]
            self._asks_to_upgrade = False
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"\r\n".join(lines))
            self._feed(rest)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._since_s = self.loop.time()
        self._is_in_head, self._head_bytes, self._named_bytes = True, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        self._named_bytes += len(name) + len(value) + _HEADER_EXTRA
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer the request, unless its head breaks a limit."""
        self._is_in_head = False
        if len(self.url) + self._named_bytes > self._guard.bounds.header_bytes_max:
            self._refusal = 431, self._head_text()
            raise ValueError(self._refusal[1])
        if self.parser.should_upgrade():
            self._ask_to_upgrade()
            return
        if len(self.pipeline) >= PIPELINE_MAX:  # nothing can be said: earlier answers come first
            self.transport.abort()
            return
        super().on_headers_complete()

    def _ask_to_upgrade(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._refusal = 400, "CONNECT is not served: this is no proxy"
            raise ValueError(self._refusal[1])
        self._asks_to_upgrade = True
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()

    def on_message_complete(self) -> None:
        """The client has sent the whole request."""
        if self._asks_to_upgrade:
            return
        super().on_message_complete()
        self._since_s = None
        self._is_in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or one that breaks a limit, and close the connection."""
        status, text = self._refusal or (400, msg)
        self._refuse(status, text)

    def on_response_complete(self) -> None:
        """An answer has been sent: go on with the next request, or with what is to be said last."""
        super().on_response_complete()
        if self._last_refusal is not None and not self.pipeline and not self._is_closing() and self._is_answered():
            self._say(*self._last_refusal)

    def pause_writing(self) -> None:
        """The client reads slower than answers are written."""
        super().pause_writing()
        self._since_s = self.loop.time()
        self._let_go()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._guard.admission.bytes_held += self._unread_bytes

    def resume_writing(self) -> None:
        """The client has read what was held back."""
        super().resume_writing()
        self._since_s = None
        self._let_go()

    def end_if_slow(self, now_s: float) -> None:
        """Close the connection if its client has taken too long for what it began."""
        if self._since_s is None or now_s - self._since_s <= self._guard.bounds.request_timeout_s or self._is_closing():
            return
        if self.flow.write_paused or self._last_refusal is not None or not self._may_speak():
            self.transport.abort()  # an answer is due or under way: nothing can be said in between
        else:
            self._refuse(408, f"the request did not arrive within {self._guard.bounds.request_timeout_s:g} s")

    def _let_go(self) -> None:
        self._guard.admission.bytes_held -= self._unread_bytes
        self._unread_bytes = 0

    def _is_closing(self) -> bool:
        return self.transport.is_closing()

    def _head_text(self) -> str:
        return f"the request's line and headers have more than {self._guard.bounds.header_bytes_max} bytes"

    def _is_answered(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _may_speak(self) -> bool:
        """Return whether no answer is due or under way but that to a request whose body has not come."""
        return not self.pipeline and (self._is_answered() or (self.cycle.more_body and not self.cycle.response_started))

    def _refuse(self, status: int, text: str) -> None:
        """Refuse the request that is being read: now, or when those before it are answered."""
        if self._may_speak():
            self._say(status, text)
            return
        if self.pipeline and self.cycle.more_body:  # this is the request: it is not begun
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else None  # type: ignore[assignment]
        self._last_refusal = status, text
        self.flow.pause_reading()

    def _say(self, status: int, text: str) -> None:
        """Send a refusal, unless the request has an answer already, and close the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.more_body and cycle.response_complete:
            self.transport.close()
            return
        body = json.dumps({"errorCode": "ERR_MALFORMED_REQUEST" if status < 500 else "ERR_OVERLOADED", "message": text})
        wait = f"retry-after: {RETRY_AFTER_S}\r\n" if status == 503 else ""
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-outcome: not-applied\r\n"
            f"{wait}connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body.encode())
        self.transport.close()
