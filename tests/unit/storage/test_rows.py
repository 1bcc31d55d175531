"""A row comes back exactly as it was put, or is refused; there is nothing in between (R46)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient.wire.values import BALLOT_BYTES, NO_BALLOT, Ballot
from kvnode.core.record import EMPTY_IMAGE, NO_RECORD, Entry, Image, Record
from kvnode.storage import rows
from kvnode.storage.engine import DamagedRow

KEY = b"\x00\x07users\x00ada"

ballots = st.binary(min_size=BALLOT_BYTES, max_size=BALLOT_BYTES).map(Ballot)
records = st.builds(Record, st.binary(min_size=60, max_size=300), st.binary(max_size=100))
proposals = st.one_of(st.just((NO_BALLOT, NO_RECORD)), st.tuples(ballots, records))
images = st.builds(
    lambda promised, accepted, committed, overlay, settled, anchored_ms: Image(
        promised, *accepted, *committed, Entry(overlay), settled, anchored_ms
    ),
    st.one_of(st.just(NO_BALLOT), ballots),
    proposals,
    proposals,
    st.binary(max_size=200),
    st.booleans(),
    st.one_of(st.just(0), st.integers(1, 2**48)),
)
keys = st.binary(min_size=3, max_size=100)

FULL = Image(
    Ballot(b"p" * BALLOT_BYTES),
    Ballot(b"a" * BALLOT_BYTES),
    Record(b"A" * 70, b"aw"),
    Ballot(b"c" * BALLOT_BYTES),
    Record(b"C" * 61, b""),
    Entry(b"\x01" + b"E" * 61),
    True,
)
SOME = [
    EMPTY_IMAGE,
    FULL,
    FULL._replace(accepted_ballot=NO_BALLOT, accepted=NO_RECORD),
    FULL._replace(settled=False, anchored_ms=1),
]


@given(keys, images)
def test_an_image_comes_back_as_it_was(key: bytes, image: Image) -> None:
    assert rows.decode(key, rows.encode(key, image)) == image


@given(images, images)
def test_different_images_have_different_rows(one: Image, other: Image) -> None:
    assert (rows.encode(KEY, one) == rows.encode(KEY, other)) == (one == other)


@pytest.mark.parametrize("image", SOME)
def test_a_row_cut_short_anywhere_is_refused(image: Image) -> None:
    row = rows.encode(KEY, image)
    for size in range(len(row)):
        with pytest.raises(DamagedRow):
            rows.decode(KEY, row[:size])


@pytest.mark.parametrize("image", SOME)
@pytest.mark.parametrize("more", [b"\0", b"x", b"\0" * 22, b"\xff" * 500])
def test_trailing_bytes_are_refused(image: Image, more: bytes) -> None:
    with pytest.raises(DamagedRow):
        rows.decode(KEY, rows.encode(KEY, image) + more)


@pytest.mark.parametrize("image", SOME)
def test_any_flipped_bit_is_caught_by_the_checksum(image: Image) -> None:
    """R46."""
    row = bytearray(rows.encode(KEY, image))
    for bit in range(8 * len(row)):
        row[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedRow, match="key 'ada' of store 'users'"):
            rows.decode(KEY, bytes(row))
        row[bit // 8] ^= 1 << bit % 8


@given(keys, keys, images)
def test_a_row_under_another_key_is_refused(key: bytes, other: bytes, image: Image) -> None:
    """R46: the checksum covers the key, so a misdirected write is caught."""
    if key != other:
        with pytest.raises(DamagedRow):
            rows.decode(other, rows.encode(key, image))


def test_a_refusal_names_key_store_and_partition_and_what_to_do() -> None:
    with pytest.raises(DamagedRow) as caught:
        rows.decode(KEY, bytes(40))
    assert str(caught.value) == (
        "the row of key 'ada' of store 'users' (partition 7) fails its CRC32C; this node's data cannot be trusted, so"
        " it must stay out: leave it down, keep its directory for inspection and put no empty one in its place; the"
        " other replicas serve its keys (docs/protocol.md R44, R46, R47)"
    )


@pytest.mark.parametrize("head", [b"\x07\x00" + bytes(20), b"\x01\x20" + bytes(20)])
def test_a_format_or_flag_of_a_later_version_is_refused_although_the_checksum_holds(head: bytes) -> None:
    row = head + rows._CRC.pack(rows.crc32c(head, rows.crc32c(KEY)))
    with pytest.raises(DamagedRow, match="which this version does not know"):
        rows.decode(KEY, row)


def test_lengths_that_do_not_add_up_are_refused_although_the_checksum_holds() -> None:
    head = rows._HEAD.pack(1, 0, 5, 0, 0, 0, 0)
    with pytest.raises(DamagedRow, match="not what its head says"):
        rows.decode(KEY, head + rows._CRC.pack(rows.crc32c(head, rows.crc32c(KEY))))


@given(st.text(max_size=20), st.binary(max_size=100))
def test_a_meta_value_comes_back_as_it_was(name: str, value: bytes) -> None:
    key = rows.meta_key(name)
    assert rows.decode_meta(key, rows.encode_meta(key, value)) == value


def test_a_damaged_meta_value_is_refused_by_name() -> None:
    key = rows.meta_key("ceiling")
    row = rows.encode_meta(key, b"12345")
    bad = [
        row[:-1],
        row + b"\0",
        b"",
        row[:4],
        row[:2] + b"x" + row[3:],
        rows.encode_meta(rows.meta_key("other"), b"1"),
    ]
    for damaged in bad:
        with pytest.raises(DamagedRow, match="meta value 'ceiling'"):
            rows.decode_meta(key, damaged)


def test_a_meta_key_sorts_behind_every_row_key() -> None:
    assert rows.meta_key("") > b"\xff\xfe" + b"\xff" * 1000


def test_a_row_is_not_taken_for_a_meta_value_nor_the_other_way_round() -> None:
    key = rows.meta_key("x")
    with pytest.raises(DamagedRow):
        rows.decode_meta(key, rows.encode(key, EMPTY_IMAGE))
    with pytest.raises(DamagedRow):
        rows.decode(key, rows.encode_meta(key, bytes(30)))
