"""A replica's state of a key in messages: the whole of it as a PROMISE, and back; and the sizes of what replicas send.

Decides: which field stands where; both directions live here so that they cannot drift; which parts a register may be
given at all.  Leaves to others: when a state may be shown (`replica`: only what is durable, R6) and what it means
(`core.proposer`).
"""

from __future__ import annotations

from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import (
    BALLOT_BYTES,
    BODY_HEADER_BYTES,
    NO_BALLOT,
    NO_VERSION,
    Ballot,
    Version,
    body_version,
)
from kvnode.core.proposer import Promise
from kvnode.core.record import Entry, Image, Record
from kvnode.core.window import ENTRY_BYTES as WINDOW_ENTRY_BYTES

RECORD_FIELDS = 5
"""Of what one replica sends another of a key: key, committed ballot, body, window, overlay entry."""
KEY_BYTES_MIN = 5
"""Partition 2, a store's name of one byte, a zero byte, a key of one byte."""


def check_ballot(key: bytes, ballot: bytes) -> None:
    """Raise MessageError unless key and ballot have the sizes that they must have."""
    if len(ballot) != BALLOT_BYTES or len(key) < KEY_BYTES_MIN:
        raise m.MessageError(f"a ballot of {len(ballot)} bytes for a key of {len(key)} bytes")


def check_parts(key: bytes, ballot: bytes, body: bytes, window: bytes, entry: bytes) -> None:
    """Raise MessageError unless what another replica holds, a committed record and an entry, has the sizes that it must
    have; either may be missing."""
    check_record(ballot, body, window)
    if 0 < len(entry) <= BODY_HEADER_BYTES or len(key) < KEY_BYTES_MIN:
        raise m.MessageError(f"an overlay entry of {len(entry)} bytes for a key of {len(key)}")


def check_record(ballot: bytes, body: bytes, window: bytes) -> None:
    """Raise MessageError unless ballot, body and window have the sizes of a record, or none at all.  In a row, or in a
    round, one of another size would stop this node."""
    is_record = len(ballot) == BALLOT_BYTES and len(body) >= BODY_HEADER_BYTES
    if not (is_record or not (ballot or body)) or len(window) % WINDOW_ENTRY_BYTES:
        raise m.MessageError(
            f"a record with a ballot of {len(ballot)} bytes, a body of {len(body)} and a window of {len(window)}"
        )


def check_records(fields: list[Any], records_max: int) -> int:
    """Return how many records these fields are: key, ballot, body, window and entry of each.  Raises MessageError
    unless they are at most so many, and each has the sizes that it must have."""
    count = len(fields) // RECORD_FIELDS
    if len(fields) % RECORD_FIELDS or count > records_max or any(type(field) is not bytes for field in fields):
        raise m.MessageError(f"{len(fields)} fields are not at most {records_max} records of {RECORD_FIELDS} each")
    for at in range(0, len(fields), RECORD_FIELDS):
        check_parts(*fields[at : at + RECORD_FIELDS])
    return count


def promise_message(number: int, image: Image, floor: Ballot, before: Ballot) -> Message:
    """Return the PROMISE that shows `image`; `before` is the promise that stood until now.  A floor is shown for an
    absent key only (R37)."""
    accepted, committed = image.accepted, image.committed
    return (
        m.PROMISE,
        number,
        image.accepted_ballot,
        accepted.body,
        accepted.window,
        image.committed_ballot,
        committed.body,
        committed.window,
        image.overlay,
        int(image.settled),
        floor if not (image.accepted_ballot or image.committed_ballot) else NO_BALLOT,
        before,
    )


def promise_of(message: Message) -> Promise:
    """Return the state that a PROMISE shows.  Raises MessageError unless each part has the size that it must have."""
    check_record(message[2], message[3], message[4])
    check_record(message[5], message[6], message[7])
    if 0 < len(message[8]) <= BODY_HEADER_BYTES or len(message[10]) not in (0, BALLOT_BYTES):
        raise m.MessageError(f"a promise with an entry of {len(message[8])} bytes and a floor of {len(message[10])}")
    return Promise(
        message[2],
        Record(message[3], message[4]),
        message[5],
        Record(message[6], message[7]),
        message[8],
        bool(message[9]),
        message[10],
    )


def image_of(state: Promise) -> Image:
    """Return the image that a state shows."""
    return Image(
        state.accepted_ballot,
        state.accepted_ballot,
        state.accepted,
        state.committed_ballot,
        state.committed,
        Entry(state.overlay),
        state.settled,
    )


def spread_version(state: Promise, shown: bytes) -> Version:
    """Return the version of the body that a state shows, by which a replica is ahead of others or behind; that of a
    settled tombstone is none (R38)."""
    return NO_VERSION if state.settled and shown == state.committed.body else body_version(shown)
