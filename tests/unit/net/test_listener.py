"""The front door against strangers: whatever they send, they get a GOODBYE with a reason and cost little."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import pytest
from unit.fakes import manual_runtime
from unit.net.house import CLIENT_HELLO, NODE_HELLO, WELCOME_FIELDS, House, Stranger, opened, settled

from kvclient.wire.frames import encode
from kvclient.wire.messages import (
    FORWARD,
    GET,
    GOODBYE,
    HELLO,
    ITEM,
    PING,
    PONG,
    PREPARE,
    PULSE,
    STATUS,
    WELCOME,
    MessageError,
)
from kvnode.config import Limits
from kvnode.net.connection import LINGER_S, Link, Refusal
from kvnode.net.listener import AddressError, Listener


async def goodbye(stranger: Stranger) -> tuple[str, str]:
    """Read to the end of the stream and return the code and text of its last message."""
    heard = await stranger.hear_all()
    assert heard, "closed without a GOODBYE"
    assert heard[-1][0] == GOODBYE
    return heard[-1][1], heard[-1][2]


# -- the handshake


async def test_a_client_is_welcomed_and_its_requests_reach_the_handler(house: House) -> None:
    guest = await house.guest()
    await guest.say((GET, 1, b"default\0k", 0, 1, 5000, 0), (STATUS, 2))
    await house.door.until(lambda: len(house.door.messages) == 2)
    assert house.door.batches == [[[GET, 1, b"default\0k", 0, 1, 5000, 0], [STATUS, 2]]]
    (link,) = house.door.links
    assert (link.kind, link.index, link.facts, link.is_open) == ("client", -1, CLIENT_HELLO, True)
    assert house.listener.connections == 1


async def test_a_node_is_admitted_as_a_node(house: House) -> None:
    guest = await house.guest(NODE_HELLO)
    await guest.say((PREPARE, 1, 1, b"key", b"b" * 28))
    await house.door.until(lambda: bool(house.door.messages))
    assert house.door.links[0].kind == "node"


async def test_admission_may_come_later_and_nothing_is_sent_before(house: House) -> None:
    """R1: the node may have to write to its disk before it binds an identity."""
    house.door.answer = None
    stranger = await house.stranger()
    await stranger.say((HELLO, NODE_HELLO))
    await house.door.until(lambda: bool(house.door.pending))
    assert house.listener.connections == 0
    house.timers.advance(Limits().handshake_timeout_s * 2)
    house.door.pending[0](WELCOME_FIELDS)
    assert await stranger.hear() == [WELCOME, WELCOME_FIELDS]


async def test_a_refusal_is_told_with_code_and_text_and_is_no_loss(house: House) -> None:
    house.door.answer = Refusal("identity", "n2 is known under another id")
    stranger = await house.stranger()
    await stranger.say((HELLO, NODE_HELLO))
    assert await goodbye(stranger) == ("identity", "n2 is known under another id")
    assert house.door.lost == []


async def test_an_admission_that_comes_after_the_end_is_ignored(house: House) -> None:
    house.door.answer = None
    stranger = await house.stranger()
    await stranger.say((HELLO, CLIENT_HELLO))
    await house.door.until(lambda: bool(house.door.pending))
    link = house.door.links[0]
    link.close("test", "enough")
    house.door.pending[0](WELCOME_FIELDS)
    assert await goodbye(stranger) == ("test", "enough")
    assert house.door.lost == []
    assert not link.is_admitted


@pytest.mark.parametrize(
    ("hello", "text"),
    [
        ({**CLIENT_HELLO, "protocol": 2}, "the other side speaks protocol 2, this node speaks 1"),
        ({"protocol": 99, "unheard": "of"}, "the other side speaks protocol 99, this node speaks 1"),
        ({**CLIENT_HELLO, "protocol": "1"}, "HELLO has protocol = '1', expected int"),
        ({"cluster": "", "role": "client"}, "HELLO lacks the field 'protocol'"),
        ({"protocol": 1, "role": "client"}, "HELLO lacks the field 'cluster'"),
        ({**CLIENT_HELLO, "cluster": 5}, "HELLO has cluster = 5, expected str"),
        ({**CLIENT_HELLO, "role": "king"}, "HELLO has role = 'king'"),
        ({**CLIENT_HELLO, "role": "node"}, "HELLO lacks the field 'name'"),
        ({**NODE_HELLO, "node_id": "x"}, "HELLO has node_id = 'x', expected int"),
        ({**NODE_HELLO, "node_id": -1}, "HELLO has node_id = -1, expected a number of 0 to"),
        ({**NODE_HELLO, "name": "x" * 60_000, "epoch": None}, "HELLO has epoch = None"),
        ({**CLIENT_HELLO, "cluster": "malformed"}, "HELLO names a malformed cluster"),
        ({}, "HELLO lacks the field 'protocol'"),
    ],
)
async def test_a_hello_of_another_form_is_refused_with_what_is_wrong(
    house: House, hello: dict[str, Any], text: str
) -> None:
    stranger = await house.stranger()
    await stranger.say((HELLO, hello))
    code, reason = await goodbye(stranger)
    assert code == "protocol"
    assert text in reason


@pytest.mark.parametrize(
    "message",
    [
        (STATUS, 1),
        (PING, 1),
        (PONG, 1, 1),
        (WELCOME, WELCOME_FIELDS),
        (PREPARE, 1, 1, b"k", b"b"),
        (HELLO, 5),
        (777, 1),
    ],
    ids=repr,
)
async def test_nothing_but_hello_or_goodbye_comes_first(house: House, message: Any) -> None:
    stranger = await house.stranger()
    await stranger.say(message)
    code, _ = await goodbye(stranger)
    assert code == "protocol"
    assert house.door.links == []


async def test_requests_before_the_welcome_are_refused(house: House) -> None:
    house.door.answer = None
    stranger = await house.stranger()
    await stranger.say((HELLO, CLIENT_HELLO), (STATUS, 1))
    assert "before the handshake was through" in (await goodbye(stranger))[1]
    assert house.door.messages == []


async def test_a_second_hello_is_refused(house: House) -> None:
    guest = await house.guest()
    await guest.say((HELLO, CLIENT_HELLO))
    assert (await goodbye(guest))[0] == "protocol"
    await house.door.until(lambda: len(house.door.lost) == 1)


async def test_who_says_goodbye_first_is_let_go_without_a_word(house: House) -> None:
    stranger = await house.stranger()
    await stranger.say((GOODBYE, "done", "nothing to ask"))
    assert await stranger.hear_all() == []


NOT_OURS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(1000),
    "random": os.urandom(4000),
    "a frame that is not msgpack": b"\x00\x00\x00\x01\xc1",
    "a hello that is too large": encode([(HELLO, {"x": "y" * 70_000})], 1 << 20),
}


@pytest.mark.parametrize("name", NOT_OURS)
async def test_what_is_not_of_this_protocol_is_closed_with_a_goodbye(house: House, name: str) -> None:
    stranger = await house.stranger()
    await stranger.write(NOT_OURS[name])
    code, reason = await goodbye(stranger)
    assert code == "protocol"
    assert "this port speaks the kvnode protocol 1" in reason


async def test_strangers_are_logged_once_per_second_at_most(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(5):
        stranger = await house.stranger()
        await stranger.write(b"GET / HTTP/1.1\r\n\r\n")
        await goodbye(stranger)
    assert len([one for one in caplog.records if "turned a connection away" in one.message]) == 1
    house.timers.advance(1.5)
    stranger = await house.stranger()
    await stranger.write(b"GET / HTTP/1.1\r\n\r\n")
    await goodbye(stranger)
    assert "and 4 more" in caplog.records[-1].message


# -- an admitted link


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ((777, 1), "not a message of this protocol"),
        ((STATUS, "1"), "message kind 15 must have the fields [int], not [str]"),
        ((STATUS, 1, 2), "message kind 15 must have"),
        ((), "not a message"),
        (([], 1), "not a message"),
        ((PREPARE, 1, 1, b"k", b"b" * 28), "message kind 30 is not for a link of a client"),
        ((FORWARD, 1, [STATUS, 1]), "message kind 44 is not for a link of a client"),
        ((ITEM, 1, b"", {}), "message kind 20 is not for a link of a client"),
        ((PONG, 1, 1), "message kind 4 is not for"),
        ((PULSE, 1, 1, 1, 0, 0, 0), "message kind 5 is not for"),
        ((WELCOME, {}), "message kind 1 is not for"),
    ],
    ids=repr,
)
async def test_a_message_that_a_client_may_not_send_closes_the_link(house: House, message: Any, text: str) -> None:
    guest = await house.guest()
    await guest.say(message)
    code, reason = await goodbye(guest)
    assert code == "protocol"
    assert text in reason
    await house.door.until(lambda: len(house.door.lost) == 1)
    assert text in house.door.lost[0].reason
    assert house.door.messages == []


async def test_a_bad_message_spoils_its_whole_frame_but_not_the_frames_before(house: House) -> None:
    guest = await house.guest()
    await guest.write(encode([(STATUS, 1)], 1000) + encode([(STATUS, 2), (STATUS, "x")], 1000))
    assert (await goodbye(guest))[0] == "protocol"
    assert house.door.messages == [[STATUS, 1]]


async def test_an_oversize_frame_is_refused_before_it_is_buffered() -> None:
    async with opened(value_bytes_max=1024 * 1024) as house:
        guest = await house.guest()
        await guest.write((1024 * 1024 + 66 * 1024).to_bytes(4, "big"))
        assert "exceeds the limit of" in (await goodbye(guest))[1]


async def test_the_largest_value_passes(house: House) -> None:
    guest = await house.guest()
    message = [12, 1, b"default\0" + b"k" * 1024, 1, 5000, b"v" * (8 * 1024 * 1024), 0, b"", b""]
    await guest.say(message)
    await house.door.until(lambda: bool(house.door.messages))
    assert house.door.messages == [message]


async def test_a_slow_drip_still_works(house: House) -> None:
    stranger = await house.stranger()
    data = encode([(HELLO, CLIENT_HELLO)], 1 << 16) + b""
    for at in range(len(data)):
        await stranger.write(data[at : at + 1])
        await asyncio.sleep(0)
    assert (await stranger.hear() or [None])[0] == WELCOME
    data = encode([(STATUS, 1)], 1 << 16) + encode([(STATUS, 2)], 1 << 16)
    for at in range(len(data)):
        await stranger.write(data[at : at + 1])
        await asyncio.sleep(0)
    await house.door.until(lambda: len(house.door.messages) == 2)
    assert house.door.messages == [[STATUS, 1], [STATUS, 2]]


async def test_a_reset_in_mid_frame_is_one_loss(house: House) -> None:
    guest = await house.guest()
    await guest.write(encode([(STATUS, 1)], 1000) + b"\x00\x00\x01\x00half")
    await house.door.until(lambda: bool(house.door.messages))
    guest.reset()
    await house.door.until(lambda: bool(house.door.lost))
    link = house.door.lost[0]
    assert not link.is_open
    assert link.send((ITEM, 1, b"", {})) is False
    assert link.code == "lost"


async def test_a_goodbye_is_remembered_as_the_reason_and_what_came_before_it_is_handled(house: House) -> None:
    guest = await house.guest()
    await guest.say((STATUS, 1), (GOODBYE, "done", "leaving"), (STATUS, 2))
    await house.door.until(lambda: bool(house.door.lost))
    assert (house.door.lost[0].code, house.door.lost[0].reason) == ("done", "leaving")
    assert house.door.lost[0].was_dismissed
    assert house.door.messages == [[STATUS, 1]]


async def test_ping_of_a_node_is_answered_with_the_wall_clock_the_epoch_and_the_load(house: House) -> None:
    """R4"""
    guest = await house.guest(NODE_HELLO)
    house.clock.offset_ms = 4321
    await guest.say((PING, 17), (PREPARE, 1, 1, b"k", b"b" * 28), (PING, 18))
    assert await guest.hear() == [PULSE, 17, house.clock.wall_ms(), 1, 17, 2500, 900]
    assert (await guest.hear() or [])[:2] == [PULSE, 18]
    assert house.door.messages == [[PREPARE, 1, 1, b"k", b"b" * 28]]


async def test_ping_of_a_client_is_answered_with_the_time_alone(house: House) -> None:
    """R24: load and epoch are no business of a client's."""
    guest = await house.guest()
    await guest.say((PING, 17))
    assert await guest.hear() == [PONG, 17, house.clock.wall_ms()]


async def test_what_is_sent_in_one_turn_arrives_as_one_frame_and_may_be_answered_inside_on_batch(house: House) -> None:
    def answer(link: Link, batch: list[list[Any]]) -> None:
        for message in batch:
            assert link.send((ITEM, message[1], b"body", {}))

    house.door.on_batch_do = answer
    guest = await house.guest()
    await guest.say(*[(STATUS, number) for number in range(40)])
    data = await guest.reader.readexactly(4)
    await guest.reader.readexactly(int.from_bytes(data, "big"))
    assert not guest.reader._buffer  # type: ignore[attr-defined]


async def test_a_message_error_of_the_handler_closes_the_link_with_its_text(house: House) -> None:
    def refuse(link: Link, batch: list[list[Any]]) -> None:
        raise MessageError("a SCAN of partition 999")

    house.door.on_batch_do = refuse
    guest = await house.guest()
    await guest.say((STATUS, 1))
    assert await goodbye(guest) == ("protocol", "a SCAN of partition 999")


@pytest.mark.parametrize("error", [AssertionError("invariant"), OSError("disk"), KeyError("bug")])
async def test_a_bug_in_the_handler_reaches_the_loops_exception_handler(house: House, error: Exception) -> None:
    caught: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: caught.append(context["exception"]))

    def fail(link: Link, batch: list[list[Any]]) -> None:
        raise error

    house.door.on_batch_do = fail
    guest = await house.guest()
    await guest.say((STATUS, 1))
    await house.door.until(lambda: bool(house.door.lost))
    assert caught == [error]


async def test_close_is_idempotent_and_the_loss_is_told_once(house: House) -> None:
    guest = await house.guest()
    link = house.door.links[0]
    link.close("first", "reason one")
    link.close("second", "reason two")
    assert not link.is_open
    assert await goodbye(guest) == ("first", "reason one")
    guest.hang_up()
    await house.door.until(lambda: bool(house.door.lost))
    assert house.door.lost == [link]
    assert (link.code, link.reason) == ("first", "reason one")


async def test_what_was_sent_before_close_arrives_before_the_goodbye(house: House) -> None:
    guest = await house.guest()
    link = house.door.links[0]
    assert link.send((ITEM, 1, b"x" * 3_000_000, {}))
    link.close("test", "bye")
    assert [message[0] for message in await guest.hear_all()] == [ITEM, GOODBYE]


# -- time


async def test_who_says_no_hello_is_closed_after_the_handshake_timeout(house: House) -> None:
    stranger = await house.stranger()
    await settled(lambda: bool(house.listener._sweep.links))
    house.timers.advance(Limits().handshake_timeout_s + 1)
    assert await goodbye(stranger) == ("protocol", "no handshake within 5 s")


async def test_half_a_frame_and_then_silence_is_closed_after_the_frame_timeout(house: House) -> None:
    guest = await house.guest()
    await guest.write(encode([(STATUS, 1)], 1000) + b"\x00\x00\x01\x00half")
    await house.door.until(lambda: bool(house.door.messages))
    house.timers.advance(Limits().frame_timeout_s - 2)
    assert house.door.links[0].is_open
    house.timers.advance(4)
    assert await goodbye(guest) == ("protocol", "a frame was not completed within 30 s")


async def test_an_idle_client_is_left_alone(house: House) -> None:
    await house.guest()
    house.timers.advance(100_000)
    assert house.door.links[0].is_open


async def test_a_silent_node_is_given_up(house: House) -> None:
    guest = await house.guest(NODE_HELLO)
    house.timers.advance(Limits().link_silence_s + 2)
    assert await goodbye(guest) == ("silent", "nothing was heard for 5 s")


async def test_a_tick_counts_once_however_late_it_comes(house: House) -> None:
    """A node that was stopped for a minute must not find every link silent when it wakes."""
    await house.guest(NODE_HELLO)
    house.clock.now_s += 60
    house.timers.run_soon()
    assert house.door.links[0].is_open


async def test_who_does_not_hang_up_after_our_goodbye_is_reset(house: House) -> None:
    guest = await house.guest()
    house.door.links[0].close("test", "bye")
    assert (await goodbye(guest))[0] == "test"
    house.timers.advance(LINGER_S + 2)
    await settled(lambda: not house.listener._sweep.links)


# -- bounds


async def test_more_clients_than_the_limit_are_told_so_and_nodes_still_get_in() -> None:
    async with opened(connections_max=8) as house:
        guests = [await house.guest() for _ in range(8)]
        late = await house.stranger()
        await late.say((HELLO, CLIENT_HELLO))
        code, text = await goodbye(late)
        assert code == "overloaded"
        assert "serves 8 clients" in text
        await house.guest(NODE_HELLO)
        guests[0].hang_up()
        await house.door.until(lambda: bool(house.door.lost))
        await house.guest()


async def test_too_many_strangers_are_turned_away_at_once() -> None:
    async with opened(connections_max=8) as house:
        silent = [await house.stranger() for _ in range(8 + 128)]
        late = await house.stranger()
        assert (await goodbye(late))[0] == "overloaded"
        silent[0].hang_up()
        while len(house.listener._sweep.links) > 8 + 128 - 1:
            house.timers.advance(0.1)
            await asyncio.sleep(0)
        await house.guest()


async def test_a_reader_that_never_reads_is_not_read_either_and_then_closed() -> None:
    """Memory stays bounded: what it asked for stops coming in, and send says False at the outbox's limit."""
    async with opened(outbox_bytes_max=1 << 21) as house:
        answered: list[bool] = []

        def answer(link: Link, batch: list[list[Any]]) -> None:
            answered.extend(link.send((ITEM, message[1], bytes(100_000), {})) for message in batch)

        house.door.on_batch_do = answer
        guest = await house.guest()
        guest.writer.transport.pause_reading()  # type: ignore[attr-defined]
        link = house.door.links[0]
        number = 0
        while link._is_reading:
            number += 1
            guest.writer.write(encode([(STATUS, number)], 1000))
            await asyncio.sleep(0)
        while link.send((ITEM, 0, bytes(100_000), {})):
            await asyncio.sleep(0)
        assert link.unsent_bytes <= (1 << 21) + 100_100
        assert all(answered)
        house.timers.advance(Limits().frame_timeout_s + 3)
        await house.door.until(lambda: bool(house.door.lost))
        assert (link.code, link.reason) == ("overloaded", "answers were not read for 30 s")


async def test_requests_stay_with_a_client_that_does_not_read_its_answers() -> None:
    """Back-pressure: what it sends fills the buffers of its own side, not ours."""
    async with opened(outbox_bytes_max=1 << 24) as house:

        def answer(link: Link, batch: list[list[Any]]) -> None:
            for message in batch:
                link.send((ITEM, message[1], bytes(1_000_000), {}))

        house.door.on_batch_do = answer
        guest = await house.guest()
        guest.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(400):
            guest.writer.write(encode([(GET, number, bytes(200_000), 0, 1, 5000, 0)], 1 << 20))
        for _ in range(3000):
            await asyncio.sleep(0)
        assert 0 < len(house.door.messages) < 200
        assert guest.writer.transport.get_write_buffer_size() > 200 * 200_000


async def test_a_flood_that_is_refused_still_hears_why(house: House) -> None:
    """Closing a socket with unread bytes resets the connection, and the reset can overtake the GOODBYE."""
    stranger = await house.stranger()
    stranger.writer.write(b"GET /" + bytes(20_000_000))
    code, _ = await goodbye(stranger)
    assert code == "protocol"


async def test_a_slow_reader_gets_every_answer_and_is_read_again(house: House) -> None:
    def answer(link: Link, batch: list[list[Any]]) -> None:
        for message in batch:
            link.send((ITEM, message[1], bytes(1_000_000), {}))

    house.door.on_batch_do = answer
    guest = await house.guest()
    await guest.say(*[(STATUS, number) for number in range(30)])
    await house.door.until(lambda: not house.door.links[0]._is_reading)
    await guest.say((STATUS, 30))
    for number in range(31):
        assert ((await guest.hear()) or [])[1] == number


async def test_many_sends_in_one_turn_stop_at_the_outbox_limit() -> None:
    async with opened(outbox_bytes_max=1 << 21) as house:
        await house.guest()
        link = house.door.links[0]
        sent = 0
        while sent < 1000 and link.send((ITEM, sent, bytes(10_000), {})):
            sent += 1
        assert sent < 1000
        assert (1 << 20) < link.unsent_bytes <= (1 << 21) + 20_000


async def test_a_message_beyond_the_frame_limit_is_not_sent_and_harms_nothing(house: House) -> None:
    guest = await house.guest()
    link = house.door.links[0]
    assert link.send((ITEM, 1, b"", {}))
    assert link.send((ITEM, 2, bytes(Limits().frame_bytes_max), {})) is False
    assert link.send((ITEM, 3, b"", {}))
    assert [(await guest.hear() or [])[1], (await guest.hear() or [])[1]] == [1, 3]


async def test_what_cannot_be_packed_is_the_callers_error_and_harms_nothing(house: House) -> None:
    guest = await house.guest()
    link = house.door.links[0]
    with pytest.raises(TypeError):
        link.send((ITEM, 1, object(), {}))
    assert link.send((ITEM, 2, b"", {}))
    assert (await guest.hear() or [])[1] == 2


# -- the listener itself


async def test_a_port_in_use_is_a_config_error_that_names_the_address(house: House) -> None:
    second = Listener("127.0.0.1", house.listener.port, house.door, Limits(), manual_runtime()[0])
    with pytest.raises(
        AddressError, match=f"cannot listen on 127.0.0.1:{house.listener.port}: the address is in use by "
    ):
        await second.start()


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "x" * 100 + ".invalid"])
async def test_a_host_that_is_not_ours_is_a_config_error_that_names_it(house: House, host: str) -> None:
    with pytest.raises(AddressError, match=f"cannot listen on {host}:7401"):
        await Listener(host, 7401, house.door, Limits(), manual_runtime()[0]).start()


async def test_shutdown_goes_in_stages(house: House) -> None:
    guest = await house.guest()
    house.listener.stop_accepting()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", house.listener.port)
    await guest.say((STATUS, 1))
    await house.door.until(lambda: bool(house.door.messages))
    assert house.door.links[0].send((ITEM, 1, b"answer", {}))

    draining = asyncio.ensure_future(house.listener.drain())
    while not draining.done():
        house.timers.advance(0.01)
        await asyncio.sleep(0)
    assert draining.result()
    assert (await guest.hear() or [])[1] == 1

    closing = asyncio.ensure_future(house.listener.close())
    assert await guest.hear() == [GOODBYE, "shutdown", "the node is shutting down"]
    guest.hang_up()
    while not closing.done():
        house.timers.advance(0.01)
        await asyncio.sleep(0)
    assert [link.reason for link in house.door.lost] == ["the node is shutting down"]
    assert house.listener.connections == 0


async def test_drain_gives_up_after_its_timeout() -> None:
    async with opened(drain_timeout_s=1.0) as house:
        guest = await house.guest()
        guest.writer.transport.pause_reading()  # type: ignore[attr-defined]
        link = house.door.links[0]
        while link.unsent_bytes < 1 << 20:
            assert link.send((ITEM, 0, bytes(1_000_000), {}))
            await asyncio.sleep(0)
        draining = asyncio.ensure_future(house.listener.drain())
        while not draining.done():
            house.timers.advance(0.1)
            await asyncio.sleep(0)
        assert draining.result() is False
