"""Sees every acceptor of a world: what each has on disk, hence which proposals are chosen, and what may follow.

Asserts, on every durable row: one record per ballot (R18); what is committed is chosen (R12); along the chosen ballots
of a key the versions never fall back (P1).  At the end: what a client was told to be applied is in a chosen record.
"""

from __future__ import annotations

from typing import Any

from world import World, _Host

from kvclient.wire.values import Ballot, Version
from kvnode.core.record import Image, Record
from kvnode.core.version import version_sballot
from kvnode.core.window import APPLIED, Window


class Oracle:
    """The votes of all acceptors."""

    def __init__(self, q2: int) -> None:
        self._q2 = q2
        self._records: dict[tuple[bytes, Ballot], Record] = {}
        self._votes: dict[tuple[bytes, Ballot], int] = {}
        self.chosen: dict[bytes, dict[Ballot, Record]] = {}

    def on_durable(self, replica: int, key: bytes, image: Image) -> None:
        """Take a row that is on a replica's disk."""
        if image.accepted_ballot:
            self._vote(replica, key, image.accepted_ballot, image.accepted)
        if image.committed_ballot:
            held = self.chosen.get(key, {}).get(image.committed_ballot)
            assert held is not None, f"committed and never chosen: {image.committed.content!r}"
            assert held == image.committed, f"committed is not what was chosen: {held.content!r}"

    def _vote(self, replica: int, key: bytes, ballot: Ballot, record: Record) -> None:
        known = self._records.setdefault((key, ballot), record)
        assert known == record, f"two records with one ballot: {known.content!r}, {record.content!r}"
        votes = self._votes[key, ballot] = self._votes.get((key, ballot), 0) | 1 << replica
        chosen = self.chosen.setdefault(key, {})
        if votes.bit_count() >= self._q2 and ballot not in chosen:
            chosen[ballot] = record
            self._check_chain(chosen, ballot)

    def _check_chain(self, chosen: dict[Ballot, Record], ballot: Ballot) -> None:
        ballots = sorted(chosen)
        at = ballots.index(ballot)
        for earlier, later in zip(ballots[max(at - 1, 0) : at + 1], ballots[at : at + 2], strict=False):
            below, above = chosen[earlier].version, chosen[later].version
            assert below <= above, f"{chosen[later].content!r} was chosen over {chosen[earlier].content!r}, unseen"
            assert version_sballot(above) <= later

    def contents(self, key: bytes) -> set[bytes]:
        """Return the contents of all chosen records of a key."""
        return {record.content for record in self.chosen.get(key, {}).values()}

    def check_applied(self, key: bytes, session: bytes, sequence: int, version: Version) -> None:
        """Assert that some chosen record remembers an operation as applied with this version (R23)."""
        for record in self.chosen.get(key, {}).values():
            known = Window.decode(record.window).find(session, sequence)
            if known is not None and known.result == APPLIED:
                assert known.version == version, "an operation was applied twice, under two versions"
                return
        raise AssertionError(f"acknowledged and not chosen: {session!r}/{sequence}")


class WatchedWorld(World):
    """A world whose disks an oracle watches."""

    def __init__(self, nodes: int, seed: int, **options: Any) -> None:
        self.oracle = Oracle(options["store"].q2)
        super().__init__(nodes, seed, **options)

    def _start(self, index: int, *arguments: Any, **options: Any) -> _Host:
        host = super()._start(index, *arguments, **options)
        put = host.engine.put

        def watched(key: bytes, image: Image, *, sync: bool, then: Any) -> None:
            def durable() -> None:
                self.oracle.on_durable(index, key, image)
                if then is not None:
                    then()

            put(key, image, sync=sync, then=durable)

        host.engine.put = watched  # type: ignore[method-assign]
        return host

    def micro(self) -> bool:
        """Do one thing of all that could happen now; False if nothing can."""
        if self.rng.random() < 0.5:
            return self.scheduler.turn() or self._deliver_any()
        return self._deliver_any() or self.scheduler.turn()
