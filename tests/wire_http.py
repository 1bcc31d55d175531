"""HTTP as no client library sends it: bytes on a connection, and what comes back."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateways import Gateway

STORE = "/v1.0/state/statestore"
BULK, TRANSACTION = f"{STORE}/bulk", f"{STORE}/transaction"
OCTETS = b"content-type: application/octet-stream"

MALFORMED = (400, "ERR_MALFORMED_REQUEST")
MISMATCH = (409, "ERR_STATE_SAVE")
NO_ROUTE = (404, "ERR_DIRECT_INVOKE")
ABSENT = (204, "")
REFUSAL_BYTES_MAX = 20_000


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The `errorCode`, "" if there is none."""
        return str(self.json.get("errorCode", "")) if self.body else ""

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Cut(Exception):
    """The connection ended without an answer."""


def connect(gateway: Gateway, request: bytes = b"") -> socket.socket:
    """Connect, and send what there is of a request."""
    host, port = gateway.address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(request)
    return connection


def head(length: int, method: str = "POST", path: str = STORE) -> bytes:
    """A request up to its body."""
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def answer_of(connection: socket.socket) -> Answer:
    """Return the next answer of a connection.  Raises Cut."""
    with connection.makefile("rb", 0) as stream:
        try:
            first = stream.readline()
        except ConnectionError as error:
            raise Cut from error
        if not first:
            raise Cut
        lines = iter(lambda: stream.readline().strip().decode("latin-1"), "")
        headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
        status = int(first.split()[1])
        if status == 100:
            return answer_of(connection)
        return Answer(status, headers, stream.read(int(headers.get("content-length", "0"))))


def request(method: str, path: bytes | str, body: bytes | None = None, *lines: bytes) -> bytes:
    """A request with header lines of its own; a body has its length before it."""
    path = path if isinstance(path, bytes) else path.encode()
    length = [] if body is None else [b"content-length: %d" % len(body)]
    return b"\r\n".join([method.encode() + b" " + path + b" HTTP/1.1", b"host: x", *lines, *length, b"", body or b""])


def ask(gateway: Gateway, request: bytes) -> Answer:
    """Send a request on a connection of its own and return the answer.  Raises Cut."""
    with connect(gateway) as connection:
        with suppress(ConnectionError):  # the answer may come before the end of the request
            connection.sendall(request)
        return answer_of(connection)


def told(answer: Answer) -> tuple[int, str]:
    """Return the status and errorCode, after what every refusal must have."""
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/json"
        assert len(answer.body) < REFUSAL_BYTES_MAX, "a refusal repeats what it was sent"
        if answer.status != 404:
            assert answer.headers["x-outcome"] == "not-applied"
    return answer.status, answer.code


def check_nothing_is_there(gateway: Gateway, key: str) -> None:
    """On connections of their own: the key has no value, and the gateway serves."""
    assert ask(gateway, request("GET", f"{STORE}/{key}?consistency=strong")).status == 204
    assert ask(gateway, request("POST", STORE, b'[{"key":"witness","value":1}]')).status == 204
