"""One round of one key: prepare, decide, accept; in one round trip where a cached promise allows it.

Decides: R14-R19: which record is the base, when the overlay counts, when an answer has its evidence, when a round is
won, lost, or must begin again above what it saw.  Leaves to others: sending, timing, backing off
(`kvnode.service.consensus`), and what the operations do (`change`).

A round has one ballot and proposes at most one record with it, ever.  The caller feeds it replies and obeys the `Step`
that each returns:

    PREPARE  -- promises -->  evidence suffices: ANSWERED  |  PROPOSE: send the accept to all N  |  RETRY
    ACCEPT   -- acks     -->  CHOSEN: tell the results, commit lazily  |  RETRY: a new round above `seen`

After RETRY the round is dead: its late replies must not be fed.  Its accepts may still be chosen, so operations that
were in it are in doubt unless every acceptor that got it refused it (R21).

Two traps, each of which lost acknowledged writes in well-known code: a promise kept after an accept that failed without
a conflict (a `CachedPromise` is made only from Q2 acks, and used once), and "fast-forward" by assignment instead of
maximum.

Sources: Rystsov, "CASPaxos" (2018), sections 2.2 and 3.1 (one-round-trip); protocol R14-R19, P1-P4.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, Version, body_times
from kvnode.core import change
from kvnode.core.operation import Operation, Result
from kvnode.core.quorum import Quorums, Tally
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Record, entry_body, entry_version
from kvnode.core.version import entry_counts, entry_proves_stale, version_is_absent, version_sballot


class Promise(NamedTuple):
    """What a replica shows with a promise, or when its whole state is read: everything durable of one key."""

    accepted_ballot: Ballot
    accepted: Record
    committed_ballot: Ballot
    committed: Record
    overlay: Entry
    settled: bool
    floor: Ballot

    @property
    def greatest(self) -> tuple[Ballot, Record]:
        """The record with the greatest ballot; an accepted entry below the committed one is dead (R15)."""
        if self.accepted_ballot > self.committed_ballot:
            return self.accepted_ballot, self.accepted
        return self.committed_ballot, self.committed


class Step(IntEnum):
    """What the caller does next."""

    WAIT = 0
    PROPOSE = 1
    ANSWERED = 2
    CHOSEN = 3
    RETRY = 4


class CachedPromise(NamedTuple):
    """Leave to start the next round of a key in phase 2, at exactly `ballot`, once (R19).

    `record` was chosen at the ballot before it; `overlay` is the latest entry that its acknowledgements showed.
    """

    ballot: Ballot
    record: Record
    record_ballot: Ballot
    overlay: Entry


class Round:
    """A round over a batch of operations on one key."""

    __slots__ = (
        "_newly_in_doubt",
        "ballot",
        "base",
        "base_ballot",
        "base_version",
        "following",
        "operations",
        "overlay",
        "promises",
        "quorums",
        "record",
        "refused",
        "results",
        "seen",
        "sent",
        "tally",
    )

    def __init__(
        self, ballot: Ballot, following: Ballot, operations: list[Operation], members: int, quorums: Quorums
    ) -> None:
        assert following > ballot
        self.ballot = ballot
        self.following = following
        self.operations = operations
        self.quorums = quorums
        asked = operations[0].copies if operations and operations[0].is_read else 0
        self.tally = Tally(members, max(quorums.q1, asked))
        self.promises: dict[int, Promise] = {}
        self.base_ballot = NO_BALLOT
        self.base = NO_RECORD
        """What the promises showed last; after ANSWERED it is proved to be chosen."""
        self.record = NO_RECORD
        self.base_version = NO_VERSION
        """Version that an accept without a prepare was computed from; empty after a prepare (R10)."""
        self.results: list[Result] = []
        self.overlay = NO_ENTRY
        self.seen = ballot
        """Greatest ballot met: a new round must lie above it (R18)."""
        self.sent = False
        """True once the record may have been proposed to an acceptor."""
        self.refused = 0
        """Acceptors that refused the record, as bits: if all did, the operations are not in doubt (R21)."""
        self._newly_in_doubt: list[Operation] = []

    # -- phase 1

    def on_promise(self, replica: int, promise: Promise, now_ms: int) -> Step:
        """Take a promise; with Q1 of them choose the base, fold, and apply the operations (R15-R17)."""
        if self.sent or replica in self.promises or not 1 << replica & self.tally.members:
            return Step.WAIT
        self.promises[replica] = promise
        self.tally.add_yes(replica)
        if not self.tally.won:
            return Step.WAIT
        ballot, base = max((p.greatest for p in self.promises.values()), key=lambda pair: pair[0])
        self.base_ballot, self.base = ballot, base
        is_settled = any(p.settled and p.committed_ballot == ballot for p in self.promises.values())
        is_absent = is_settled or version_is_absent(base.version)
        entry, stale = _entry_to_fold(self.promises, base.version, is_absent, self.ballot)
        if stale:
            self.seen = max(self.seen, stale)
            return Step.RETRY
        outcome = change.apply(self.ballot, base, entry, self.operations, now_ms, is_settled=is_settled)
        if not outcome.needs_accept and self._has_evidence(ballot):
            self.results = outcome.results
            return Step.ANSWERED
        return self._propose(outcome)

    def _has_evidence(self, ballot: Ballot) -> bool:
        """Return whether the promises prove that the base is chosen, so that nothing need be accepted (R17).

        "Absent" is proved by any Q1 empty promises: whatever was chosen below this ballot has a member among them, and
        nothing below it can be chosen any more.
        """
        if not ballot:
            return True
        holders = [p for p in self.promises.values() if ballot in (p.accepted_ballot, p.committed_ballot)]
        if len(holders) >= self.quorums.q2:
            return True
        is_marked = any(p.committed_ballot == ballot for p in holders)
        return is_marked and len(self.promises) >= self.quorums.anchored

    # -- phase 2

    def begin_cached(self, cached: CachedPromise, home: Entry, now_ms: int) -> Step:
        """Start in phase 2 at a cached promise (R19): PROPOSE, or RETRY if it may not be used (nothing was sent).

        `home` is the overlay that this node's own replica shows.
        """
        assert cached.ballot == self.ballot > cached.record_ballot
        base = cached.record
        entry = NO_ENTRY
        for candidate in (home, cached.overlay):
            if not candidate:
                continue
            if entry_counts(candidate, base.version, False):
                entry = max(entry, candidate, key=_order)
            elif entry_proves_stale(candidate, base.version):
                return Step.RETRY
        if base.expires_at_ms or (entry and body_times(entry_body(entry))[0]):
            return Step.RETRY  # the cached ballot's time is older than what may have expired since (R63)
        self.base_version = entry_version(entry) if entry else base.version
        outcome = change.apply(self.ballot, base, entry, self.operations, now_ms)
        return self._propose(outcome)

    def _propose(self, outcome: change.Change) -> Step:
        self.record, self.results = outcome.record, outcome.results
        self.sent = True
        needed = max([self.quorums.q2, *[operation.copies for operation in self.operations]])
        self.tally = Tally(self.tally.members, needed)
        for operation in self.operations:
            operation.was_proposed = True
            if not operation.is_in_doubt:
                operation.is_in_doubt = True
                self._newly_in_doubt.append(operation)
        return Step.PROPOSE

    def on_accepted(self, replica: int, overlay: Entry) -> Step:
        """Take an acknowledgement of the record; Q2 of them choose it (R16), or as many as were asked for (R27)."""
        if not self.sent:
            return Step.WAIT
        if overlay:
            self.overlay = max(self.overlay, overlay, key=_order)
        self.tally.add_yes(replica)
        return Step.CHOSEN if self.tally.won else Step.WAIT

    def cached_promise(self) -> CachedPromise:
        """Return the promise that a chosen round leaves behind: every acceptor that acked has promised `following`."""
        return CachedPromise(self.following, self.record, self.ballot, self.overlay)

    def anchor(self) -> Ballot:
        """Return this round's ballot if it was a mere identity round of a tombstone, all of whose outcomes may be
        forgotten (R24): after CHOSEN with all N, step 1 of its purge (R35)."""
        record = self.record
        is_bare = record.is_tombstone and not record.window
        return self.ballot if is_bare and record.body == self.base.body else NO_BALLOT

    # -- refusals, in either phase

    def on_nack(self, replica: int, promised: Ballot) -> Step:
        """Take a refusal by a greater promise; RETRY once the quorum has become impossible (R18)."""
        self.seen = max(self.seen, promised)
        return self._refuse(replica)

    def on_refused(self, replica: int) -> Step:
        """Take a refusal for another reason (unseen overlay, clock skew, full disk): nothing was changed there."""
        return self._refuse(replica)

    def on_lost(self, replica: int) -> Step:
        """Take the loss of a link: the replica may or may not have done what it was sent."""
        self.tally.add_no(replica)
        return Step.RETRY if self.tally.lost else Step.WAIT

    def _refuse(self, replica: int) -> Step:
        self.tally.add_no(replica)
        if self.sent:
            self.refused |= 1 << replica & self.tally.members
        return Step.RETRY if self.tally.lost else Step.WAIT

    def clear_doubt(self, reached: int) -> None:
        """After RETRY: if all acceptors that got the record (`reached`, as bits) refused it, this round had no effect
        and puts no operation in doubt (R21)."""
        if not reached & ~self.refused:
            for operation in self._newly_in_doubt:
                operation.is_in_doubt = False

    def invariants(self) -> None:
        """Raise AssertionError if the round is in a state that it cannot reach."""
        self.tally.invariants()
        assert self.sent == bool(self.record.body)
        assert not self.sent or len(self.results) == len(self.operations)
        assert self.following > self.ballot


def _order(entry: Entry) -> Version:
    return entry_version(entry)


def _entry_to_fold(
    promises: dict[int, Promise], base: Version, is_absent: bool, ballot: Ballot
) -> tuple[Entry, Ballot]:
    """Return the latest entry that counts over the base, and the sballot that proves the round stale (R15), if any.

    A change that was chosen below this round's own `ballot` is in the base's history (P1).  If the base is "absent" all
    the same, the change was a delete, and is purged: an entry that had seen it is later, and counts.
    """
    entry, stale = NO_ENTRY, NO_BALLOT
    for promise in promises.values():
        overlay = promise.overlay
        if not overlay:
            continue
        sballot = version_sballot(entry_version(overlay))
        is_above = entry_proves_stale(overlay, base)
        if entry_counts(overlay, base, is_absent) or (is_above and is_absent and sballot < ballot):
            entry = max(entry, overlay, key=_order)
        elif is_above:
            stale = max(stale, sballot)
    return entry, stale
