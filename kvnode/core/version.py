"""Ballots and versions: how they are made, and how an overlay entry stands to a record.

Decides: R5 (ballots), R7 (versions), and the two comparisons that everything else rests on: does an entry *count* over
a base (R15), and is it *visible* over what is committed (R8).  Leaves to others: the byte layout
(`kvclient.wire.values`) and time.

Ballots order rounds; versions order values.  Never one for the other: an adopted dead proposal has a small version and
a great ballot, and choosing by version brings it back (counterexample M4a).
"""

from __future__ import annotations

import struct

from kvclient.wire.values import BALLOT_BYTES, NO_SBALLOT, VERSION_BYTES, Ballot, Version
from kvnode.core.record import Entry

_BALLOT = struct.Struct(">QQIQ")
_STRONG_TAIL = struct.Struct(">QQ")


def ballot_make(stamp: int, node_id: int, incarnation: int, number: int) -> Ballot:
    """Return a ballot; its four parts are compared in this order (R5)."""
    return Ballot(_BALLOT.pack(stamp, node_id, incarnation, number))


def ballot_stamp(ballot: Ballot) -> int:
    """Return the hybrid time of a ballot; 0 for none."""
    return int.from_bytes(ballot[:8], "big")


def ballot_ms(ballot: Ballot) -> int:
    """Return the milliseconds of a ballot's time (R24, R63); 0 for none."""
    return int.from_bytes(ballot[:6], "big")


def ballot_text(ballot: Ballot) -> str:
    """Return a ballot for people: milliseconds.counter@node/incarnation#number; "-" for none; "up to" its time for the
    greatest of a time, which is a promise only."""
    if not ballot:
        return "-"
    stamp, node_id, incarnation, number = _BALLOT.unpack(ballot)
    if ballot == ballot_greatest_at(stamp):
        return f"up to {stamp >> 16}.{stamp & 0xFFFF}"
    return f"{stamp >> 16}.{stamp & 0xFFFF}@{node_id:016x}/{incarnation}#{number}"


def ballot_greatest_at(stamp: int) -> Ballot:
    """Return the greatest ballot with this time: a promise that covers every promise up to `stamp` (R11)."""
    return Ballot(stamp.to_bytes(8, "big") + b"\xff" * (BALLOT_BYTES - 8))


class BallotIssuer:
    """Makes the ballots of one incarnation; the issue number makes each of them unique, whatever the clock does
    (R5)."""

    __slots__ = ("_incarnation", "_node_id", "_number")

    def __init__(self, node_id: int, incarnation: int) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._number = 0

    def issue(self, stamp: int, seen: Ballot) -> Ballot:
        """Return a new ballot with time `stamp`, or one counter step above `seen` if that is later."""
        self._number += 1
        return ballot_make(max(stamp, ballot_stamp(seen) + 1), self._node_id, self._incarnation, self._number)

    def follow(self, ballot: Ballot) -> Ballot:
        """Return a new ballot right above one of this issuer's own: the `next` of an accept (R16, R19)."""
        self._number += 1
        return Ballot(ballot[:20] + self._number.to_bytes(8, "big"))


def version_strong(ballot: Ballot, index: int) -> Version:
    """Return the version of the i-th change of a round (R7)."""
    return Version(ballot + _STRONG_TAIL.pack(0, index))


def version_eventual(sballot: Ballot, stamp: int, node_id: int) -> Version:
    """Return the version of an eventual write that is based on the chosen change `sballot` (R7)."""
    return Version((sballot or NO_SBALLOT) + _STRONG_TAIL.pack(stamp, node_id))


def version_fold(base: Version, entry: Version) -> Version:
    """Return the version of a fold: the base's sballot, the entry's stamp (R7).

    The entry's sballot is greater only where it names a tombstone that was purged since: then the fold keeps it, or the
    copies of the entry would stand above it for ever.
    """
    return Version(max(base[:BALLOT_BYTES] or NO_SBALLOT, entry[:BALLOT_BYTES]) + entry[BALLOT_BYTES:])


ABSENT_VERSION = Version(bytes(VERSION_BYTES))
"""Version of a record that says "absent" and is no change: it carries the request window of a key that has no record.
It supersedes nothing, so an eventual write that was based on "no such key" still counts over it."""


def version_is_absent(version: Version) -> bool:
    """Return whether this version, or its lack, says that the key never had a strong change."""
    return not version or version == ABSENT_VERSION


def version_sballot(version: Version) -> Ballot:
    """Return the ballot of the chosen change that a version is based on."""
    return Ballot(version[:BALLOT_BYTES])


def version_stamp(version: Version) -> int:
    """Return the stamp of an eventual version; 0 for a strong one."""
    return int.from_bytes(version[BALLOT_BYTES : BALLOT_BYTES + 8], "big")


def version_text(version: Version) -> str:
    """Return a version for people; "-" for none."""
    if len(version) != VERSION_BYTES:
        return "-"
    stamp, last = _STRONG_TAIL.unpack(version[BALLOT_BYTES:])
    sballot = version_sballot(version)
    base = "no strong change" if sballot == NO_SBALLOT else ballot_text(sballot)
    return f"{base} + {last}" if stamp == 0 else f"{base} + {stamp >> 16}.{stamp & 0xFFFF}@{last:016x}"


def entry_counts(entry: Entry, base: Version, base_is_absent: bool) -> bool:
    """Return whether an entry counts over a round's base: it had seen exactly that base, and came later (R15).

    `base` is empty if there is no record; `base_is_absent` also holds for a settled tombstone.
    """
    if base_is_absent and entry[0] & 1:
        return True
    version = entry[1 : 1 + VERSION_BYTES]
    return bool(base) and version[:BALLOT_BYTES] == base[:BALLOT_BYTES] and version > base


def entry_proves_stale(entry: Entry, base: Version) -> bool:
    """Return whether an entry *that does not count* names a chosen change above `base`: the quorum missed it (R15)."""
    return entry[1 : 1 + BALLOT_BYTES] > (base[:BALLOT_BYTES] or NO_SBALLOT)


def entry_visible(entry: Entry, committed: Version, committed_is_settled: bool) -> bool:
    """Return whether a replica shows an entry rather than its committed record (R8).  `committed` is empty for none."""
    return entry[1 : 1 + VERSION_BYTES] > committed or bool(committed_is_settled and entry[0] & 1)
