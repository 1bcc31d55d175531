"""What replicas tell each other while they compare: packed and unpacked alike, and garbage is refused (R32)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from kvclient.wire import messages as m
from kvclient.wire.values import NO_BALLOT, body_pack
from kvnode.core.merkle import item_of, shorten
from kvnode.core.record import EMPTY_IMAGE, Image, Record, entry_make
from kvnode.core.version import ballot_make, version_eventual, version_strong
from kvnode.service.healing import comparing, mending

_UINT64 = st.integers(0, (1 << 64) - 1)


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 4095), _UINT64)))
def test_roots_come_back_as_they_were(roots: list[tuple[int, int, int]]) -> None:
    assert comparing.unpack_roots(comparing.pack_roots(roots)) == roots


@given(st.lists(st.integers(0, 65535)), st.lists(st.integers(0, (1 << 32) - 1)), st.lists(_UINT64))
def test_numbers_nodes_and_positions_come_back_as_they_were(
    numbers: list[int], nodes: list[int], positions: list[int]
) -> None:
    assert comparing.unpack_numbers(comparing.pack_numbers(numbers)) == numbers
    assert comparing.unpack_nodes(comparing.pack_nodes(nodes)) == nodes
    assert comparing.unpack_positions(comparing.pack_positions(positions)) == positions


def _image(committed_ms: int, overlay_ms: int, *, settled: bool = False) -> Image:
    image = EMPTY_IMAGE
    ballot = ballot_make(committed_ms << 16, 1, 1, 1) if committed_ms else NO_BALLOT
    if committed_ms:
        record = Record(body_pack(version_strong(ballot, 0), 0, 0, b"\0s"), b"w")
        image = image._replace(committed_ballot=ballot, committed=record, settled=settled)
    if overlay_ms:
        body = body_pack(version_eventual(ballot, overlay_ms << 16, 1), 0, 0, b"\0e")
        image = image._replace(overlay=entry_make(body, absent=not committed_ms))
    return image


# what is here, what is there -> sent from here, fetched from there
_TABLE = [
    ("only here", _image(5, 0), None, (True, False)),
    ("only there", EMPTY_IMAGE, _image(5, 0), (False, True)),
    ("the same", _image(5, 6), _image(5, 6), (False, False)),
    ("a later record here", _image(7, 0), _image(5, 0), (True, False)),
    ("a later record there", _image(5, 0), _image(7, 0), (False, True)),
    ("a later entry here", _image(0, 9), _image(0, 8), (True, False)),
    ("an entry over the same record", _image(5, 9), _image(5, 0), (True, False)),
    ("a later record against a later clock's entry", _image(7, 0), _image(5, 900), (True, False)),
    ("settled here, unknown there", _image(5, 0, settled=True), None, (False, False)),
    ("settled here, not yet there", _image(5, 0, settled=True), _image(5, 0), (False, False)),
]


@pytest.mark.parametrize(("_", "here", "there", "expected"), _TABLE)
def test_who_has_the_later_version_sends_it(
    _: str, here: Image, there: Image | None, expected: tuple[bool, bool]
) -> None:
    key = b"\0\1store\0key"
    told = None
    if there is not None:
        item = shorten(item_of(key, there), 3)
        told = comparing.unpack_keys(comparing.pack_key(1, item, there))[1]
    assert mending._judge(item_of(key, here), here, told, 3, 0) == expected


def test_what_did_not_help_is_tried_both_ways() -> None:
    key, here, there = b"\0\1store\0key", _image(7, 0), _image(5, 0)
    told = comparing.Listed(shorten(item_of(key, there), 3), comparing.times_of(there))
    assert mending._judge(item_of(key, here), here, told, 3, 1) == (True, True)


def test_a_record_holds_what_is_committed_and_the_overlay_only() -> None:
    """R13, R38."""
    key = b"\0\1store\0key"
    image = _image(5, 6)
    dirty = image._replace(accepted_ballot=ballot_make(9 << 16, 1, 1, 1), accepted=Record(b"x" * 61, b"y"))
    assert comparing.record_of(key, dirty) == comparing.record_of(key, image)
    assert comparing.record_of(key, image)[1:] == [image.committed_ballot, *image.committed, image.overlay]
    assert comparing.record_of(key, _image(5, 0, settled=True))[1:] == [b"", b"", b"", b""]


_KEY = b"\0\1default\0k"
_GARBAGE: list[tuple[Any, ...]] = [
    (m.TREE_ROOTS, 1, 1, b"123"),
    (m.TREE_NODES, 1, 1, 3, 0, 0, 6, 3, b"\0", b""),
    (m.TREE_NODES, 1, 1, 3, 0, 0, 6, 3, b"\0\0", b"\0\0\0\0"),
    (m.TREE_NODES, 1, 1, 3, 0, 0, 99, 3, b"\0\0", b"\0" * 256),
    (m.TREE_NODES, 1, 1, 3, 0, 0, 6, 3, b"\0\7", b"\0" * 256),
    (m.TREE_LIST, 1, 1, 3, 99, 6, 3, 0, "", b"", b""),
    (m.TREE_LIST, 1, 1, 3, 0, -1, 3, 0, "", b"", b""),
    (m.TREE_LIST, 1, 1, 3, 0, 6, 3, 0, "", b"\0", b""),
    (m.TREE_LIST, 1, 1, 3, 0, 6, 3, 0, "", b"", b"123"),
    (m.RECORDS, 1, 1, [_KEY]),
    (m.RECORDS, 1, 1, [_KEY, b"short", b"b" * 60, b"", b""]),
    (m.RECORDS, 1, 1, [_KEY, b"b" * 28, b"short", b"", b""]),
    (m.RECORDS, 1, 1, [_KEY, b"", b"", b"", b"short"]),
    (m.RECORDS, 1, 1, [b"\0\1no zero", b"", b"", b"", b"e" * 70]),
    (m.RECORDS, 1, 1, [_KEY, 5, b"", b"", b""]),
]


@pytest.mark.parametrize("message", _GARBAGE)
def test_a_malformed_message_is_refused(message: tuple[Any, ...]) -> None:
    world = World(3)
    node = world.hosts[0].node
    list(node.healing.trees.build_all())
    m.check(message)
    with pytest.raises(m.MessageError):
        node.on_batch(node.exchanges.links[1], [list(message)])


def test_a_message_of_another_epoch_is_refused_and_changes_nothing() -> None:
    world = World(3)
    replies: list[Any] = []
    world.on_post = lambda source, target, message: replies.append(message) is None
    for message in ((m.TREE_ROOTS, 1, 2, b""), (m.RECORDS, 2, 2, [])):
        world.hosts[0].node.on_batch(world.hosts[0].node.exchanges.links[1], [list(message)])
    assert [reply[:3] for reply in replies] == [(m.REFUSED, 1, "stale-epoch"), (m.REFUSED, 2, "stale-epoch")]
