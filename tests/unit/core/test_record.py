"""R6, R7: the values that a replica keeps of a key."""

from __future__ import annotations

from unit.core.made import body, entry, eventual, record, version

from kvclient.wire.values import NO_BALLOT, NO_VERSION
from kvnode.core.record import (
    EMPTY_IMAGE,
    NO_ENTRY,
    NO_RECORD,
    entry_body,
    entry_is_absent_based,
    entry_make,
    entry_version,
)


def test_a_record_reads_its_parts_from_its_body() -> None:
    made = record(3, b"x", expires_at_ms=77)
    assert made.version == version(3)
    assert made.content == b"\x00x"
    assert made.expires_at_ms == 77
    assert not made.is_tombstone


def test_a_record_without_content_is_a_tombstone_with_a_version() -> None:
    """R34."""
    made = record(3, b"")
    assert made.is_tombstone
    assert made.content == b""
    assert made.version == version(3)


def test_an_empty_value_is_not_a_tombstone() -> None:
    """The tag alone is a value of no bytes."""
    made = NO_RECORD._replace(body=body(b"", version(1)) + b"\x00")
    assert not made.is_tombstone


def test_an_entry_gives_back_its_body_version_and_flag() -> None:
    """R7."""
    made = entry_make(body(b"x", eventual(2, 1)), absent=True)
    assert entry_body(made) == body(b"x", eventual(2, 1))
    assert entry_version(made) == eventual(2, 1)
    assert entry_is_absent_based(made)
    assert not entry_is_absent_based(entry(2, 1))


def test_nothing_has_no_version() -> None:
    assert NO_RECORD.version == entry_version(NO_ENTRY) == NO_VERSION
    assert EMPTY_IMAGE.promised == EMPTY_IMAGE.accepted_ballot == EMPTY_IMAGE.committed_ballot == NO_BALLOT
