"""Sees every acceptor: what each has on disk, hence which proposals are chosen, and what may follow from that.

Decides: what must hold of the disks of all replicas together, at every moment, and of every answer at the moment in
which a client gets it.  Leaves to others: what clients may conclude from answers (`checkers`), and how the disks are
watched.

On every durable row: one record per ballot (R18); nothing is accepted below a promise (R9); what is committed is chosen
(R12); nothing durable falls back (R45); an eventual write names a chosen change as its base (R7), and no stamp is
issued twice (R3).  Along the chosen records of a key: versions rise (P1); what the request window knows is kept until
it may go (R23, R24); an operation has one outcome.  On every answer: what is acknowledged is chosen, or on W disks;
what is shown is no dead proposal (R6, R20).

It reads the encoded forms itself where a planted mistake could blind it.  Its costs are those of a dictionary per row.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from simulation.graves import Graves
from simulation.violation import broken

from kvclient.wire.values import (
    BALLOT_BYTES,
    BODY_HEADER_BYTES,
    NO_BALLOT,
    NO_SBALLOT,
    VERSION_BYTES,
    Ballot,
    Version,
)
from kvnode.core.record import EMPTY_IMAGE, Entry, Image, Record
from kvnode.core.version import ballot_ms, ballot_text, version_sballot, version_text

_WINDOW: Final = struct.Struct(">8sQQBQ44s")
_APPLIED: Final = 1
NO_FLOORS: Final[Mapping[bytes, Ballot]] = {}
_KEEP_AFTER_DEADLINE_MS: Final = 60_000


class Outcome(NamedTuple):
    """What a request window knows of one operation."""

    mark: int
    result: int
    deadline_ms: int
    version: Version


Outcomes = dict[tuple[bytes, int], Outcome]


def outcomes_of(window: bytes) -> Outcomes:
    """Return what an encoded window remembers, by session and sequence."""
    entries = _WINDOW.iter_unpack(window)
    return {(s, n): Outcome(mark, result, deadline, Version(v)) for s, mark, n, result, deadline, v in entries}


@dataclass
class _Key:
    """What is known of one key."""

    records: dict[Ballot, Record] = field(default_factory=dict)
    """Every record that was accepted anywhere."""
    votes: dict[Ballot, int] = field(default_factory=dict)
    """For each ballot the replicas, as bits, that have accepted it durably at some moment."""
    ballots: list[Ballot] = field(default_factory=list)
    """The chosen ones, in order."""
    windows: dict[Ballot, Outcomes] = field(default_factory=dict)
    """Of chosen records."""
    outcomes: dict[tuple[bytes, int], tuple[int, Version]] = field(default_factory=dict)
    """How each operation ended, by any chosen record."""
    changes: set[Version] = field(default_factory=set)
    """Versions that chosen records have, or that their windows name."""
    bases: set[Ballot] = field(default_factory=lambda: {NO_SBALLOT})
    """Sballots of these versions."""
    entries: dict[Version, Entry] = field(default_factory=dict)
    """Every overlay entry that was ever durable anywhere."""
    sent: set[bytes] = field(default_factory=set)
    """Stamp and node of every entry that reached a replica."""
    written: dict[bytes, Version] = field(default_factory=dict)
    """The version of each content that was written without consensus; clients write each once."""
    disks: dict[int, Image] = field(default_factory=dict)
    """What each replica has on disk."""
    promises: dict[int, Ballot] = field(default_factory=dict)
    """The greatest promise that each replica has ever given."""


class Oracle:
    """The votes of all acceptors of one cluster, all of whose keys have the same accept quorum."""

    def __init__(
        self,
        q2: int,
        *,
        replicas: int = 0,
        now_ms: Callable[[], float] = lambda: 0.0,
        kept_ms: int = _KEEP_AFTER_DEADLINE_MS,
        grace_ms: int = 0,
    ) -> None:
        """`kept_ms`: how long outcomes are kept beyond their deadlines.  `replicas`, `grace_ms`: see `Graves`."""
        self._q2, self._kept_ms, self._now_ms = q2, kept_ms, now_ms
        self.graves = Graves(replicas, grace_ms)
        self._keys: dict[bytes, _Key] = {}
        self._ballots: dict[Ballot, bytes] = {}
        self._stamps: dict[bytes, tuple[bytes, Entry]] = {}

    # -- what disks say

    def on_durable(self, replica: int, key: bytes, image: Image, *, is_synced: bool = True) -> None:
        """Take a row that is on a replica's disk.  One that was written and not synced (a mark) may be lost again."""
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = _Key()
        if is_synced:
            before = known.disks.get(replica, EMPTY_IMAGE)
            if before.settled and image.committed_ballot < before.committed_ballot and image != EMPTY_IMAGE:
                self.on_durable(replica, key, EMPTY_IMAGE)  # the row's removal was replaced by a later row of its group
                before = EMPTY_IMAGE
            if image != EMPTY_IMAGE:
                self._check_kept(replica, key, before, image)
            self.graves.on_row(replica, key, _name(key), known.disks, image, self._now_ms())
            known.disks[replica] = image
        if image.accepted_ballot:
            self._check_promise(replica, key, known, image.accepted_ballot)
            self._vote(replica, key, known, image.accepted_ballot, image.accepted)
        if image.committed_ballot:
            self._check_commit(key, known, image)
        if image.overlay:
            self._take_entry(key, known, image.overlay)

    def on_written(self, replica: int, key: bytes, image: Image) -> None:
        """Take a row that is written, and perhaps never synced: what it calls committed may be shown already (R6)."""
        if image.committed_ballot:
            known = self._keys.setdefault(key, _Key())
            self._check_commit(key, known, image)
            self.graves.check_alive(replica, key, _name(key), known.disks.get(replica, EMPTY_IMAGE), image)

    @staticmethod
    def _check_commit(key: bytes, known: _Key, image: Image) -> None:
        if image.committed_ballot not in known.windows:
            broken("committed and never chosen", f"{_name(key)}: {_record(image.committed)}")
        held = known.records[image.committed_ballot]
        if held != image.committed:
            broken("committed is not what was chosen", f"{_name(key)}: {_record(held)}, {_record(image.committed)}")

    def on_start(self, replica: int, restart_promise: Ballot, floors: Mapping[bytes, Ballot] = NO_FLOORS) -> None:
        """Check a starting replica: what it counts as promised covers every promise that it ever gave (R9, R11); for
        a key that it has purged, the floor of the partition does (R36)."""
        for key, known in self._keys.items():
            given, image = known.promises.get(replica, NO_BALLOT), known.disks.get(replica, EMPTY_IMAGE)
            floor = NO_BALLOT if image.accepted_ballot or image.committed_ballot else floors.get(key[:2], NO_BALLOT)
            if not (image.accepted_ballot or image.committed_ballot):
                self.graves.check_start(replica, key, _name(key), floor)
            if given > max(restart_promise, image.promised, floor):
                broken("a promise was forgotten", f"{_name(key)} at replica {replica}: {ballot_text(given)}")

    @staticmethod
    def _check_kept(replica: int, key: bytes, before: Image, after: Image) -> None:
        held = max(before.accepted_ballot, before.committed_ballot)
        if max(after.accepted_ballot, after.committed_ballot) < held or after.promised < before.promised:
            broken("a durable row fell back", f"{_name(key)} at replica {replica}, from {ballot_text(held)}")

    @staticmethod
    def _check_promise(replica: int, key: bytes, known: _Key, ballot: Ballot) -> None:
        promise = known.promises.get(replica, ballot)
        if ballot < promise and not known.votes.get(ballot, 0) >> replica & 1:
            text = f"{ballot_text(ballot)} at replica {replica}, which had promised {ballot_text(promise)}"
            broken("accepted below a promise", f"{_name(key)}: {text}")

    def _vote(self, replica: int, key: bytes, known: _Key, ballot: Ballot, record: Record) -> None:
        first = known.records.setdefault(ballot, record)
        if first is not record and first != record:
            broken(
                "two records with one ballot",
                f"{_name(key)}, {ballot_text(ballot)}: {_record(first)}, {_record(record)}",
            )
        if self._ballots.setdefault(ballot, key) != key:
            broken("a ballot was used for two keys", f"{ballot_text(ballot)}: {_name(key)}")
        votes = known.votes.get(ballot, 0)
        if votes >> replica & 1:
            return
        votes = known.votes[ballot] = votes | 1 << replica
        if votes.bit_count() == self._q2:
            self._choose(key, known, ballot, record)

    def _choose(self, key: bytes, known: _Key, ballot: Ballot, record: Record) -> None:
        known.windows[ballot] = outcomes = outcomes_of(record.window)
        at = bisect_left(known.ballots, ballot)
        insort(known.ballots, ballot)
        for one, other in ((at - 1, at), (at, at + 1)):
            if one >= 0 and other < len(known.ballots):
                self._check_successor(key, known, known.ballots[one], known.ballots[other])
        for operation, outcome in outcomes.items():
            ended = known.outcomes.setdefault(operation, (outcome.result, outcome.version))
            if ended != (outcome.result, outcome.version):
                broken("an operation ended twice", f"{_name(key)}, {operation[0].hex()}/{operation[1]}")
            if outcome.result == _APPLIED:
                self._note(known, outcome.version)
        self._note(known, record.version)

    @staticmethod
    def _note(known: _Key, version: Version) -> None:
        known.changes.add(version)
        known.bases.add(version_sballot(version))

    def _check_successor(self, key: bytes, known: _Key, earlier: Ballot, later: Ballot) -> None:
        """Check a chosen record against the one chosen before it, unless that was purged between them."""
        if earlier <= self.graves.purged(key) < later:
            return
        below, above = known.records[earlier], known.records[later]
        if below.version > above.version:
            broken("a chosen record was passed over", f"{_name(key)}: {_record(above)} over {_record(below)}, unseen")
        if below.version == above.version and below.body != above.body:
            broken("one version names two values", f"{_name(key)}: {_record(below)}, {_record(above)}")
        if version_sballot(above.version) > later:
            broken("a version is younger than its ballot", f"{_name(key)}: {_record(above)}")
        kept = known.windows[later]
        marks: dict[bytes, int] = {}
        for (session, _), outcome in kept.items():
            marks[session] = max(outcome.mark, marks.get(session, 0))
        for (session, sequence), outcome in known.windows[earlier].items():
            if (session, sequence) in kept or sequence < marks.get(session, 0):
                continue
            if ballot_ms(later) < outcome.deadline_ms + self._kept_ms:
                broken("a request window was lost", f"{_name(key)}: {session.hex()}/{sequence} at {ballot_text(later)}")

    def _take_entry(self, key: bytes, known: _Key, entry: Entry) -> None:
        version = Version(entry[1:45])
        first = known.entries.get(version)
        if first is not None:
            if first != entry:
                broken("two eventual writes with one version", f"{_name(key)}: {first[61:]!r:.80}, {entry[61:]!r:.80}")
            return
        known.entries[version] = entry
        content = entry[1 + BODY_HEADER_BYTES :]
        if content and known.written.setdefault(content, version) != version:
            broken("an eventual write was stamped twice", f"{_name(key)}: {content[1:41]!r}")
        if version_sballot(version) not in known.bases:
            broken("an eventual write is based on what was never chosen", f"{_name(key)}: {version_text(version)}")
        if self._stamps.setdefault(version[BALLOT_BYTES:], (key, entry)) != (key, entry):
            broken("a stamp was issued twice", f"{_name(key)}: {version_text(version)}")

    def on_entry(self, key: bytes, entry: Entry) -> None:
        """Take an eventual write that reaches a replica.  It may be folded though no disk ever holds it: a later one of
        the same group replaces it."""
        self._keys.setdefault(key, _Key()).sent.add(entry[1 + BALLOT_BYTES : 1 + VERSION_BYTES])

    def on_promised(self, replica: int, key: bytes, ballot: Ballot) -> None:
        """Take a promise that leaves a replica: it binds it for ever, whatever it forgets (R9)."""
        known = self._keys.setdefault(key, _Key())
        known.promises[replica] = max(ballot, known.promises.get(replica, ballot))

    def on_accepted(self, replica: int, key: bytes, ballot: Ballot, record: Record) -> None:
        """Take an acknowledgement that leaves a replica.

        A row may have been replaced by a later one of its group: then the disk shows that something later was accepted
        in its place, and the vote counts all the same.
        """
        known = self._keys.setdefault(key, _Key())
        image = known.disks.get(replica, EMPTY_IMAGE)
        if max(image.accepted_ballot, image.committed_ballot) > ballot:
            self._vote(replica, key, known, ballot, record)

    def promised(self, replica: int, key: bytes) -> Ballot:
        """Return the greatest promise for a key that has left a replica."""
        known = self._keys.get(key)
        return NO_BALLOT if known is None else known.promises.get(replica, NO_BALLOT)

    def on_removed(self, replica: int, key: bytes, promised: Ballot, floor: Ballot) -> None:
        """Take the acknowledgement of a removal, with what had been promised before and the floor that stays."""
        self.graves.check_floor(replica, key, _name(key), promised, floor)

    # -- what clients are told

    def answered_applied(self, key: bytes, version: Version) -> None:
        """Check the acknowledgement of a strong change: it is chosen (R16)."""
        known = self._keys.get(key)
        if known is None or version not in known.changes:
            broken("acknowledged and not chosen", f"{_name(key)}: {version_text(version)}")

    def answered_written(self, key: bytes, version: Version, copies: int) -> None:
        """Check the acknowledgement of an eventual write: W disks hold it or what supersedes it (R29)."""
        known = self._keys.get(key, _Key())
        if any(change >= version for change in known.changes):
            return
        holders = sum(
            max(Version(image.overlay[1:45]), image.committed.version) >= version for image in known.disks.values()
        )
        if holders < copies:
            broken(
                "acknowledged and not durable", f"{_name(key)}: {version_text(version)} on {holders} of {copies} disks"
            )

    def answered_shown(self, key: bytes, version: Version, *, is_strong: bool) -> None:
        """Check what a read or a refusal shows: a chosen change, or an eventual write that was on a disk (R6, R20).

        A round may fold a write, show that to one operation, and change it by the next: then something greater is
        chosen.
        """
        known = self._keys.get(key, _Key())
        if version in known.changes or (not is_strong and version in known.entries):
            return
        is_folded = version[BALLOT_BYTES:] in known.sent and any(change > version for change in known.changes)
        if is_strong and is_folded:
            return
        broken(
            "a dirty read" if not is_strong else "a strong read of what is not chosen",
            f"{_name(key)}: {version_text(version)}",
        )

    def check_applied(self, key: bytes, session: bytes, sequence: int, version: Version) -> None:
        """Check that some chosen record remembers an operation as applied with this version (R23)."""
        result, known = self._keys.get(key, _Key()).outcomes.get((session, sequence), (0, None))
        if result != _APPLIED or known != version:
            broken("acknowledged and not chosen", f"{_name(key)}: {session!r}/{sequence}")

    # -- what tests and timelines ask

    def contents(self, key: bytes) -> set[bytes]:
        """Return the contents of all chosen records of a key."""
        known = self._keys.get(key, _Key())
        return {known.records[ballot].content for ballot in known.ballots}

    def chosen(self, key: bytes) -> list[tuple[Ballot, Record]]:
        """Return the chosen ballots of a key and their records, in order."""
        known = self._keys.get(key, _Key())
        return [(ballot, known.records[ballot]) for ballot in known.ballots]

    @property
    def keys(self) -> list[bytes]:
        """Row keys of everything that some disk holds."""
        return sorted(self._keys)


def _name(key: bytes) -> str:
    return repr(key[2:].replace(b"\0", b"/").decode(errors="replace"))


def _record(record: Record) -> str:
    return f"{record.content[1:41]!r} ({version_text(record.version)})"
