"""A replica's whole state of a key as a PROMISE message, and back.

Decides: which field stands where; both directions live here so that they cannot drift.  Leaves to others: when a state
may be shown (`replica`: only what is durable, R6) and what it means (`core.proposer`).
"""

from __future__ import annotations

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, Version, body_version
from kvnode.core.proposer import Promise
from kvnode.core.record import Entry, Image, Record


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
    """Return the state that a PROMISE shows."""
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
