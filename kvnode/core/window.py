"""The request window of a key: which operations have been answered, so that a retry is never run again.

Decides: what is remembered of an operation, for how long, and how it is encoded in a record.  Leaves to others: what
the operation does (`change`).

Per client session the window keeps the first-incomplete mark (everything below it was answered) and the outcome of each
operation not below it.  An entry is dropped only by a round whose *ballot's time* is 60 s past the entry's deadline:
ballots rise along the chain of records, so whoever could miss the entry is refused by that same time, on any clock
(R24).

Sources: Lee et al., "Implementing Linearizability at Large Scale and Low Latency" (RIFL, SOSP 2015); protocol R23, R24.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvclient.wire.values import VERSION_BYTES, Version

ENTRIES_MAX = 1024
"""Entries per key (R24): 1,024 x 77 bytes keep a record's window under 80 KiB."""

KEEP_AFTER_DEADLINE_MS = 60_000

APPLIED = 1
UNCHANGED = 2
REFUSED = 3

_ENTRY = struct.Struct(f">8sQQBQ{VERSION_BYTES}s")
ENTRY_BYTES = _ENTRY.size
NO_VERSION_PADDED = Version(bytes(VERSION_BYTES))


class Completed(NamedTuple):
    """How an operation ended: APPLIED with its version, UNCHANGED, or REFUSED with the version that stood in its
    way."""

    result: int
    deadline_ms: int
    version: Version


class Window:
    """The decoded window of one record.  Change it only on the way to a new record, then `encode`."""

    __slots__ = ("_marks", "_sessions", "size")

    def __init__(self) -> None:
        self._sessions: dict[bytes, dict[int, Completed]] = {}
        self._marks: dict[bytes, int] = {}
        self.size = 0

    @classmethod
    def decode(cls, encoded: bytes) -> Window:
        """Return the window that `encode` wrote.  Raises ValueError unless it is a whole number of entries."""
        window = cls()
        if len(encoded) % _ENTRY.size:
            raise ValueError(f"a request window of {len(encoded)} bytes is not a multiple of {_ENTRY.size}")
        for session, mark, sequence, result, deadline_ms, version in _ENTRY.iter_unpack(encoded):
            window._marks[session] = max(mark, window._marks.get(session, 0))
            window._sessions.setdefault(session, {})[sequence] = Completed(result, deadline_ms, version)
            window.size += 1
        return window

    def encode(self) -> bytes:
        """Return the window as bytes: one fixed-width entry after the other."""
        pack, marks = _ENTRY.pack, self._marks
        return b"".join(
            [
                pack(session, marks[session], sequence, entry.result, entry.deadline_ms, entry.version)
                for session, entries in self._sessions.items()
                for sequence, entry in entries.items()
            ]
        )

    def find(self, session: bytes, sequence: int) -> Completed | None:
        """Return how an operation ended, or None if the window does not know it."""
        entries = self._sessions.get(session)
        return entries.get(sequence) if entries else None

    def is_answered(self, session: bytes, sequence: int) -> bool:
        """Return whether the operation lies below its session's mark: its client has its answer, so never run it."""
        return sequence < self._marks.get(session, 0)

    def has_room(self, session: bytes, mark: int) -> bool:
        """Return whether one more operation can be remembered once `mark` has advanced; else refuse new work (R24)."""
        if self.size < ENTRIES_MAX:
            return True
        return any(sequence < mark for sequence in self._sessions.get(session, ()))

    def record(
        self,
        session: bytes,
        mark: int,
        sequence: int,
        result: int,
        deadline_ms: int,
        version: Version = NO_VERSION_PADDED,
    ) -> None:
        """Remember how an operation ended and forget those of its session below `mark`, which must not exceed
        `sequence`.

        The mark lives as long as the entries that carry it, so an entry inherits the latest deadline of those that it
        replaces: else a delayed attempt of one of them could outlive the mark that refuses it.
        """
        entries = self._sessions.get(session)
        if entries is None:
            entries = self._sessions[session] = {}
            self._marks[session] = mark
        else:
            mark = self._marks[session] = max(mark, self._marks[session])
            for answered in [known for known in entries if known < mark]:
                deadline_ms = max(deadline_ms, entries.pop(answered).deadline_ms)
                self.size -= 1
        self.size += sequence not in entries
        entries[sequence] = Completed(result, deadline_ms, version)

    def expire(self, ballot_ms: int) -> None:
        """Drop what a round with this ballot's time may drop (R24)."""
        for session in list(self._sessions):
            entries = self._sessions[session]
            for sequence, entry in list(entries.items()):
                if ballot_ms >= entry.deadline_ms + KEEP_AFTER_DEADLINE_MS:
                    del entries[sequence]
                    self.size -= 1
            if not entries:
                del self._sessions[session]
                del self._marks[session]

    @property
    def ends_ms(self) -> int:
        """The ballot's time at which a round may drop everything in it; 0 if it is empty (R24)."""
        deadlines = [entry.deadline_ms for entries in self._sessions.values() for entry in entries.values()]
        return max(deadlines) + KEEP_AFTER_DEADLINE_MS if deadlines else 0

    def invariants(self) -> None:
        """Raise AssertionError if the count is wrong or an entry lies below its mark."""
        assert self.size == sum(map(len, self._sessions.values())) <= ENTRIES_MAX
        for session, entries in self._sessions.items():
            assert all(sequence >= self._marks[session] for sequence in entries)
