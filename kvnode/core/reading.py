"""The fast strong read: one round trip, no promise, and still never stale.

Decides: R20 and the gathering rule of R37: when a set of digests proves which record is the current one.  Leaves to
others: whom to ask and when to hedge (`kvnode.service.reads`), and the identity round that follows if the digests prove
nothing.

With at least N-Q2+1 replies, let m be the greatest ballot that any of them holds, accepted or committed.  If one reply
marks m committed, or Q2 replies accepted it, m is chosen; and any ballot chosen before the read began has a member of
its accept quorum among the replies, so m is not older (P2).  No clock is involved.

An overlay entry that counts over the record must be absorbed by an accept before a strong read may return it (M8d), and
one that names a greater sballot proves that the replies missed a change: both send the read to a round.
"""

from __future__ import annotations

from enum import IntEnum

from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, Version
from kvnode.core.quorum import Quorums
from kvnode.core.register import Digest, digest_parse
from kvnode.core.version import ABSENT_VERSION, version_is_absent, version_sballot


class Reading(IntEnum):
    """What the replies so far amount to."""

    PENDING = 0
    """Not enough replies, or not yet conclusive: wait for the others."""
    SETTLED = 1
    """`ballot` is the current record's (none: the key is absent)."""
    UNSETTLED = 2
    """Everybody has answered and nothing is proved: ask once more, then run a round."""
    ROUND = 3
    """Only a round can answer: the overlay must be folded."""


class FastRead:
    """The digests of one gathering.

    `needed` raises the number of replies (R27).  `is_second`: every request was sent after the first gathering ended
    (R20, R37).
    """

    __slots__ = ("_digests", "_replies", "ballot", "is_second", "needed", "quorums")

    def __init__(self, quorums: Quorums, *, needed: int = 0, is_second: bool = False) -> None:
        self.quorums = quorums
        self.needed = max(needed, quorums.read)
        self.is_second = is_second
        self._replies: dict[int, bytes] = {}
        self._digests: dict[int, Digest] = {}
        self.ballot = NO_BALLOT

    def on_digest(self, replica: int, encoded: bytes) -> Reading:
        """Take one replica's digest, each replica's once.  Raises ValueError if it is malformed."""
        if replica in self._replies:
            return Reading.PENDING
        self._replies[replica] = encoded
        self._digests[replica] = digest_parse(encoded)
        if len(self._replies) < self.needed:
            return Reading.PENDING
        return self._judge()

    def _judge(self) -> Reading:
        digests = self._digests.values()
        ballot = max(digest.greatest for digest in digests)
        if self._needs_round(ballot):
            return Reading.ROUND
        is_proved = not ballot or self._is_chosen(ballot)
        if is_proved and not (self._has_crossed_a_purge() and not self.is_second):
            self.ballot = ballot
            return Reading.SETTLED
        return Reading.PENDING if len(digests) < self.quorums.n else Reading.UNSETTLED

    def _is_chosen(self, ballot: Ballot) -> bool:
        digests = self._digests.values()
        if any(digest.committed_ballot == ballot for digest in digests):
            return True
        return sum(digest.accepted_ballot == ballot for digest in digests) >= self.quorums.q2

    def _needs_round(self, ballot: Ballot) -> bool:
        """Return whether some entry counts over the record at `ballot`, or proves that the replies missed a change."""
        entries = [digest for digest in self._digests.values() if digest.overlay_version]
        if not entries:
            return False
        base, is_absent = self._base(ballot)
        for digest in entries:
            entry = digest.overlay_version
            if is_absent and digest.overlay_is_absent_based:
                return True
            if version_sballot(entry) > version_sballot(base or ABSENT_VERSION):
                return True
            if base and version_sballot(entry) == version_sballot(base) and entry > base:
                return True
        return False

    def _base(self, ballot: Ballot) -> tuple[Version, bool]:
        """Return the version of the record at `ballot`, and whether it counts as absent; whoever answered first."""
        digests = self._digests.values()
        version = NO_VERSION
        for digest in digests:
            if ballot and ballot == digest.committed_ballot:
                version = digest.committed_version
            elif ballot and ballot == digest.accepted_ballot:
                version = digest.accepted_version
        is_settled = any(digest.is_settled and digest.committed_ballot == ballot for digest in digests)
        return version, is_settled or version_is_absent(version)

    def _has_crossed_a_purge(self) -> bool:
        """Return whether an absent reply's floor stands above another's unsettled record: the read may have begun
        before a purge and counted an old record with an absent one (R37)."""
        floor = max(digest.floor for digest in self._digests.values())
        return bool(floor) and any(
            digest.greatest and not digest.is_settled and digest.greatest <= floor for digest in self._digests.values()
        )

    @property
    def answered(self) -> list[int]:
        """Replicas that have answered, in the order in which they did."""
        return list(self._replies)

    @property
    def replies(self) -> int:
        """Replicas that have answered."""
        return len(self._replies)

    @property
    def is_inconclusive(self) -> bool:
        """True if a quorum has answered, and the others are needed to decide (after PENDING)."""
        return len(self._replies) >= self.needed

    @property
    def is_unmarked(self) -> bool:
        """True if a replica holds the settled record only as accepted: the mark may be lost, send it again (R20)."""
        return any(digest.accepted_ballot == self.ballot for digest in self._digests.values()) and bool(self.ballot)

    @property
    def laggards(self) -> list[int]:
        """Replicas that answered and do not hold the settled record: repair them with a commit (R20).

        None lacks a tombstone that is being purged: absent and settled are the same, and to spread it again would undo
        the purge (R38).
        """
        if any(digest.is_settled and digest.committed_ballot == self.ballot for digest in self._digests.values()):
            return []
        return [replica for replica, digest in self._digests.items() if digest.greatest < self.ballot]
