"""One HTTP request: where in it the words stand, its body, and what it holds of the process.

Decides: which headers are read, what an ETag in `If-Match` is, when a body is too large.  Leaves to others: what the
words mean (`options`, `bodies`), and what is done (`http`).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive, Scope

from kvnode.dapr import errors
from kvnode.dapr.admission import Admission, Held, overloaded
from kvnode.dapr.errors import Call
from kvnode.dapr.options import Said

METADATA = "metadata."
SAID_NOTHING = Said()


class ClientGone(Exception):
    """The client closed its connection before it had sent the whole request."""


class TooLarge(Exception):
    """The body has more bytes than are taken; it was not read to its end."""


class Request:
    """One request, and what it holds of the process."""

    __slots__ = ("_admission", "_held", "_is_admitted", "_receive", "call", "headers", "query", "read", "scope")

    def __init__(self, scope: Scope, receive: Receive, admission: Admission) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = {}
        self.query: Mapping[str, str] = {}
        self.call: Call | None = None
        """As what its failures are reported."""
        self._receive = receive
        self._admission = admission
        self._is_admitted = False
        self._held = Held(admission)
        self.read = Held(admission)
        """What was read for its answer."""

    def admit(self) -> None:
        """Count as under way until `release`.  Raises StateError if there is no room."""
        if refusal := self._admission.refusal(0):
            raise overloaded(refusal, self.call)
        self._admission.calls += 1
        self._is_admitted = True

    def hold(self, size: int) -> None:
        """Count so many bytes more until `release`.  Raises StateError if there is no room."""
        self._held.add(size, self.call)

    def release(self) -> None:
        """Count no longer."""
        if self._is_admitted:
            self._admission.calls -= 1
            self._held.let_go()
            self.read.let_go()

    def header(self, name: bytes) -> str:
        """Return a header as text, "" if it is not there."""
        return self.headers.get(name, b"").decode("latin-1")

    def etag(self) -> str:
        """Return the ETag of `If-Match`: bare, as Dapr's users send it, or in quotes, as HTTP has it.

        No header and an empty one are none; `""`, what is left of a quoted ETag that its sender did not have, is one
        that nobody has: the request asks for a condition.
        """
        etag = self.header(b"if-match")
        return etag[1:-1] if len(etag) > 2 and etag[0] == etag[-1] == '"' else etag

    def check_conditions(self, *, may_match: bool = False) -> None:
        """Raise StateError if a header makes the write conditional in a way that is not heeded."""
        if b"if-none-match" in self.headers:
            raise errors.malformed("If-None-Match is not heeded: a write with concurrency=first-write creates")
        if not may_match and self.header(b"if-match"):
            raise errors.malformed("If-Match is not heeded here: each item has its own, as the field etag")

    def said(self) -> Said:
        """Return what the request says for everything in it."""
        query, headers = self.query, self.headers
        if not query and b"consistency" not in headers and b"concurrency" not in headers:
            return SAID_NOTHING
        return Said(
            query.get("consistency", ""),
            query.get("concurrency", ""),
            self.header(b"consistency"),
            self.header(b"concurrency"),
            {name[len(METADATA) :]: text for name, text in query.items() if name.startswith(METADATA)},
        )

    async def body(self) -> bytes:
        """Return the whole body.  Raises TooLarge, ClientGone, StateError if there is no room for it."""
        most = self._admission.bounds.body_bytes_max
        if int(self.headers.get(b"content-length", b"0")) > most:
            raise TooLarge
        message = await self._receive()
        body: bytes = message.get("body", b"")
        self.hold(len(body))
        if not message.get("more_body") and message["type"] == "http.request" and len(body) <= most:
            return body
        chunks, size = [body], len(body)
        while size <= most and message["type"] == "http.request" and message.get("more_body"):
            message = await self._receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self.hold(len(chunks[-1]))
        if message["type"] != "http.request":
            raise ClientGone
        if size > most:
            raise TooLarge
        return b"".join(chunks)
