"""What a replica keeps of one key: records of the register, entries of the overlay, and the image that a row holds.

Decides: the shape of these values and nothing else.  They are immutable, so a reader, a group commit and a coordinator
may hold the same one without copying.  Sources: protocol R6, R7, R63.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

from kvclient.wire.values import (
    BODY_HEADER_BYTES,
    ENTRY_ABSENT,
    NO_BALLOT,
    VERSION_BYTES,
    Ballot,
    Version,
    body_times,
)

Entry = NewType("Entry", bytes)
"""An overlay entry: one byte of flags, then a body.  Empty: no entry."""

NO_ENTRY = Entry(b"")


class Record(NamedTuple):
    """One value of the register: the body that readers see and the request window of R23 in its encoded form."""

    body: bytes
    window: bytes

    @property
    def version(self) -> Version:
        """The version that orders this value among the key's values."""
        return Version(self.body[:VERSION_BYTES])

    @property
    def content(self) -> bytes:
        """Tag and payload; empty for a tombstone."""
        return self.body[BODY_HEADER_BYTES:]

    @property
    def is_tombstone(self) -> bool:
        """True if this record says "deleted"."""
        return len(self.body) <= BODY_HEADER_BYTES

    @property
    def expires_at_ms(self) -> int:
        """Milliseconds since 1970 from which the value is absent; 0 means never (R63)."""
        return body_times(self.body)[0]


NO_RECORD = Record(b"", b"")
"""Stands where a ballot is `NO_BALLOT`: nothing was accepted, or nothing committed."""


def entry_make(body: bytes, *, absent: bool) -> Entry:
    """Return the overlay entry for `body`; `absent` says that its base was "no such key" (R7)."""
    return Entry((b"\x01" if absent else b"\x00") + body)


def entry_body(entry: Entry) -> bytes:
    """Return an entry's body."""
    return entry[1:]


def entry_version(entry: Entry) -> Version:
    """Return an entry's version."""
    return Version(entry[1 : 1 + VERSION_BYTES])


def entry_is_absent_based(entry: Entry) -> bool:
    """Return whether the entry was written over "no such key"."""
    return bool(entry[0] & ENTRY_ABSENT)


class Image(NamedTuple):
    """Everything of R6 for one key, as one row of storage holds it.

    `accepted` and `committed` are `NO_RECORD` where their ballot is `NO_BALLOT`.  `promised` is the promise that the
    row carries; the register's live promise may be greater, covered by the promise ceiling (R11).
    """

    promised: Ballot
    accepted_ballot: Ballot
    accepted: Record
    committed_ballot: Ballot
    committed: Record
    overlay: Entry
    settled: bool
    anchored_ms: int = 0
    """Wall clock of this replica when it learnt that all N have accepted its committed tombstone at that one ballot
    (R35, step 1); 0: it has not.  Whatever else changes the image ends it."""


EMPTY_IMAGE = Image(NO_BALLOT, NO_BALLOT, NO_RECORD, NO_BALLOT, NO_RECORD, NO_ENTRY, False)
"""The image of a key that this replica has never stored."""
