"""A listener on a loopback port and on manual time, a handler that writes down what it hears, strangers who call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from unit.fakes import ManualClock, ManualTimers, manual_runtime

from kvclient.wire.frames import Decoder, encode
from kvclient.wire.messages import HELLO, PROTOCOL_VERSION, MessageError
from kvnode.config import Limits
from kvnode.net.connection import Link, Refusal
from kvnode.net.listener import Listener

NODE = {"name": "n2", "node_id": 2, "incarnation": 1, "process": 9, "epoch": 1, "found": 3, "age": 4}
CLIENT_HELLO: dict[str, Any] = {"protocol": PROTOCOL_VERSION, "cluster": "", "role": "client"}
NODE_HELLO: dict[str, Any] = {"protocol": PROTOCOL_VERSION, "cluster": "c", "role": "node", **NODE}
WELCOME_FIELDS: dict[str, Any] = {"protocol": PROTOCOL_VERSION, "cluster": "c", "time_ms": 5, **NODE, "name": "n1"}
BIG = 1 << 26


async def settled(is_true: Callable[[], bool], each_turn: Callable[[], object] = lambda: None) -> None:
    """Give the loop turns until `is_true()`; fail, rather than hang, if it never is."""
    for _ in range(200_000):
        if is_true():
            return
        each_turn()
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


class Door:
    """A handler of a listener that records, admits by default, and lets a test wait for what it records."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.batches: list[list[list[Any]]] = []
        self.lost: list[Link] = []
        self.pending: list[Callable[[dict[str, Any] | Refusal], None]] = []
        self.answer: dict[str, Any] | Refusal | None = WELCOME_FIELDS
        self.on_batch_do: Callable[[Link, list[list[Any]]], None] = lambda link, batch: None
        self._heard = asyncio.Event()

    def admit(self, link: Link, hello: dict[str, Any], then: Callable[[dict[str, Any] | Refusal], None]) -> None:
        self.links.append(link)
        if hello.get("cluster") == "malformed":
            raise MessageError("HELLO names a malformed cluster")
        if self.answer is None:
            self.pending.append(then)
        else:
            then(self.answer)
        self._heard.set()

    def on_batch(self, link: Link, batch: list[list[Any]]) -> None:
        self.batches.append(batch)
        self._heard.set()
        self.on_batch_do(link, batch)

    def on_lost(self, link: Link) -> None:
        self.lost.append(link)
        self._heard.set()

    def pulse(self) -> tuple[int, int, int, int]:
        return (1, 17, 2500, 900)

    @property
    def messages(self) -> list[list[Any]]:
        return [message for batch in self.batches for message in batch]

    async def until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self._heard.clear()
            await asyncio.wait_for(self._heard.wait(), 20)


class Stranger:
    """The other end of a socket, byte by byte if need be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder(BIG)
        self._inbox: list[list[Any]] = []

    async def say(self, *messages: Any) -> None:
        await self.write(encode(list(messages), BIG))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def hear(self) -> list[Any] | None:
        """Return the next message, or None at the end of the stream."""
        while not self._inbox:
            data = await asyncio.wait_for(self.reader.read(1 << 16), 20)
            if not data:
                return None
            self._inbox += [message for batch in self._decoder.feed(data) for message in batch]
        return self._inbox.pop(0)

    async def hear_all(self) -> list[list[Any]]:
        got = []
        while (message := await self.hear()) is not None:
            got.append(message)
        return got

    def hang_up(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


@dataclass
class House:
    """A listener on a free port, on manual time, with everything that a test may turn."""

    listener: Listener
    door: Door
    clock: ManualClock
    timers: ManualTimers
    strangers: list[Stranger] = field(default_factory=list)

    async def stranger(self) -> Stranger:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        self.strangers.append(Stranger(reader, writer))
        return self.strangers[-1]

    async def guest(self, hello: dict[str, Any] = CLIENT_HELLO) -> Stranger:
        """Return a stranger who was admitted."""
        one = await self.stranger()
        await one.say((HELLO, hello))
        assert (await one.hear() or [None])[0] == 1
        return one


@contextlib.asynccontextmanager
async def opened(**limits: Any) -> AsyncIterator[House]:
    runtime, clock, timers = manual_runtime()
    door = Door()
    listener = Listener("127.0.0.1", 0, door, Limits(**limits), runtime)
    await listener.start()
    house = House(listener, door, clock, timers)
    try:
        yield house
    finally:
        for one in house.strangers:
            one.hang_up()
        closing = asyncio.ensure_future(listener.close())
        while not closing.done():
            timers.advance(0.05)
            await asyncio.sleep(0)
        await closing
