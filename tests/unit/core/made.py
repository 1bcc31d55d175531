"""Small ballots, records, entries and operations for the tests of core: `ballot(3)` lies above `ballot(2)`."""

from __future__ import annotations

from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, Version, body_pack
from kvnode.core.operation import CHECK_ABSENT, CHECK_ETAG, CHECK_NONE, Operation, Step
from kvnode.core.proposer import Promise
from kvnode.core.record import EMPTY_IMAGE, NO_ENTRY, NO_RECORD, Entry, Image, Record, entry_make
from kvnode.core.version import ballot_make, version_eventual, version_strong

MS = 1_000_000
"""The time that `ballot(0)` carries; each number is one counter step."""
NODE = 7


def ballot(number: int, node: int = NODE, ms: int = MS) -> Ballot:
    return ballot_make((ms << 16) + number, node, 1, number)


def version(number: int, index: int = 0) -> Version:
    return version_strong(ballot(number), index)


def stamp(number: int) -> int:
    return ((MS + 1) << 16) + number


def body(value: bytes, at: Version, expires_at_ms: int = 0) -> bytes:
    return body_pack(at, expires_at_ms, MS, b"\x00" + value if value else b"")


def record(number: int, value: bytes = b"v", expires_at_ms: int = 0, window: bytes = b"") -> Record:
    """The record that a change at `ballot(number)` makes; an empty value is a tombstone."""
    return Record(body(value, version(number), expires_at_ms), window)


def eventual(base: int, at: int, node: int = NODE) -> Version:
    """The version of an eventual write with stamp `at`, based on the change at `ballot(base)`; 0: on none."""
    return version_eventual(ballot(base) if base else NO_BALLOT, stamp(at), node)


def entry(base: int, at: int, value: bytes = b"e", *, absent: bool | None = None, expires_at_ms: int = 0) -> Entry:
    flag = not base if absent is None else absent
    return entry_make(body(value, eventual(base, at), expires_at_ms), absent=flag)


def image(
    accepted: int = 0,
    committed: int = 0,
    overlay: Entry = NO_ENTRY,
    *,
    value: bytes = b"v",
    settled: bool = False,
) -> Image:
    """An image whose records were changes of their ballots."""
    return EMPTY_IMAGE._replace(
        promised=ballot(accepted) if accepted else NO_BALLOT,  # an accept promises at least its own ballot
        accepted_ballot=ballot(accepted) if accepted else NO_BALLOT,
        accepted=record(accepted, value) if accepted else NO_RECORD,
        committed_ballot=ballot(committed) if committed else NO_BALLOT,
        committed=record(committed, value) if committed else NO_RECORD,
        overlay=overlay,
        settled=settled,
    )


def promise(
    accepted: int = 0,
    committed: int = 0,
    overlay: Entry = NO_ENTRY,
    *,
    value: bytes = b"v",
    settled: bool = False,
) -> Promise:
    made = image(accepted, committed, overlay, value=value, settled=settled)
    return Promise(*made[1:7], NO_BALLOT)


def operation(
    *steps: Step,
    sequence: int = 1,
    attempt: int = 1,
    mark: int = 0,
    deadline_ms: int = MS + 5000,
    session: bytes = b"s" * 8,
) -> Operation:
    return Operation(steps, session, sequence, attempt, mark, MS, deadline_ms)


def put(value: bytes = b"new", expires_at_ms: int = 0) -> Step:
    return Step(CHECK_NONE, NO_VERSION, b"\x00" + value, expires_at_ms)


def create(value: bytes = b"new") -> Step:
    return Step(CHECK_ABSENT, NO_VERSION, b"\x00" + value, 0)


def cas(etag: Version, value: bytes = b"new") -> Step:
    return Step(CHECK_ETAG, etag, b"\x00" + value, 0)


def delete(etag: Version | None = None) -> Step:
    return Step(CHECK_NONE if etag is None else CHECK_ETAG, etag or NO_VERSION, b"", 0)
