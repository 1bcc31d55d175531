"""One node of the model: the real register on a disk that loses what was not synced, as `kvnode.service` drives it.

Messages are tuples; `send(node, message)` puts one on the network of the schedule, which may deliver it late, twice, in
any order, or never.  A duplicate is delivered only to the process that got the first copy, as a connection would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from property.onekey.oracle import Oracle, operations_of

from kvclient.wire.values import NO_BALLOT, Ballot, body_pack
from kvnode.core.clock import HybridClock, stamp_ms
from kvnode.core.proposer import Promise
from kvnode.core.record import EMPTY_IMAGE, NO_ENTRY, NO_RECORD, Entry, Image, Record, entry_make, entry_version
from kvnode.core.record import entry_is_absent_based as is_absent_based
from kvnode.core.register import Register, Verdict, digest_of
from kvnode.core.version import (
    BallotIssuer,
    ballot_greatest_at,
    ballot_stamp,
    version_eventual,
    version_sballot,
    version_stamp,
)

Send = Callable[[int, tuple[Any, ...]], None]


@dataclass
class Switches:
    """Rules of the service, not of the core, that a mutant may switch off."""

    promise_is_durable: bool = True
    shows_durable_only: bool = True
    acks_durable_only: bool = True
    bases_on_chosen: bool = True
    """An eventual write is based on what is committed, never on what is only accepted (R7)."""
    forgets_cached_after_timeout: bool = True
    uses_cached_exactly: bool = True
    repairs_chosen_only: bool = True
    ballots_unique: bool = True


class Node:
    """Acceptor, overlay and clock of one node."""

    def __init__(self, index: int, send: Send, oracle: Oracle, offset_ms: int, max_offset_ms: int, on: Switches):
        self.index = index
        self.send = send
        self.oracle = oracle
        self.offset_ms = offset_ms
        self.max_offset_ms = max_offset_ms
        self.on = on
        self.disk: Image = EMPTY_IMAGE
        self.pending: list[tuple[Image, Ballot, int, tuple[Any, ...] | None]] = []
        self.incarnation = 0
        self.ceiling = 0
        self.start()

    def start(self) -> None:
        """Begin a new life from the disk alone (R1, R3, R11)."""
        self.incarnation += 1
        promised = ballot_greatest_at(self.ceiling) if self.ceiling and self.on.promise_is_durable else NO_BALLOT
        self.register = Register(self.disk, promised)
        self.hybrid = HybridClock(self.max_offset_ms, self.ceiling)
        self.issuer = BallotIssuer(self.index + 1, self.incarnation)
        self.pending.clear()
        if not self.on.ballots_unique:
            self.issuer = BallotIssuer(1, 1)
            self.hybrid = HybridClock(self.max_offset_ms)

    def stamp(self, now_ms: int, above: int = 0) -> int:
        """Return a stamp; where the ceiling stands in the way, a higher one is made durable first."""
        while (stamp := self.hybrid.issue(now_ms + self.offset_ms, above)) is None:
            self.ceiling = max(self.hybrid.next_ceiling(now_ms + self.offset_ms), above + 1)
            self.hybrid.raise_ceiling(self.ceiling)
        return stamp

    # -- messages

    def on_message(self, message: tuple[Any, ...], now_ms: int) -> None:
        """Serve a message to the replica: (kind, from, number, ...)."""
        kind, sender, number = message[:3]
        if kind == "prepare":
            self._on_prepare(sender, number, message[3], now_ms)
        elif kind == "accept":
            self._on_accept(sender, number, *message[3:])
        elif kind == "commit":
            self._on_commit(sender, message[3], message[4])
        elif kind == "entry":
            if self.register.store(message[3]) is Verdict.DONE:
                self._put(sender, None)
        else:
            self.send(sender, ("digest", self.index, number, digest_of(self.register.shown, NO_BALLOT)))

    def _on_prepare(self, sender: int, number: int, ballot: Ballot, now_ms: int) -> None:
        register = self.register
        before = register.promise
        verdict = register.prepare(ballot, now_ms + self.offset_ms, self.max_offset_ms)
        if verdict is Verdict.NACK:
            self.send(sender, ("nack", self.index, number, before))
        elif verdict is Verdict.SKEW:
            self.send(sender, ("refused", self.index, number))
        elif register.pins or ballot_stamp(ballot) > self.hybrid.ceiling:
            register.image = image = register.image._replace(promised=ballot)
            self._put(sender, ("promise", self.index, number, self._promise(image)), self.on.promise_is_durable)
        else:
            self.send(sender, ("promise", self.index, number, self._promise(register.image)))

    def _on_accept(
        self, sender: int, number: int, ballot: Ballot, record: Record, base: Any, following: Ballot, commit: Ballot
    ) -> None:
        if commit:
            self._on_commit(sender, commit, NO_RECORD)
        verdict = self.register.accept(ballot, record, base, following)
        overlay = self.register.image.overlay
        if verdict is Verdict.DONE:
            shown = overlay if overlay and entry_version(overlay) > record.version else NO_ENTRY
            self._put(sender, ("accepted", self.index, number, shown), self.on.acks_durable_only, ballot)
        elif verdict is Verdict.NACK:
            self.send(sender, ("nack", self.index, number, self.register.promise))
        elif verdict is Verdict.UNSEEN:
            self.send(sender, ("refused", self.index, number))
        elif self.register.pins:
            self._put(sender, ("accepted", self.index, number, NO_ENTRY))
        else:
            self.send(sender, ("accepted", self.index, number, NO_ENTRY))

    def _on_commit(self, sender: int, ballot: Ballot, record: Record) -> None:
        if self.register.commit(ballot, record) is Verdict.UNKNOWN:
            self.send(sender, ("unknown", self.index, 0, ballot))

    @staticmethod
    def _promise(image: Image) -> Promise:
        return Promise(*image[1:7], NO_BALLOT)

    # -- the disk

    def _put(self, to: int, reply: Any, waits: bool = True, accepted: Ballot = NO_BALLOT) -> None:
        image = self.register.image
        self.register.pins += 1
        self.pending.append((image, accepted, to, reply if waits else None))
        if not self.on.shows_durable_only:
            self.register.shown = image
        if not waits:
            self.send(to, reply)

    def flush(self) -> None:
        """Write what is only in memory (an unsynced commit), for nobody."""
        self._put(self.index, None)

    def sync(self, rows: int) -> None:
        """Make the oldest rows durable; their answers leave."""
        group, self.pending = self.pending[:rows], self.pending[rows:]
        for image, accepted, to, reply in group:
            self.disk = image
            self.register.on_durable(image)
            if accepted:
                self.oracle.hold(self.index, accepted)
            if reply is not None:
                self.send(to, reply)

    def check(self) -> None:
        """Check the register and what it shows."""
        register = self.register
        register.invariants()
        for image in (register.image, register.shown):
            self.oracle.check_shown(image.committed_ballot, image.committed.version, image.overlay)

    # -- eventual writes (R7, R29), as `kvnode.service.eventual` stamps them

    def write(self, now_ms: int, content: bytes) -> Entry:
        """Stamp an eventual write here, store it, and return its entry for the others."""
        image = self.register.image
        base_ballot, committed = image.committed_ballot, image.committed.version
        if not self.on.bases_on_chosen and image.accepted_ballot:
            base_ballot, committed = image.accepted_ballot, image.accepted.version
        seen = operations_of(self.oracle.lineages[base_ballot])
        base, is_absent = committed, not committed
        overlay, held = image.overlay, entry_version(image.overlay)
        if overlay and held > committed:
            seen |= self.oracle.seen[held]
            if version_sballot(held) > (version_sballot(committed) or bytes(28)):
                base, is_absent = held, is_absent_based(overlay)
        above = max(map(version_stamp, (committed, image.accepted.version, held)))
        stamp = self.stamp(now_ms, above)
        version = version_eventual(version_sballot(base), stamp, self.index + 1)
        self.oracle.seen[version] = seen
        entry = entry_make(body_pack(version, 0, stamp_ms(stamp), content), absent=is_absent)
        if self.register.store(entry) is not Verdict.DONE:
            raise AssertionError("a new eventual write does not win at its own replica (R7)")
        self._put(self.index, None)
        return entry
