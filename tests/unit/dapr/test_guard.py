"""The gateway's connections over real sockets, with small limits: what breaks one is answered or cut, and never reaches
the application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from kvnode.dapr import guard as guarding
from kvnode.dapr.guard import PIPELINE_MAX, Guard
from kvnode.dapr.settings import Bounds

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Ends]]


class Echo:
    """An application that answers with the body, or with so many bytes as the path says, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        if self.hold is not None:
            await self.hold.wait()
        if scope["path"][1:].isdigit():
            body = b"x" * int(scope["path"][1:])
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(0, len(body) or 1, 1 << 16):
            await send({"type": "http.response.body", "body": body[at : at + (1 << 16)], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Served:
    def __init__(self, app: Echo, guard: Guard, port: int) -> None:
        self.app = app
        self.guard = guard
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Ends:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request on a connection of its own, and return the answer up to the end of the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        return answer_of(await reader.read())

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        if self.app.hold is not None:
            self.app.hold.set()


def answer_of(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """Return what still comes; a connection that is reset has nothing more to say."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@asynccontextmanager
async def served(**bounds: Any) -> AsyncIterator[Served]:
    app = Echo()
    with Guard(Bounds(**bounds)) as guard:
        config = uvicorn.Config(app, port=0, http=guard.protocol, lifespan="off", log_level="critical")  # type: ignore[arg-type]
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        running = Served(app, guard, server.servers[0].sockets[0].getsockname()[1])
        try:
            yield running
        finally:
            running.close()
            await server.shutdown()


@pytest.fixture(autouse=True)
def _quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "SWEEP_S", 0.02)


async def test_a_request_within_the_limits_is_answered() -> None:
    async with served() as server:
        status, _, body = await server.ask(b"POST /a HTTP/1.1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
        assert (status, body, server.app.calls) == (200, b"hi", 1)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n",
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: 1\r\n" * 300 + b"\r\n",
    ],
)
async def test_a_head_beyond_its_limit_is_refused(head: bytes) -> None:
    async with served(header_bytes_max=1024) as server:
        status, headers, body = await server.ask(head)
        assert (status, headers["x-outcome"], server.app.calls) == (431, "not-applied", 0)
        assert json.loads(body)["errorCode"] == "ERR_MALFORMED_REQUEST"
        assert "1024 bytes" in json.loads(body)["message"]


async def test_a_head_that_never_ends_is_refused_before_it_is_held() -> None:
    async with served(header_bytes_max=1024) as server:
        _, writer = await server.connect()
        while not server.guard.connections:
            await asyncio.sleep(0)
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        sent = 0
        while server.guard.connections:
            writer.write(b"y" * 100)
            sent += 100
            await asyncio.sleep(0)
        assert 1024 - 100 < sent < 1 << 20
        assert server.app.calls == 0


@pytest.mark.parametrize("noise", [b"\x00\x01\x02\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_what_is_no_request_is_refused(noise: bytes) -> None:
    async with served() as server:
        status, headers, body = await server.ask(noise)
        assert (status, headers["connection"], server.app.calls) == (400, "close", 0)
        assert json.loads(body)["errorCode"] == "ERR_MALFORMED_REQUEST"


@pytest.mark.parametrize("part", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nx: y\r\n"])
async def test_a_request_that_does_not_arrive_in_time_is_refused(part: bytes) -> None:
    async with served(request_timeout_s=0.1) as server:
        status, _, _ = await server.ask(part)
        assert (status, server.app.calls) == (408, 0)
        assert not server.guard.connections


async def test_a_body_that_does_not_arrive_in_time_ends_the_connection() -> None:
    async with served(request_timeout_s=0.1) as server:
        reader, writer = await server.connect()
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhi")
        status, headers, _ = answer_of(await reader.read())
        assert (status, headers["x-outcome"]) == (408, "not-applied")  # the application waits for the end


async def test_a_client_that_does_not_read_its_answer_is_cut() -> None:
    async with served(request_timeout_s=0.1) as server:
        reader, writer = await server.connect()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /100000000 HTTP/1.1\r\n\r\n")
        while not server.app.calls or server.guard.connections:
            await asyncio.sleep(0.01)


async def test_a_slow_answer_is_no_fault_of_the_client() -> None:
    async with served(request_timeout_s=0.05) as server:
        server.app.hold = asyncio.Event()
        reader, writer = await server.connect()
        writer.write(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        asyncio.get_running_loop().call_later(0.3, server.app.hold.set)
        assert answer_of(await reader.read())[0] == 200


async def test_a_connection_beyond_the_limit_is_told_so() -> None:
    async with served(connections_max=2) as server:
        for _ in range(2):
            reader, writer = await server.connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        status, _, body = await server.ask(b"")
        assert (status, server.app.calls) == (503, 2)
        assert "2 connections" in json.loads(body)["message"]


async def test_requests_that_are_sent_far_ahead_end_the_connection() -> None:
    async with served() as server:
        server.app.hold = asyncio.Event()
        reader, writer = await server.connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * (PIPELINE_MAX + 2))
        assert await rest_of(reader) == b""
        assert server.app.calls == 1


async def test_a_few_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    async with served() as server:
        reader, writer = await server.connect()
        writer.write(b"".join(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n%d" % number for number in range(9)))
        for number in range(9):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == b"%d" % number


# -- what is broken behind what is whole


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body


BROKEN = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n"


@pytest.mark.parametrize("rest", [b"xx", b"\x16\x03\x01\x00", b"GET /\xff HTTP/1.1\r\n\r\n", BROKEN])
@pytest.mark.parametrize("whole", [1, 2])
async def test_what_is_broken_is_refused_after_the_answers_before_it(rest: bytes, whole: int) -> None:
    """A refusal says that nothing was applied: it must not stand where the answer of an applied request belongs."""
    async with served() as server:
        server.app.hold = asyncio.Event()
        reader, writer = await server.connect()
        writer.write(post(b"hi") * whole + rest)
        while not server.app.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        server.app.hold.set()
        *answers, last = (await reader.read()).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] + answer[-2:] for answer in answers] == [b"200hi"] * whole
        assert last.startswith(b"400")
        assert b"x-outcome: not-applied" in last
        assert server.app.calls == whole


async def test_a_broken_body_is_refused_at_once_and_its_request_given_up() -> None:
    async with served() as server:
        status, headers, _ = await server.ask(BROKEN)
        assert (status, headers["x-outcome"], headers["connection"]) == (400, "not-applied", "close")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"a, b"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_request_for_another_protocol_is_served_in_this_one(protocol: bytes, size: int) -> None:
    """As Java's client asks with its first request, whatever that is."""
    ask = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: " + protocol + b"\r\nhttp2-settings: AAMAAABk\r\n"
    chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n" + ask + b"\r\n2\r\nyo\r\n0\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n"
    request = post(b"hi").replace(b"\r\n", b"\r\n" + ask, 1) + chunked + last
    async with served() as server:
        reader, writer = await server.connect()
        for at in range(0, len(request), size):
            writer.write(request[at : at + size])
            await asyncio.sleep(0)
        answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
        assert [(answer[:3], answer.partition(b"\r\n\r\n")[2]) for answer in answers] == [
            (b"200", b"hi"),
            (b"200", b"yo"),
            (b"200", b""),
        ]


@pytest.mark.parametrize("target", [b"example.org:80", b"/a"])
async def test_nobody_is_connected_to_elsewhere(target: bytes) -> None:
    async with served() as server:
        status, _, body = await server.ask(b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n" + post(b"hi"))
        assert (status, server.app.calls) == (400, 0)
        assert json.loads(body)["errorCode"] == "ERR_MALFORMED_REQUEST"
