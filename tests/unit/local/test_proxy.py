"""The proxy between two nodes: what a cut, a slow and a reset link do to bytes, over real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kvnode.local.proxy import CLEAR, HELD_BYTES_MAX, Condition, Connection, Link, Proxy

CUT = Condition(is_cut=True)
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Target:
    """A node that is dialled: it keeps every connection that reaches it."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Ends] = asyncio.Queue()

    def on_connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.put_nowait((reader, writer))


class House:
    """A proxy, and the node behind it."""

    def __init__(self, proxy: Proxy, target: Target) -> None:
        self.proxy = proxy
        self.out, self.home = proxy.outward, proxy.homeward
        self.target = target
        self.ends: list[Ends] = []
        """All of them: a writer that is forgotten is closed."""

    async def dial(self) -> Ends:
        self.ends.append(await asyncio.open_connection(self.proxy.host, self.proxy.port))
        return self.ends[-1]

    async def accepted(self) -> Ends:
        self.ends.append(await self.target.accepted.get())
        return self.ends[-1]

    async def connected(self) -> tuple[Ends, Ends]:
        """Return both nodes' ends of a new connection."""
        return await self.dial(), await self.accepted()

    @property
    def connection(self) -> Connection:
        (only,) = self.proxy.connections
        return only


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    target, rng = Target(), random.Random(1)
    server = await asyncio.start_server(target.on_connected, "127.0.0.1", 0)
    async with server, asyncio.TaskGroup() as tasks:
        address = server.sockets[0].getsockname()
        proxy = Proxy(Link("n1", "n2", rng), Link("n2", "n1", rng), address, tasks)
        await proxy.start()
        made = House(proxy, target)
        yield made
        proxy.close()
        for _, writer in made.ends:
            writer.close()


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def test_bytes_pass_in_both_directions_and_so_does_the_end() -> None:
    async with house() as it:
        (reader, writer), (far_reader, far_writer) = await it.connected()
        writer.write(b"question")
        assert await far_reader.readexactly(8) == b"question"
        far_writer.write(b"answer")
        far_writer.close()
        assert await reader.read() == b"answer"
        writer.close()
        await until(lambda: not it.proxy.connections)


async def test_what_is_said_over_a_cut_link_is_held_in_order_and_arrives_when_it_is_mended() -> None:
    async with house() as it:
        (_, writer), (far_reader, _) = await it.connected()
        it.out.set(CUT)
        for part in (b"one,", b"two,", b"three"):
            writer.write(part)
        await until(lambda: it.connection.near.out.held_bytes == 13)
        assert not far_reader._buffer  # type: ignore[attr-defined]
        it.out.set(CLEAR)
        assert await far_reader.readexactly(13) == b"one,two,three"


async def test_a_one_way_cut_lets_the_other_direction_through() -> None:
    async with house() as it:
        (reader, _), (_, far_writer) = await it.connected()
        it.out.set(CUT)
        far_writer.write(b"still heard")
        assert await reader.readexactly(11) == b"still heard"


async def test_last_words_of_a_node_that_died_behind_a_cut_arrive_later() -> None:
    """A network still delivers what a dead process had sent."""
    async with house() as it:
        (_, writer), (far_reader, _) = await it.connected()
        it.out.set(CUT)
        writer.write(b"last words")
        writer.close()
        await until(lambda: it.connection.near.out.held_bytes == 10)
        it.out.set(CLEAR)
        assert await far_reader.read() == b"last words"


async def test_a_node_that_reset_its_end_unnoticed_is_spared_the_end_of_the_other() -> None:
    """While too much is held nothing is read from it, not even its reset."""
    async with house() as it:
        (_, writer), (_, far_writer) = await it.connected()
        it.out.set(CUT)
        it.home.set(CUT)
        connection = it.connection
        far_writer.write(bytes(2 * HELD_BYTES_MAX))
        writer.close()
        await until(lambda: connection.far.out.held_bytes > HELD_BYTES_MAX)
        await until(lambda: connection.near.out.is_ending)
        far_writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far_writer.transport.abort()
        await asyncio.sleep(0)
        it.out.set(CLEAR)
        it.home.set(CLEAR)
        await until(lambda: not it.proxy.connections)


@pytest.mark.parametrize("direction", ["out", "home"])
async def test_no_connection_is_completed_over_a_cut_link(direction: str) -> None:
    async with house() as it:
        link: Link = getattr(it, direction)
        link.set(CUT)
        _, writer = await it.dial()
        writer.write(b"hello")
        await until(lambda: len(it.proxy.connections) == 1 and it.connection.near.out.held_bytes == 5)
        assert it.target.accepted.empty()
        link.set(CLEAR)
        far_reader, _ = await it.accepted()
        assert await far_reader.readexactly(5) == b"hello"


async def test_a_dialler_that_gave_up_behind_a_cut_is_never_heard_of() -> None:
    async with house() as it:
        it.out.set(CUT)
        _, writer = await it.dial()
        writer.write(b"hello")
        await until(lambda: len(it.proxy.connections) == 1)
        writer.close()
        await until(lambda: not it.proxy.connections)
        it.out.set(CLEAR)
        (_, later), (far_reader, _) = await it.connected()
        later.write(b"later")
        assert await far_reader.readexactly(5) == b"later"


async def test_a_reset_breaks_both_ends_and_the_next_connection_goes_through() -> None:
    async with house() as it:
        (reader, _), (far_reader, _) = await it.connected()
        it.proxy.reset()
        for end in (reader, far_reader):
            with pytest.raises(ConnectionResetError):
                await end.read()
        (_, writer), (again, _) = await it.connected()
        writer.write(b"again")
        assert await again.readexactly(5) == b"again"


async def test_a_node_that_is_down_is_shown_by_a_reset() -> None:
    async with house() as it:
        it.proxy.target = (it.proxy.host, 1)
        reader, _ = await it.dial()
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_slow_and_dripping_link_changes_nothing_but_time() -> None:
    sent = random.Random(2).randbytes(20_000)
    async with house() as it:
        (_, writer), (far_reader, _) = await it.connected()
        it.out.set(Condition(delay_s=0.01, jitter_s=0.02, bytes_per_s=200_000))
        for at in range(0, len(sent), 1000):
            writer.write(sent[at : at + 1000])
            await writer.drain()
        assert await far_reader.readexactly(len(sent)) == sent


async def test_a_link_that_becomes_clear_delivers_at_once_what_was_slow() -> None:
    async with house() as it:
        (_, writer), (far_reader, _) = await it.connected()
        it.out.set(Condition(delay_s=3600))
        writer.write(b"in an hour")
        await until(lambda: it.connection.near.out.held_bytes == 10)
        it.out.set(CLEAR)
        assert await far_reader.readexactly(10) == b"in an hour"


async def test_a_sender_is_not_read_while_too_much_is_held() -> None:
    """Memory is bounded: the rest waits in the sender's own buffers."""
    sent = bytes(4 * HELD_BYTES_MAX)
    async with house() as it:
        (_, writer), (far_reader, _) = await it.connected()
        it.out.set(CUT)
        writer.write(sent)
        stream = it.connection.near.out
        await until(lambda: stream.held_bytes > HELD_BYTES_MAX)
        held = stream.held_bytes
        for _ in range(100):
            await asyncio.sleep(0)
        assert stream.held_bytes == held
        it.out.set(CLEAR)
        assert await far_reader.readexactly(len(sent)) == sent


async def test_a_node_that_does_not_read_holds_its_sender_back() -> None:
    sent = bytes(64 << 20)
    async with house() as it:
        (_, writer), (far_reader, _) = await it.connected()
        writer.write(sent)
        await until(lambda: it.connection.far.is_full)
        assert not it.connection.near._is_reading
        assert await far_reader.readexactly(len(sent)) == sent
