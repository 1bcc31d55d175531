"""The frame codec as an attacker sees it: every cut of the stream, every lie about a length, every costly byte."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvclient.wire import frames
from kvclient.wire.frames import BATCH_BYTES, BATCH_MESSAGES_MAX, ELEMENTS_MAX, Decoder, FrameError, encode

LIMIT = 32 * 1024 * 1024


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def decode(data: bytes, limit: int = LIMIT) -> list[list[Any]]:
    return [message for batch in Decoder(limit).feed(data) for message in batch]


SCALARS = (
    st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=300)
    | st.text(max_size=100)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=9), inner), max_leaves=20
)
MESSAGES = st.lists(st.lists(VALUES, max_size=6), max_size=12)


@given(MESSAGES, st.lists(st.integers(0, 5000), max_size=8))
@settings(deadline=None)
def test_messages_come_back_in_order_however_the_stream_is_cut(messages: list[list[Any]], cuts: list[int]) -> None:
    data = encode(messages, LIMIT)
    decoder = Decoder(LIMIT)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    got = [m for start, end in pairwise(edges) for b in decoder.feed(data[start:end]) for m in b]
    assert got == messages
    assert not decoder.is_mid_frame


MIXED = [[15, 7], [42, 1, 2, b"k", b"v" * 70_000], [24, 3, {"a": [1, None, 2.5]}]]


def test_a_stream_is_decoded_byte_by_byte() -> None:
    decoder, got = Decoder(LIMIT), []
    data = encode(MIXED, LIMIT) + encode([[15, 8]], LIMIT)
    for at in range(len(data)):
        got += [message for batch in decoder.feed(data[at : at + 1]) for message in batch]
    assert got == [*MIXED, [15, 8]]


def test_trailing_bytes_wait_for_their_frame() -> None:
    decoder = Decoder(LIMIT)
    data = encode([[15, 1]], LIMIT) + encode([[15, 2]], LIMIT)
    assert decoder.feed(data[:-1]) == [[[15, 1]]]
    assert decoder.is_mid_frame
    assert decoder.feed(data[-1:]) == [[[15, 2]]]
    assert not decoder.is_mid_frame


def test_an_oversize_frame_is_refused_by_its_length_before_it_is_buffered() -> None:
    decoder = Decoder(1000)
    with pytest.raises(FrameError, match="1001 bytes exceeds the limit of 1000"):
        decoder.feed((1001).to_bytes(4, "big"))
    assert decoder.held_bytes == 0


def test_an_answer_in_http_is_called_that_and_not_a_long_frame() -> None:
    with pytest.raises(FrameError, match="it speaks HTTP, as the gateway does: give the address of a node"):
        Decoder(LIMIT).feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("at", range(1, 5))
def test_an_oversize_length_is_refused_wherever_the_header_is_cut(at: int) -> None:
    decoder = Decoder(1000)
    header = (1 << 31).to_bytes(4, "big")
    with pytest.raises(FrameError, match="exceeds"):  # noqa: PT012
        decoder.feed(header[:at])
        decoder.feed(header[at:])


def test_a_frame_of_exactly_the_limit_passes() -> None:
    payload = msgpack.packb([[15, 1]])
    assert decode(framed(payload), len(payload)) == [[15, 1]]
    with pytest.raises(FrameError):
        decode(framed(payload), len(payload) - 1)


GARBAGE = {
    "nothing": b"",
    "reserved byte": b"\xc1",
    "cut value": b"\x91\x92\x0f",
    "bytes after the value": b"\x91\x91\x0f\x00",
    "text that is not UTF-8": b"\x91\x91\xa1\xff",
    "a map key that is not text": b"\x91\x91\x81\x90\x00",
    "an integer as map key": b"\x91\x91\x81\x01\x00",
    "an extension": b"\x91\x91\xd4\x05\x00",
    "a timestamp": b"\x91\x91\xd6\xff\x00\x00\x00\x00",
    "a number": b"\x05",
    "a map": b"\x80",
    "a batch of numbers": b"\x92\x01\x02",
    "bytes that look like a message": b"\x91\xc4\x02\x0f\x01",
    "text as a message": b"\x92\x91\x0f\xa1a",
    "nesting beyond the stack": b"\x91" * 3000 + b"\x90",
    "an array that claims 2^32 elements": b"\xdd\xff\xff\xff\xff",
    "a map that claims 2^32 elements": b"\xdf\xff\xff\xff\xff",
    "bytes that claim 4 GiB": b"\x91\x91\xc6\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_a_frame_error(name: str) -> None:
    with pytest.raises(FrameError):
        decode(framed(GARBAGE[name]))


@given(st.binary(max_size=2000))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_messages_or_a_frame_error_and_nothing_else(data: bytes) -> None:
    for stream in (data, framed(data)):
        try:
            batches = Decoder(LIMIT).feed(stream)
        except FrameError:
            continue
        assert all(type(message) is list for batch in batches for message in batch)


@given(MESSAGES, st.data())
@settings(deadline=None)
def test_a_damaged_frame_never_raises_anything_but_a_frame_error(
    messages: list[list[Any]], data: st.DataObject
) -> None:
    damaged = bytearray(encode(messages, LIMIT))
    if damaged:
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        Decoder(LIMIT).feed(bytes(damaged))
    except FrameError:
        pass


HUGE = 8 * 1024 * 1024
AMPLIFIERS = {
    "empty arrays": b"\xdd" + HUGE.to_bytes(4, "big") + b"\x90" * HUGE,
    "empty maps": b"\xdd" + HUGE.to_bytes(4, "big") + b"\x80" * HUGE,
    "one-byte messages": b"\xdd" + (HUGE // 2).to_bytes(4, "big") + b"\x91\x01" * (HUGE // 2),
    "lists within messages": b"\xdc\x00\x80" + (b"\xdc\xff\xff" + b"\x90" * 0xFFFF) * 128,
    "nested claims": b"\xdd\x00\x07\x00\x00" * 1000 + b"\xc0" * HUGE,
    "maps of short texts": b"\xdf" + (HUGE // 3).to_bytes(4, "big") + b"\xa1a\xc0" * (HUGE // 3),
}


@pytest.mark.parametrize("name", AMPLIFIERS)
def test_a_long_frame_of_many_little_things_is_refused_before_they_are_built(name: str) -> None:
    data = framed(AMPLIFIERS[name])
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="elements"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("filler", [b"\x80", b"\x90"])
def test_a_short_frame_takes_at_most_72_bytes_for_a_byte(filler: bytes) -> None:
    count = frames._PLAIN_ARRAY_MAX
    rows = b"".join([b"\xdc\x1f\xff" + filler * 8191] * 31)
    payload = b"\x91" + b"\xdc" + (31).to_bytes(2, "big") + rows
    assert BATCH_BYTES * 0.9 < len(payload) <= BATCH_BYTES
    assert count >= 8191
    tracemalloc.start()
    try:
        decode(framed(payload))
        assert tracemalloc.get_traced_memory()[1] < 19 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_nested_arrays_that_claim_more_than_they_hold_reserve_little() -> None:
    payload = (b"\xdd" + (8192).to_bytes(4, "big")) * 1000
    with pytest.raises(FrameError):
        decode(framed(payload + b"\xc0" * (BATCH_BYTES - len(payload))))
    payload = (b"\xdd" + (200_000).to_bytes(4, "big")) * 1000
    with pytest.raises(FrameError, match="elements"):
        decode(framed(payload + b"\xc0" * (BATCH_BYTES - len(payload))))


@pytest.mark.parametrize("rows", [20_000, 100_000])
def test_the_largest_page_that_a_node_may_be_configured_to_send_passes(rows: int) -> None:
    page = [26, 1, [[f"k{row}", b""] for row in range(rows)], 1]
    assert decode(encode([page], LIMIT)) == [page]


def test_the_element_count_is_exact() -> None:
    fits = [[0] * (ELEMENTS_MAX - 2 - 300_000), [0] * 299_999]  # the array around it counts, and each of the two
    assert len(msgpack.packb(fits)) > BATCH_BYTES
    assert decode(framed(msgpack.packb(fits))) == fits
    fits[0] += [0, 0]
    with pytest.raises(FrameError, match="elements"):
        decode(framed(msgpack.packb(fits)))


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_counting_follows_every_form_of_msgpack(value: Any) -> None:
    """The count of a value is what its tree holds: a header that was misread would lose or invent elements."""

    def size(one: Any) -> int:
        if isinstance(one, list):
            return 1 + sum(map(size, one))
        if isinstance(one, dict):
            return 1 + sum(1 + size(inner) for inner in one.values())
        return 1

    forms = [
        value,
        "x" * 40,
        "x" * 300,
        "x" * 70_000,
        b"x" * 300,
        b"x" * 70_000,
        [0] * 20,
        [0] * 70_000,
    ]  # every length of header
    payload = msgpack.packb(forms)
    elements = size(value) + 8 + 20 + 70_000
    frames._count_elements(payload, elements)
    with pytest.raises(FrameError, match="elements"):
        frames._count_elements(payload, elements - 1)


def test_many_messages_leave_in_frames_that_pass_the_receiver() -> None:
    messages = [[15, number] for number in range(3 * BATCH_MESSAGES_MAX)]
    batches = Decoder(LIMIT).feed(encode(messages, LIMIT))
    assert [message for batch in batches for message in batch] == messages
    assert all(len(batch) <= BATCH_MESSAGES_MAX for batch in batches)


def test_large_messages_leave_in_frames_of_their_own() -> None:
    messages = [[42, number, b"x" * 100_000] for number in range(10)] + [[42, 10, b"x" * 1_000_000], [15, 11]]
    batches = Decoder(LIMIT).feed(encode(messages, LIMIT))
    assert [message for batch in batches for message in batch] == messages
    assert max(len(batch) for batch in batches) == 2


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 256])
def test_a_turn_is_one_frame(count: int) -> None:
    assert Decoder(LIMIT).feed(encode([[15, 1]] * count, LIMIT)) == [[[15, 1]] * count]


def test_a_message_beyond_the_limit_is_refused_by_its_sender() -> None:
    with pytest.raises(FrameError, match="exceeds the frame limit of 1000 bytes"):
        encode([[15, 1], [20, 1, b"x" * 1000]], 1000)


def test_what_the_sender_lets_through_the_receiver_lets_through() -> None:
    for size in range(980, 1000):
        try:
            data = encode([[b"x" * size]], 1000)
        except FrameError:
            continue
        assert decode(data, 1000) == [[b"x" * size]]


def test_a_client_may_send_its_largest_value() -> None:
    value_bytes_max = 8 * 1024 * 1024
    limit = frames.client_frame_bytes_max(value_bytes_max)
    data = encode([[12, 1, b"n" * 1153, 1, 5000, b"v" * (value_bytes_max + 1), 0, b"t" * 44, b"s" * 45]], limit)
    assert len(decode(data, limit)) == 1


@pytest.mark.parametrize("unpackable", [[object()], [1 << 64], ["\ud800"]])
def test_what_msgpack_cannot_say_is_the_callers_error_and_harms_no_later_message(unpackable: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        encode([unpackable], LIMIT)
    assert decode(encode([[15, 1]], LIMIT)) == [[15, 1]]
