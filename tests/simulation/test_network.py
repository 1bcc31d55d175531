"""Connections of the simulation: what TCP promises, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, cast

import pytest
from simulation.lives import Life
from simulation.loop import SimLoop
from simulation.network import SOCKET_BYTES, SimNetwork
from simulation.transport import SimTransport

ADDRESS = ("host", 1)


class End(asyncio.Protocol):
    """One end of a connection that remembers everything."""

    def __init__(self) -> None:
        self.received = b""
        self.pieces = 0
        self.events: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("SimTransport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.pieces += 1

    def eof_received(self) -> bool:
        self.events.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.error = exc

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Pair:
    """Two hosts, "a" that dials and "b" that listens."""

    def __init__(self, seed: int = 0) -> None:
        self.loop = SimLoop(Random(seed))  # type: ignore[abstract]  # what it lacks raises
        self.network = self.loop.network = SimNetwork(self.loop, Random(seed), {ADDRESS: "b"})
        self.lives = {name: self.loop.new_life(name, Random(name)) for name in "ab"}
        self.accepted: list[End] = []

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.loop.run(self.lives["a"], main())
        self.loop.dispose()

    def listen(self, life: Life | None = None) -> None:
        def accept() -> End:
            self.accepted.append(End())
            return self.accepted[-1]

        self.network.listen(life or self.lives["b"], accept, ADDRESS)

    async def dial(self) -> tuple[End, End]:
        """Return both ends of a new connection, once both are there."""
        before = len(self.accepted)
        _, dialled = await self.loop.create_connection(End, *ADDRESS)
        while len(self.accepted) == before:
            await asyncio.sleep(0.001)
        return dialled, self.accepted[-1]


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.listen()
    return pair


# -- making one


def test_nobody_listens_is_told_after_a_round_trip() -> None:
    pair = Pair()

    async def main() -> None:
        began_s = pair.loop.time()
        with pytest.raises(ConnectionRefusedError):
            await pair.dial()
        assert pair.loop.time() > began_s + 2 * pair.network.latency_s

    pair.run(main)


def test_a_wire_that_refuses_and_an_address_that_nobody_has_are_told_the_same(pair: Pair) -> None:
    async def main() -> None:
        pair.network.wire("a", "b").is_refused = True
        with pytest.raises(ConnectionRefusedError):
            await pair.dial()
        with pytest.raises(ConnectionRefusedError):
            await pair.loop.create_connection(End, "elsewhere", 1)

    pair.run(main)


@pytest.mark.parametrize("blocked", [("a", "b"), ("b", "a")])
def test_through_a_block_nobody_answers_until_it_ends(pair: Pair, blocked: tuple[str, str]) -> None:
    async def main() -> None:
        pair.network.block(*blocked)
        dialling = asyncio.create_task(pair.dial())
        await asyncio.sleep(10)
        assert not dialling.done()
        pair.network.unblock(*blocked)
        await dialling

    pair.run(main)


def test_an_attempt_that_was_given_up_leaves_nothing_behind(pair: Pair) -> None:
    async def main() -> None:
        pair.network.wire("b", "a").latency_s = 1.0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.dial(), 0.5)
        await asyncio.sleep(5)
        assert [end.events for end in pair.accepted] == [["lost"]]

    pair.run(main)


def test_an_address_is_taken_once(pair: Pair) -> None:
    with pytest.raises(OSError, match="in use"):
        pair.listen()


# -- bytes


@pytest.mark.parametrize("seed", range(20))
def test_bytes_arrive_once_and_in_order_however_they_are_cut_and_delayed(seed: int) -> None:
    pair = Pair(seed)
    pair.listen()
    rng = Random(seed)

    async def main() -> None:
        dialled, accepted = await pair.dial()
        wire = pair.network.wire("a", "b")
        wire.piece_bytes_max, wire.loss, wire.jitter_s = rng.choice((0, 1, 30)), rng.choice((0.0, 0.3)), 0.01
        sent = b""
        for _ in range(50):
            data = rng.randbytes(rng.randrange(1, 100))
            sent += data
            dialled.transport.write(data)
            if rng.random() < 0.3:
                wire.is_blocked = not wire.is_blocked
            await asyncio.sleep(0.02 * rng.random())
        wire.is_blocked = False
        await asyncio.sleep(100)
        assert accepted.received == sent

    pair.run(main)


def test_a_slow_wire_lets_so_many_bytes_through_in_a_second(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        wire = pair.network.wire("a", "b")
        wire.bytes_per_s, wire.piece_bytes_max = 1000, 10
        dialled.transport.write(bytes(2000))
        await asyncio.sleep(1)
        assert 900 < len(accepted.received) < 1100
        assert accepted.pieces > 10

    pair.run(main)


def test_what_a_block_holds_back_arrives_after_it_and_never_on_a_later_connection(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        pair.network.block("a", "b")
        dialled.transport.write(b"first")
        dialled.transport.abort()
        await asyncio.sleep(1)
        assert (accepted.received, accepted.events) == (b"", [])
        pair.network.unblock("a", "b")
        again, accepted_again = await pair.dial()
        again.transport.write(b"second")
        await asyncio.sleep(1)
        assert accepted_again.received == b"second"
        assert accepted.events == ["lost"]
        assert b"first".startswith(accepted.received)

    pair.run(main)


def test_one_direction_may_be_blocked_alone(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        pair.network.block("a", "b")
        dialled.transport.write(b"there")
        accepted.transport.write(b"back")
        await asyncio.sleep(1)
        assert (accepted.received, dialled.received) == (b"", b"back")

    pair.run(main)


# -- back-pressure


def test_who_does_not_read_makes_the_writer_pause_and_resume(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        dialled.transport.set_write_buffer_limits(high=1000)
        accepted.transport.pause_reading()
        dialled.transport.write(bytes(SOCKET_BYTES + 1000))
        assert dialled.events == []
        dialled.transport.write(b"x")
        assert dialled.events == ["pause"]
        assert dialled.transport.get_write_buffer_size() == 1001
        await asyncio.sleep(1)
        assert accepted.received == b""
        accepted.transport.resume_reading()
        await asyncio.sleep(1)
        assert dialled.events == ["pause", "resume"]
        assert len(accepted.received) == SOCKET_BYTES + 1001

    pair.run(main)


def test_a_paused_process_does_not_read(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        pair.loop.pause(pair.lives["b"])
        dialled.transport.write(bytes(2 * SOCKET_BYTES))
        await asyncio.sleep(1)
        assert dialled.events == ["pause"]
        pair.loop.resume(pair.lives["b"])
        await asyncio.sleep(1)
        assert dialled.events == ["pause", "resume"]
        assert len(accepted.received) == 2 * SOCKET_BYTES

    pair.run(main)


# -- ends


def test_who_closes_still_delivers_what_was_written(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        dialled.transport.write(bytes(3 * SOCKET_BYTES))
        dialled.transport.close()
        dialled.transport.write(b"too late")
        await asyncio.sleep(1)
        assert len(accepted.received) == 3 * SOCKET_BYTES
        assert (accepted.events, accepted.error) == (["eof", "lost"], None)
        assert (dialled.events[-1], dialled.error) == ("lost", None)

    pair.run(main)


def test_after_the_end_of_one_direction_the_other_still_carries_bytes(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        accepted.transport.write(b"answer")
        dialled.transport.write_eof()
        await asyncio.sleep(1)
        assert dialled.received == b"answer"
        assert accepted.events == ["eof", "lost"]

    pair.run(main)


def test_bytes_for_who_has_closed_reset_the_sender(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        pair.network.block("b", "a")
        accepted.transport.close()
        await asyncio.sleep(1)
        dialled.transport.write(b"who is there?")
        await asyncio.sleep(1)
        assert dialled.events == []
        pair.network.unblock("b", "a")
        await asyncio.sleep(1)
        assert "lost" in dialled.events

    pair.run(main)


def test_a_reset_reaches_both_ends_and_may_lose_bytes(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        dialled.transport.write(b"0123456789")
        pair.network.reset("a", "b")
        await asyncio.sleep(1)
        assert b"0123456789".startswith(accepted.received)
        assert isinstance(dialled.error, ConnectionResetError)
        assert isinstance(accepted.error, ConnectionResetError)

    pair.run(main)


@pytest.mark.parametrize("seed", range(20))
def test_who_writes_on_after_a_reset_leaves_no_gap(seed: int) -> None:
    pair = Pair(seed)
    pair.listen()

    async def main() -> None:
        dialled, accepted = await pair.dial()
        sent = bytes(range(200))
        for at in range(0, 200, 10):
            dialled.transport.write(sent[at : at + 10])
            if at == 50:
                pair.network.reset("a", "b")
            await asyncio.sleep(0.0001)
        await asyncio.sleep(1)
        assert sent.startswith(accepted.received)
        assert len(accepted.received) < 200

    pair.run(main)


def test_a_stranded_connection_says_nothing_any_more_and_a_new_one_works(pair: Pair) -> None:
    async def main() -> None:
        dialled, accepted = await pair.dial()
        pair.network.strand("a", "b")
        dialled.transport.write(b"lost")
        await asyncio.sleep(100)
        assert (accepted.received, accepted.events, dialled.events) == (b"", [], [])
        again, accepted_again = await pair.dial()
        again.transport.write(b"found")
        await asyncio.sleep(1)
        assert accepted_again.received == b"found"

    pair.run(main)


# -- deaths


def kill(pair: Pair, *, silently: bool) -> None:
    pair.loop.kill(pair.lives["b"])
    pair.network.on_death(pair.lives["b"], silently=silently)


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_is_noticed_at_once_and_leaves_a_beginning_of_what_it_wrote(seed: int) -> None:
    pair = Pair(seed)
    pair.listen()

    async def main() -> None:
        dialled, accepted = await pair.dial()
        accepted.transport.write(b"0123456789")
        kill(pair, silently=False)
        accepted.transport.write(b"from beyond")
        await asyncio.sleep(1)
        assert b"0123456789".startswith(dialled.received)
        assert dialled.events in (["lost"], ["eof", "lost"])
        assert accepted.events == []
        with pytest.raises(ConnectionRefusedError):
            await pair.dial()

    pair.run(main)


def test_a_machine_that_is_off_says_nothing_until_it_is_on_again(pair: Pair) -> None:
    async def main() -> None:
        dialled, _ = await pair.dial()
        kill(pair, silently=True)
        dialled.transport.write(b"are you there?")
        dialling = asyncio.create_task(pair.dial())
        await asyncio.sleep(100)
        assert dialled.events == []
        assert not dialling.done()
        reborn = pair.loop.new_life("b", Random(1))
        pair.network.on_birth(reborn)
        pair.listen(reborn)
        await asyncio.sleep(1)
        assert isinstance(dialled.error, ConnectionResetError)
        await dialling

    pair.run(main)
