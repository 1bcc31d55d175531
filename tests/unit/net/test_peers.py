"""Dialled links: one per node, kept up, measured, given up when silent, dialled again with growing random pauses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from unit.fakes import ManualClock, ManualTimers, manual_runtime
from unit.net.house import NODE, NODE_HELLO, WELCOME_FIELDS, Stranger, opened, settled

from kvclient.wire.messages import (
    ACCEPTED,
    GOODBYE,
    HELLO,
    PING,
    PREPARE,
    PROTOCOL_VERSION,
    PULSE,
    STATUS,
    WELCOME,
    MessageError,
)
from kvnode.config import Limits
from kvnode.net.connection import Link, Refusal
from kvnode.net.peers import Peers


class Caller:
    """A peer handler that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.unreachable = 0
        self.verdict: Refusal | None = None
        self.on_batch_do: Callable[[Link, list[list[Any]]], None] = lambda link, batch: None
        self._changed = asyncio.Event()

    def _note(self, *what: Any) -> None:
        self.heard.append(what)
        self._changed.set()

    def hello(self) -> dict[str, Any]:
        return NODE_HELLO

    def accept_welcome(self, index: int, welcome: dict[str, Any]) -> Refusal | None:
        self._note("welcome", index)
        return self.verdict

    def on_peer_up(self, index: int, link: Link) -> None:
        self._note("up", index)

    def on_peer_lost(self, index: int, link: Link) -> None:
        self._note("lost", index, link.code)

    def on_batch(self, link: Link, batch: list[list[Any]]) -> None:
        self._note("batch", link.index, batch)
        self.on_batch_do(link, batch)

    def on_heartbeat(self, index: int, sent_s: float, pulse: tuple[int, int, int, int]) -> None:
        self._note("heartbeat", index, sent_s, pulse)

    def on_unreachable(self, index: int) -> None:
        self.unreachable += 1
        self._changed.set()

    def on_refused(self, index: int, code: str, text: str) -> None:
        self._note("refused", index, code, text)

    def count(self, *what: Any) -> int:
        return sum(one[: len(what)] == what for one in self.heard)

    async def until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 20)


@dataclass
class Street:
    """A node's peers on manual time, and one server per peer whose calls a test answers by hand."""

    peers: Peers
    caller: Caller
    clock: ManualClock
    timers: ManualTimers
    calls: asyncio.Queue[Stranger]
    strangers: list[Stranger] = field(default_factory=list)
    server: asyncio.Server | None = None

    async def call(self) -> Stranger:
        """Return the next connection that arrived; its HELLO has been read."""
        one = await asyncio.wait_for(self.calls.get(), 20)
        assert await one.hear() == [HELLO, NODE_HELLO]
        return one

    async def answered(self) -> Stranger:
        """Return the next connection, welcomed and up."""
        before = self.caller.count("up", 0)
        one = await self.call()
        await one.say((WELCOME, WELCOME_FIELDS))
        await self.caller.until(lambda: self.caller.count("up", 0) == before + 1)
        return one

    async def idle(self) -> None:
        """Let the loop handle what has arrived, until a dial is due."""
        await settled(lambda: bool(any(delay_s <= Limits().reconnect_max_s for delay_s in self._dials_s())))

    def _dials_s(self) -> list[float]:
        return [peer.timer.due_s - self.clock.now_s for peer in self.peers._peers.values() if peer.timer]  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def street(*, listen: bool = True, **limits: Any) -> AsyncIterator[Street]:
    runtime, clock, timers = manual_runtime()
    calls: asyncio.Queue[Stranger] = asyncio.Queue()
    strangers: list[Stranger] = []

    def on_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        strangers.append(Stranger(reader, writer))
        calls.put_nowait(strangers[-1])

    server = await asyncio.start_server(on_call, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if not listen:
        server.close()
    caller = Caller()
    peers = Peers([("127.0.0.1", port), ("unused.invalid", 1)], 1, caller, Limits(**limits), runtime)
    await peers.start()
    try:
        yield Street(peers, caller, clock, timers, calls, strangers, server)
    finally:
        for one in strangers:
            one.hang_up()
        pump = asyncio.ensure_future(pumped(timers))
        await peers.close()
        pump.cancel()
        server.close()


async def pumped(timers: ManualTimers) -> None:
    while True:
        timers.advance(0.05)
        await asyncio.sleep(0)


async def test_a_peer_is_up_after_its_welcome_and_only_then() -> None:
    async with street() as one:
        stranger = await one.call()
        assert one.peers.links == [None, None]
        await stranger.say((WELCOME, WELCOME_FIELDS))
        await one.caller.until(lambda: one.caller.count("up", 0) == 1)
        link = one.peers.links[0]
        assert link is not None
        assert (link.kind, link.index, link.facts) == ("node", 0, WELCOME_FIELDS)
        assert link.send((PREPARE, 1, 1, b"k", b"b"))
        assert (await stranger.hear() or [None])[0] == PING
        assert await stranger.hear() == [PREPARE, 1, 1, b"k", b"b"]
        await stranger.say((ACCEPTED, 1, b""))
        await one.caller.until(lambda: ("batch", 0, [[ACCEPTED, 1, b""]]) in one.caller.heard)


async def test_two_nodes_meet_through_listener_and_peers() -> None:
    async with opened() as house:
        caller = Caller()
        runtime, _, timers = manual_runtime()
        peers = Peers([("127.0.0.1", house.listener.port), ("x", 1)], 1, caller, Limits(), runtime)
        await peers.start()
        await caller.until(lambda: caller.count("up", 0) == 1)
        link = peers.links[0]
        assert link is not None
        house.door.on_batch_do = lambda back, batch: [back.send((ACCEPTED, m[1], b"")) for m in batch] and None
        assert link.send((PREPARE, 7, 1, b"k", b"b"))
        await caller.until(lambda: ("batch", 0, [[ACCEPTED, 7, b""]]) in caller.heard)
        pump = asyncio.ensure_future(pumped(timers))
        await peers.close()
        pump.cancel()
        await house.door.until(lambda: bool(house.door.lost))
        assert house.door.lost[0].code == "shutdown"
        assert caller.count("lost", 0) == 1


async def test_offsets_are_the_median_of_the_last_samples_and_outlive_the_link() -> None:
    """R4: with unreachable peers the last measured offsets stand; never measured is None."""
    async with street() as one:
        stranger = await one.answered()
        assert one.peers.offset_ms(0) is None
        assert one.peers.rtt_ms(0) is None
        for offset_ms in (100, 300, -50, 9_999, 120):
            ping = await stranger.hear()
            assert ping is not None
            assert ping[0] == PING
            one.clock.now_s += 0.010
            rtt_ms = one.clock.now_s * 1000 - ping[1] / 1e6
            wall_ms = round(one.clock.wall_ms() - rtt_ms / 2 + offset_ms)  # read when half of the round trip was over
            samples = one.peers._peers[0].samples_ms
            count = len(samples)
            await stranger.say((PULSE, ping[1], wall_ms, 1, 0, 0, 0))
            while len(samples) == count:
                await asyncio.sleep(0)
            one.timers.advance(Limits().heartbeat_s)
        assert one.peers.offset_ms(0) == (120, 0)
        assert one.peers.rtt_ms(0) == pytest.approx(rtt_ms, abs=0.1)
        stranger.hang_up()
        await one.caller.until(lambda: one.caller.count("lost", 0) == 1)
        assert one.peers.offset_ms(0) == (120, 0)
        one.clock.now_s += 30
        one.clock.offset_ms += 5_000  # our clock was set: that shows at once, also against whoever is out of reach
        assert one.peers.offset_ms(0) == (120 - 5_000, 0)


async def test_an_answered_heartbeat_is_reported_with_the_time_at_which_it_was_sent_and_what_it_tells() -> None:
    """Everything that was sent before that time has been received."""
    async with street() as one:
        stranger = await one.answered()
        ping = await stranger.hear()
        assert ping is not None
        sent_s = one.clock.now_s
        one.clock.now_s += 0.5
        await stranger.say((PULSE, ping[1], one.clock.wall_ms(), 1, 17, 2500, 900))
        await one.caller.until(lambda: one.caller.count("heartbeat") == 1)
        assert one.caller.heard[-1] == ("heartbeat", 0, pytest.approx(sent_s), (1, 17, 2500, 900))


@pytest.mark.parametrize("sent_ns", [-1, 0, 1 << 62])
async def test_an_answer_to_a_ping_that_was_never_sent_is_no_sample(sent_ns: int) -> None:
    async with street() as one:
        stranger = await one.answered()
        await stranger.say((PULSE, sent_ns, 5, 1, 0, 0, 0), (ACCEPTED, 1, b""))
        await one.caller.until(lambda: one.caller.count("batch") == 1)
        assert one.peers.offset_ms(0) is None


async def answer_after(one: Street, stranger: Stranger, rtt_s: float, ahead_ms: int) -> None:
    """Answer the next PING so late, with a clock that is `ahead_ms` ahead and was read half way."""
    ping = await stranger.hear()
    assert ping is not None
    one.clock.now_s = ping[1] / 1e9 + rtt_s
    wall_ms = round(one.clock.wall_ms() - rtt_s * 500 + ahead_ms)
    heard = one.caller.count("heartbeat")
    await stranger.say((PULSE, ping[1], wall_ms, 1, 0, 0, 0))
    await one.caller.until(lambda: one.caller.count("heartbeat") > heard)
    one.timers.advance(Limits().heartbeat_s)


async def test_a_slow_answer_to_a_ping_bounds_the_offset_by_half_its_round_trip() -> None:
    """R4: a node that was paused must not be taken for one with a bad clock; but a long way is no excuse for ever."""
    async with street() as one:
        stranger = await one.answered()
        await answer_after(one, stranger, 0.5, 40_000)
        assert one.peers.offset_ms(0) == (40_000, 250)
        await answer_after(one, stranger, 0.3, 40_020)
        await answer_after(one, stranger, 0.9, 40_300)
        assert one.peers.offset_ms(0) == (40_020, 150)  # the best of them
        await answer_after(one, stranger, 0.01, 40_060)
        assert one.peers.offset_ms(0) == (40_060, 0)


async def test_a_slow_answer_changes_nothing_unless_it_proves_that_the_clock_has_changed() -> None:
    async with street() as one:
        stranger = await one.answered()
        await answer_after(one, stranger, 0.01, 100)
        await answer_after(one, stranger, 0.4, 250)
        assert one.peers.offset_ms(0) == (100, 0)
        await answer_after(one, stranger, 0.3, 60_000)
        assert one.peers.offset_ms(0) == (60_000, 150)


async def test_that_a_peer_cannot_be_asked_is_told_to_the_handler() -> None:
    """R1: a restarted node need not wait for what that one thinks of it."""
    async with street(listen=False) as one:
        await one.caller.until(lambda: one.caller.unreachable == 1)
    async with street() as one:
        stranger = await one.call()
        assert one.caller.unreachable == 0
        stranger.hang_up()
        await one.caller.until(lambda: one.caller.unreachable == 1)


async def test_a_peer_that_dials_us_is_dialled_at_once() -> None:
    """A restarted node is reachable as soon as it is there, not when the longest backoff is over."""
    async with street() as one:
        stranger = await one.answered()
        stranger.hang_up()
        await one.caller.until(lambda: one.caller.count("lost", 0) == 1)
        assert one.peers._peers[0].timer is not None
        one.peers.nudge(0)
        assert one.peers._peers[0].timer is None
        assert one.peers._peers[0].attempt is not None


async def test_a_silent_peer_is_lost_once_and_dialled_again() -> None:
    async with street() as one:
        await one.answered()
        one.timers.advance(Limits().link_silence_s + 1)
        await one.caller.until(lambda: one.caller.count("lost", 0) == 1)
        assert ("lost", 0, "silent") in one.caller.heard
        assert one.peers.links == [None, None]
        one.timers.advance(Limits().reconnect_max_s)
        await one.answered()
        assert one.caller.count("lost", 0) == 1
        assert one.caller.count("up", 0) == 2


async def test_a_peer_that_answers_its_pings_stays_up() -> None:
    async with street() as one:
        stranger = await one.answered()
        for _ in range(30):
            ping = await stranger.hear()
            assert ping is not None
            await stranger.say((PULSE, ping[1], 0, 1, 0, 0, 0), (ACCEPTED, 1, b""))
            before = one.caller.count("batch")
            await one.caller.until(lambda before=before: one.caller.count("batch") > before)  # type: ignore[misc]
            one.timers.advance(Limits().heartbeat_s)
        assert one.caller.count("lost") == 0


async def test_a_lost_link_is_told_once_and_dialled_again() -> None:
    async with street() as one:
        for round_number in range(1, 4):
            stranger = await one.answered()
            link = one.peers.links[0]
            stranger.reset()
            await one.caller.until(lambda n=round_number: one.caller.count("lost", 0) == n)  # type: ignore[misc]
            assert link is not None
            assert not link.is_open
            assert link.send((PREPARE, 1, 1, b"k", b"b")) is False
            one.timers.advance(Limits().reconnect_max_s)
        await one.answered()


async def test_pauses_between_dials_grow_are_random_and_bounded() -> None:
    async with street(listen=False) as one:
        pauses = []
        for _ in range(12):
            await one.idle()
            (pause_s,) = one._dials_s()
            pauses.append(pause_s)
            one.timers.advance(pause_s)
        limits = Limits()
        longest_s = [min(limits.reconnect_max_s, limits.reconnect_min_s * 2.0 ** (n + 1)) for n in range(12)]
        assert all(limits.reconnect_min_s <= pause <= most for pause, most in zip(pauses, longest_s, strict=True))
        assert len({round(pause, 6) for pause in pauses}) == 12
        assert max(pauses) > 0.5


async def test_a_healthy_link_resets_the_pause() -> None:
    async with street() as one:
        one.peers._peers[0].failures = 12
        stranger = await one.answered()
        ping = await stranger.hear()
        assert ping is not None
        await stranger.say((PULSE, ping[1], 0, 1, 0, 0, 0))
        await settled(lambda: not one.peers._peers[0].failures)
        stranger.hang_up()
        await one.idle()
        assert one._dials_s()[0] <= 2 * Limits().reconnect_min_s


async def test_a_refusal_by_the_peer_is_told_and_it_is_dialled_again() -> None:
    async with street() as one:
        stranger = await one.call()
        await stranger.say((GOODBYE, "cluster", "this is cluster b"))
        await one.caller.until(lambda: bool(one.caller.heard))
        assert one.caller.heard == [("refused", 0, "cluster", "this is cluster b")]
        one.timers.advance(Limits().reconnect_max_s)
        await one.answered()


async def test_a_node_whose_identity_was_refused_does_not_dial_again() -> None:
    """R1: the refused node stops, saying why."""
    async with street() as one:
        stranger = await one.call()
        await stranger.say((GOODBYE, "identity", "n2 is known under another id"))
        await one.caller.until(lambda: bool(one.caller.heard))
        assert one.caller.heard == [("refused", 0, "identity", "n2 is known under another id")]
        assert one._dials_s() == []
        assert one.peers._peers[0].attempt is None


async def test_a_goodbye_of_a_peer_that_was_up_is_a_loss_and_no_refusal() -> None:
    async with street() as one:
        stranger = await one.answered()
        await stranger.say((GOODBYE, "shutdown", "the node is shutting down"))
        await one.caller.until(lambda: one.caller.count("lost", 0) == 1)
        assert one.caller.count("refused") == 0
        await one.idle()


async def test_a_welcome_that_the_handler_refuses_is_answered_with_its_reason() -> None:
    async with street() as one:
        one.caller.verdict = Refusal("cluster", "that is another cluster")
        stranger = await one.call()
        await stranger.say((WELCOME, WELCOME_FIELDS))
        assert await stranger.hear() == [GOODBYE, "cluster", "that is another cluster"]
        assert one.caller.heard == [("welcome", 0)]
        assert one.peers.links == [None, None]
        await one.idle()


@pytest.mark.parametrize(
    ("welcome", "text"),
    [
        ({**WELCOME_FIELDS, "protocol": PROTOCOL_VERSION + 1}, "speaks protocol 2, this node speaks 1"),
        ({}, "WELCOME lacks the field 'protocol'"),
        ({**WELCOME_FIELDS, "time_ms": "now"}, "WELCOME has time_ms = 'now', expected int"),
        ({**WELCOME_FIELDS, "epoch": -5}, "WELCOME has epoch = -5"),
        ({name: value for name, value in WELCOME_FIELDS.items() if name not in NODE}, "WELCOME lacks the field"),
    ],
)
async def test_a_malformed_welcome_is_refused_with_what_is_wrong(welcome: dict[str, Any], text: str) -> None:
    async with street() as one:
        stranger = await one.call()
        await stranger.say((WELCOME, welcome))
        heard = await stranger.hear()
        assert heard is not None
        assert heard[:2] == [GOODBYE, "protocol"]
        assert text in heard[2]
        assert one.caller.heard == []


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x01\xc1", b"SSH-2.0-x\r\n"])
async def test_something_that_is_not_a_node_is_left_and_dialled_again(answer: bytes) -> None:
    async with street() as one:
        stranger = await one.call()
        await stranger.write(answer)
        assert (await stranger.hear() or [None])[0] == GOODBYE
        await one.idle()
        assert one.caller.heard == []


async def test_a_peer_that_never_welcomes_is_left_after_the_handshake_timeout() -> None:
    async with street() as one:
        stranger = await one.call()
        one.timers.advance(Limits().handshake_timeout_s + 1)
        assert await stranger.hear() == [GOODBYE, "protocol", "no handshake within 5 s"]
        await one.idle()
        assert one.caller.heard == []


@pytest.mark.parametrize("message", [(STATUS, "x"), (HELLO, NODE_HELLO), (999,)])
async def test_a_peer_that_sends_what_it_may_not_is_lost(message: Any) -> None:
    async with street() as one:
        stranger = await one.answered()
        await stranger.say(message)
        await one.caller.until(lambda: one.caller.count("lost", 0, "protocol") == 1)


async def test_a_message_error_of_the_handler_closes_the_link() -> None:
    async with street() as one:

        def refuse(link: Link, batch: list[list[Any]]) -> None:
            raise MessageError("an answer to nothing")

        one.caller.on_batch_do = refuse
        stranger = await one.answered()
        await stranger.say((ACCEPTED, 1, b""))
        await one.caller.until(lambda: one.caller.count("lost", 0, "protocol") == 1)


async def test_a_peer_that_never_reads_is_still_read_and_its_outbox_is_bounded() -> None:
    """Were both ends to stop reading while they cannot write, neither could go on."""
    async with street(outbox_bytes_max=1 << 21) as one:
        stranger = await one.answered()
        stranger.writer.transport.pause_reading()  # type: ignore[attr-defined]
        link = one.peers.links[0]
        assert link is not None
        while link.send((PREPARE, 1, 1, bytes(100_000), b"b")):
            await asyncio.sleep(0)
        assert link.unsent_bytes <= (1 << 21) + 200_000
        await stranger.say((ACCEPTED, 1, b""))
        await one.caller.until(lambda: one.caller.count("batch", 0) == 1)
        one.timers.advance(Limits().link_silence_s + 2)
        await one.caller.until(lambda: one.caller.count("lost", 0, "silent") == 1)


async def test_an_unreachable_peer_is_logged_once_until_the_reason_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with street(listen=False) as one:
        for _ in range(6):
            await one.idle()
            one.timers.advance(Limits().reconnect_max_s)
    assert len([record for record in caplog.records if "is not linked" in record.message]) == 1


async def test_close_says_goodbye_on_every_link_and_dials_no_more() -> None:
    async with street() as one:
        stranger = await one.answered()
        pump = asyncio.ensure_future(pumped(one.timers))
        await one.peers.close()
        pump.cancel()
        assert (await stranger.hear_all())[-1] == [GOODBYE, "shutdown", "the node is shutting down"]
        assert ("lost", 0, "shutdown") in one.caller.heard
        assert one.peers.links == [None, None]
        assert one._dials_s() == []
