"""What the oracle knows of purges: which tombstones all replicas have, since when, and that nothing dead comes back.

Decides: what must hold of a removal (R35: all N have anchored it, for gc_grace, and settled it; R36: the floor covers
what was promised), and of every row after it.  Leaves to others: how rows and promises become known (`oracle`).

It believes disks, not acknowledgements.  A row may be replaced by a later one of its group, so a replica that has
accepted something above a tombstone may have anchored or settled it unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from simulation.violation import broken

from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, Version
from kvnode.core.clock import stamp_ms
from kvnode.core.record import EMPTY_IMAGE, Entry, Image
from kvnode.core.version import ballot_ms, ballot_text, version_stamp, version_text


@dataclass
class Grave:
    """The purges of one key."""

    anchored: dict[Ballot, dict[int, float]] = field(default_factory=dict)
    """For each tombstone when each replica was seen to have it anchored."""
    settled: dict[Ballot, int] = field(default_factory=dict)
    """For each tombstone the replicas, as bits, that were seen to have it settled."""
    removed: dict[int, Ballot] = field(default_factory=dict)
    """The last tombstone that each replica has removed."""
    purged: Ballot = NO_BALLOT
    """The greatest ballot of a tombstone that some replica has removed."""
    version: Version = NO_VERSION
    """That tombstone's version."""

    def check_buried(
        self, replica: int, name: str, before: Image, disks: dict[int, Image], replicas: int
    ) -> Ballot | None:
        """Check that what a replica has removed was a tombstone that all N have settled (R35); return its ballot, or
        None if there was nothing but a promise."""
        ballot = before.committed_ballot
        if not (ballot or before.accepted_ballot or before.overlay):
            return None  # a promise that the floor keeps
        if not before.settled or before.accepted_ballot or before.overlay or not before.committed.is_tombstone:
            text = f"{name} at replica {replica}: {version_text(before.committed.version)}"
            broken("removed and not settled", text)
        for other, image in disks.items():
            if NO_BALLOT < max(image.accepted_ballot, image.committed_ballot) < ballot:
                broken("removed before all had it", f"{name} at {replica}, and not at {other}")
            if image.committed_ballot == ballot and not (image.settled or image.accepted_ballot):
                broken("removed before all had settled it", f"{name} at {replica}, and not at {other}")
        above = sum(1 << other for other, image in disks.items() if image.accepted_ballot > ballot)
        if replicas and (self.settled.get(ballot, 0) | above).bit_count() < replicas:
            broken("removed before all had settled it", f"{name} at {replica}, {ballot_text(ballot)}")
        self.removed[replica] = ballot
        if ballot > self.purged:
            self.purged, self.version = ballot, before.committed.version
        return ballot


class Graves:
    """What is known of all keys."""

    def __init__(self, replicas: int, grace_ms: int) -> None:
        """`replicas` is N, 0: not told.  `grace_ms` is how long a tombstone must be kept, 0: clocks tell nothing."""
        self._replicas, self._grace_ms = replicas, grace_ms
        self._graves: dict[bytes, Grave] = {}
        self.count = 0
        """Rows of tombstones that were removed."""

    def purged(self, key: bytes) -> Ballot:
        """Return the greatest ballot of a tombstone of a key that some replica has removed."""
        grave = self._graves.get(key)
        return NO_BALLOT if grave is None else grave.purged

    def version(self, key: bytes) -> Version:
        """Return the version of that tombstone; empty if there is none."""
        grave = self._graves.get(key)
        return NO_VERSION if grave is None else grave.version

    def on_row(self, replica: int, key: bytes, name: str, disks: dict[int, Image], image: Image, now_ms: float) -> None:
        """Take a row that replaces the one in `disks`."""
        before = disks.get(replica, EMPTY_IMAGE)
        grave = self._graves.get(key)
        if grave is None:
            if not (image.anchored_ms or image.settled or image == EMPTY_IMAGE):
                return
            grave = self._graves[key] = Grave()
        if image == EMPTY_IMAGE:
            if before != EMPTY_IMAGE:
                self.count += grave.check_buried(replica, name, before, disks, self._replicas) is not None
            return
        if image.anchored_ms:
            grave.anchored.setdefault(image.committed_ballot, {}).setdefault(replica, now_ms)
        if image.settled:
            self._on_settled(grave, replica, name, disks, image, now_ms)
        if grave.purged:
            self.check_alive(replica, key, name, before, image)

    def _on_settled(
        self, grave: Grave, replica: int, name: str, disks: dict[int, Image], image: Image, now_ms: float
    ) -> None:
        """Check a tombstone that is settled: all N have had it for gc_grace (R35)."""
        ballot, bit = image.committed_ballot, 1 << replica
        settled = grave.settled.get(ballot, 0)
        if settled & bit:
            return
        grave.settled[ballot] = settled | bit
        anchored = grave.anchored.get(ballot, {})
        above = {other for other, held in disks.items() if held.accepted_ballot > ballot}
        if len(anchored.keys() | above) < self._replicas:
            text = f"{name}, {ballot_text(ballot)} at replica {replica}; anchored at {sorted(anchored)}"
            broken("settled before all had it", text)
        if self._grace_ms and now_ms - max(anchored.values(), default=now_ms) < self._grace_ms:
            broken("settled before gc_grace", f"{name}, {ballot_text(ballot)} at replica {replica}")

    def check_alive(self, replica: int, key: bytes, name: str, before: Image, image: Image) -> None:
        """Check a row that is written after a removal: nothing in it is older than what was removed (R36-R38)."""
        grave = self._graves.get(key)
        if grave is None or not grave.purged:
            return
        for ballot in (image.accepted_ballot, image.committed_ballot):
            if NO_BALLOT < ballot < grave.purged or (ballot and grave.removed.get(replica) == ballot):
                _back(name, replica, ballot_text(ballot), grave)
        if image.overlay and image.overlay != before.overlay and self._is_dead(image.overlay, grave):
            _back(name, replica, version_text(Version(image.overlay[1:45])), grave)

    def _is_dead(self, entry: Entry, grave: Grave) -> bool:
        """Return whether an eventual write is one that the tombstone had superseded.

        The new life of a key may begin with an eventual write, whose version is below all of the old life (R8); its
        stamp tells, if clocks do.
        """
        version = Version(entry[1:45])
        is_old = bool(self._grace_ms) and stamp_ms(version_stamp(version)) < ballot_ms(grave.purged)
        return version < grave.version and is_old

    def check_floor(self, replica: int, key: bytes, name: str, promised: Ballot, floor: Ballot) -> None:
        """Check the floor that a removal has left: it covers what was promised, and the tombstone (R36, C11)."""
        grave = self._graves.get(key)
        removed = NO_BALLOT if grave is None else grave.removed.get(replica, NO_BALLOT)
        if floor < max(promised, removed):
            text = f"{name} at replica {replica}: {ballot_text(floor)} under {ballot_text(max(promised, removed))}"
            broken("a floor lies too low", text)

    def check_start(self, replica: int, key: bytes, name: str, floor: Ballot) -> None:
        """Check the floor that a starting replica has for a key that it has removed (R36)."""
        self.check_floor(replica, key, name, NO_BALLOT, floor)


def _back(name: str, replica: int, what: str, grave: Grave) -> NoReturn:
    broken("what was purged came back", f"{name} at replica {replica}: {what}, purged at {ballot_text(grave.purged)}")
