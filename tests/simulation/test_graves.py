"""What the oracle holds purges to, fed by hand (R35-R38)."""

from __future__ import annotations

import pytest
from simulation.oracle import Oracle
from simulation.swarm import NO_BIAS, draw
from simulation.violation import Violation

from kvclient.wire.values import Ballot, body_pack
from kvnode.core.record import EMPTY_IMAGE, Image, Record
from kvnode.core.version import ballot_make, version_strong

KEY = b"\0\0default\0k"
REPLICAS = range(3)


class Cemetery:
    """An oracle of three replicas that all have the same tombstone, on a clock set by hand."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.oracle = Oracle(2, replicas=3, now_ms=lambda: self.now_ms, grace_ms=2000)
        self.old = committed(1, b"\0old")
        self.tombstone = committed(2, b"")
        for image in (self.old, self.tombstone):
            for replica in REPLICAS:
                self.write(replica, accepted_of(image))
            for replica in REPLICAS:
                self.write(replica, image)

    def write(self, replica: int, image: Image) -> None:
        """Let a replica's disk sync a row."""
        self.oracle.on_durable(replica, KEY, image)

    def bury(self, *, anchored: int = 3, settled: int = 3, after_ms: float = 2000) -> None:
        """Let so many replicas anchor the tombstone, and so many settle it later."""
        self.anchored = self.tombstone._replace(anchored_ms=1)
        self.settled = self.anchored._replace(settled=True)
        for replica in range(anchored):
            self.write(replica, self.anchored)
        self.now_ms += after_ms
        for replica in range(settled):
            self.write(replica, self.settled)


def committed(number: int, content: bytes) -> Image:
    """Return a row with a chosen record."""
    ballot = ballot_make(number << 32, 1, 1, number)
    record = Record(body_pack(version_strong(ballot, 0), 0, 0, content), b"")
    return EMPTY_IMAGE._replace(promised=ballot, committed_ballot=ballot, committed=record)


def accepted_of(image: Image) -> Image:
    """Return the row in which the record was proposed."""
    return EMPTY_IMAGE._replace(
        promised=image.promised, accepted_ballot=image.committed_ballot, accepted=image.committed
    )


def test_what_all_have_settled_may_go() -> None:
    cemetery = Cemetery()
    cemetery.bury()
    for replica in REPLICAS:
        cemetery.write(replica, EMPTY_IMAGE)
    assert cemetery.oracle.graves.count == 3


def test_all_must_have_anchored_it() -> None:
    cemetery = Cemetery()
    with pytest.raises(Violation, match="settled before all had it"):
        cemetery.bury(anchored=2)


def test_gc_grace_must_have_passed() -> None:
    cemetery = Cemetery()
    with pytest.raises(Violation, match="settled before gc_grace"):
        cemetery.bury(after_ms=1999)


def test_all_must_have_settled_it() -> None:
    cemetery = Cemetery()
    cemetery.bury(settled=2)
    with pytest.raises(Violation, match="removed before all had settled it"):
        cemetery.write(0, EMPTY_IMAGE)


def test_nothing_older_comes_back() -> None:
    cemetery = Cemetery()
    cemetery.bury()
    cemetery.write(0, EMPTY_IMAGE)
    with pytest.raises(Violation, match="what was purged came back"):
        cemetery.write(0, cemetery.old)


def test_nor_does_the_tombstone() -> None:
    cemetery = Cemetery()
    cemetery.bury()
    cemetery.write(0, EMPTY_IMAGE)
    with pytest.raises(Violation, match="what was purged came back"):
        cemetery.write(0, cemetery.tombstone)


def test_a_removal_may_be_hidden_by_a_later_row_of_its_group() -> None:
    cemetery = Cemetery()
    cemetery.bury()
    cemetery.write(0, committed(3, b"")._replace(committed_ballot=Ballot(b""), committed=EMPTY_IMAGE.committed))
    assert cemetery.oracle.graves.count == 1


def test_a_floor_covers_what_was_promised() -> None:
    cemetery = Cemetery()
    cemetery.bury()
    cemetery.write(0, EMPTY_IMAGE)
    tombstone, later = cemetery.tombstone.committed_ballot, committed(3, b"").committed_ballot
    cemetery.oracle.on_removed(0, KEY, later, later)
    with pytest.raises(Violation, match="a floor lies too low"):
        cemetery.oracle.on_removed(0, KEY, later, tombstone)
    with pytest.raises(Violation, match="a floor lies too low"):
        cemetery.oracle.on_start(0, later, {})


def test_eventual_writes_and_wrong_clocks_do_not_meet_where_deletes_are_purged() -> None:
    """R37 judges the age of what comes late by clocks."""
    purged = [scenario for scenario in (draw(seed, NO_BIAS) for seed in range(600)) if scenario.cluster.gc_grace_s]
    assert len(purged) > 40
    for scenario in purged:
        is_eventual = any(not act.strong and act.f != "get" for acts in scenario.clients for act in acts)
        wrong = [fault for fault in scenario.faults if fault.kind in ("clock", "drift", "frozen clock")]
        assert not (is_eventual and (wrong or any(scenario.cluster.offsets_ms))), f"seed {scenario.seed}"
