"""Eventual writes and reads: R and W replicas, last write wins, and never over a strong write that it had not seen.

Decides: the version of an eventual write (R7, R29), how many acknowledgements and replies are enough (R27, R31), and
the repair of replicas that were behind.  Leaves to others: the overlay's rules (`core.register`), strong reads
(`consensus`), the wire.

A write is stamped once, at an owner, and never again (R25): sent twice under two stamps it would be two writes (C2).
Its base is a *chosen* change: an undecided proposal for the key is given a moment to be committed first, and a stamp or
token that a client brings counts once its base is known to be chosen (R7, 4a).
"""

from __future__ import annotations

from collections.abc import Callable

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import (
    BODY_HEADER_BYTES,
    NO_BALLOT,
    NO_SBALLOT,
    NO_VERSION,
    VERSION_BYTES,
    Version,
    body_pack,
    body_times,
    body_version,
)
from kvnode.core.clock import stamp_ms
from kvnode.core.operation import Operation, Result
from kvnode.core.proposer import Promise
from kvnode.core.quorum import Tally
from kvnode.core.record import Image, entry_is_absent_based, entry_make, entry_version
from kvnode.core.register import visible_body
from kvnode.core.version import version_eventual, version_is_absent, version_sballot, version_stamp
from kvnode.runtime import Runtime
from kvnode.service.ceilings import Ceilings
from kvnode.service.commits import Commits
from kvnode.service.consensus import Consensus
from kvnode.service.drafts import Draft, Waiting
from kvnode.service.exchange import Exchanges
from kvnode.service.handoff import Handoff
from kvnode.service.placement import Placement
from kvnode.service.registers import Registers
from kvnode.service.requests import Request, Statistics
from kvnode.service.states import image_of, promise_of, spread_version

_UNDECIDED_WAIT_S = 0.05
"""What a write waits for the commit of an undecided proposal (protocol 4a)."""
_UNDECIDED_STEP_S = 0.005
_REFUSALS = ("clock-skew", "overloaded")


class _Write:
    """An entry on its way to the owners.

    It is answered once W of them have it, this node among them unless it refused: who asks here next sees the write.
    With W = 1 that makes this node's word enough, so the others get the entry without a number and do not answer;
    `fallback` sends it to them again, with the number, should this node refuse.
    """

    __slots__ = (
        "deadline_s", "eventual", "fallback", "home", "maybe", "number", "refusal", "request", "superseded", "tally",
        "version",
    )  # fmt: skip

    def __init__(self, eventual: Eventual, request: Request, tally: Tally, version: Version, deadline_s: float) -> None:
        self.eventual = eventual
        self.request = request
        self.tally = tally
        self.version = version
        self.deadline_s = deadline_s
        self.home = eventual.home_bit
        self.fallback: Callable[[], None] | None = None
        self.number = 0
        self.superseded = 0
        self.refusal = "quorum-unreachable"
        self.maybe = False
        """True if a replica whose answer never came may have stored the entry."""

    def on_reply(self, index: int, message: Message) -> None:
        if message[0] == m.WRITTEN:
            self.tally.add_yes(index)
            self.superseded |= message[2]
        else:
            self.tally.add_no(index)
            self.refusal = message[2] if message[0] == m.REFUSED else "overloaded"
            if self.fallback is not None:
                fallback, self.fallback = self.fallback, None
                fallback()
                return
        self.check()

    def on_lost(self, index: int) -> None:
        if self.tally.members >> index & 1:
            self.maybe = True
            self.tally.add_no(index)
            self.check()

    def check(self) -> None:
        """Answer if W is reached, or can no longer be reached."""
        tally = self.tally
        if tally.won:
            if (tally.yes | tally.no) & self.home:
                self._answer_applied()
        elif tally.lost and (self.maybe or tally.yes):
            self.eventual.close(self.number)
            self.request.leave_unknown()
        elif not tally.members & ~tally.no:  # all refused; until then one that has not answered may have stored it
            self.eventual.close(self.number)
            self.request.fail(self.refusal if self.refusal in _REFUSALS else "quorum-unreachable")

    def _answer_applied(self) -> None:
        self.eventual.close(self.number)
        self.request.answer((m.APPLIED, self.request.number, self.version, self.superseded))

    def on_deadline(self) -> None:
        if self.tally.won:
            self._answer_applied()
        else:
            self.eventual.close(self.number)
            self.request.leave_unknown()


class _Read:
    """A gathering of whole states for an eventual read of more than one replica."""

    __slots__ = ("deadline_s", "eventual", "key", "number", "request", "states", "tally")

    def __init__(self, eventual: Eventual, request: Request, key: bytes, tally: Tally, deadline_s: float) -> None:
        self.eventual = eventual
        self.request = request
        self.key = key
        self.tally = tally
        self.deadline_s = deadline_s
        self.number = 0
        self.states: dict[int, Promise] = {}

    def on_reply(self, index: int, message: Message) -> None:
        if message[0] != m.PROMISE:
            self.on_lost(index)
            return
        self.tally.add_yes(index)
        self.states[index] = promise_of(message)
        if self.tally.won:
            self.eventual.finish_read(self)

    def on_lost(self, index: int) -> None:
        self.tally.add_no(index)
        if self.tally.lost:
            self.eventual.close(self.number)
            self.request.fail("quorum-unreachable")

    def on_deadline(self) -> None:
        self.eventual.close(self.number)
        self.request.fail("deadline-exceeded")


class Eventual:
    """The eventual operations of a coordinator."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        registers: Registers,
        ceilings: Ceilings,
        commits: Commits,
        consensus: Consensus,
        handoff: Handoff,
        statistics: Statistics,
        runtime: Runtime,
        node_id: int,
        epoch: int,
    ) -> None:
        self._names = names
        self._home_only = (home,)
        self.home_bit = 1 << home
        self._exchanges = exchanges
        self._registers = registers
        self._ceilings = ceilings
        self._commits = commits
        self._consensus = consensus
        self._handoff = handoff
        self._statistics = statistics
        self._runtime = runtime
        self._node_id = node_id
        self._epoch = epoch
        self._waiting = Waiting(ceilings, runtime.timers, self.write)
        self._open: dict[int, _Write | _Read] = {}
        self.clock_is_good = True
        """False while this node's clock is too far from a majority's (R4): no eventual write is coordinated then."""
        self.refuses_writes: Callable[[], bool] = lambda: False
        """Whether this node takes none: then the others must answer, so that nothing is in doubt if all refuse."""

    # -- writes

    def write(self, draft: Draft) -> None:
        """Stamp a write at this owner and send it to all; answered after W of them have it on disk (R29)."""
        request, placement = draft.request, draft.placement
        if self._exchanges.reachable(placement.members) < max(1, draft.w):
            request.fail("quorum-unreachable")
            return
        if not self.clock_is_good or self._ceilings.hybrid.is_ahead(self._runtime.clock.wall_ms()):
            request.fail("clock-skew")
            return
        image = self._registers.get(draft.key).image
        if image.accepted_ballot and self._waits_for_decision(draft):
            return
        if _is_unconfirmed(draft.token, image):
            self._confirm_token(draft)
            return
        self._stamp(draft, image)

    def _waits_for_decision(self, draft: Draft) -> bool:
        """Come back a little later while a proposal is undecided, at most 50 ms in all (R7, 4a)."""
        now_s = self._runtime.clock.monotonic_s()
        if not draft.patience_s:
            draft.patience_s = now_s + _UNDECIDED_WAIT_S
        if now_s >= draft.patience_s:
            return False
        self._waiting.for_decision(draft, _UNDECIDED_STEP_S)
        return True

    def _confirm_token(self, draft: Draft) -> None:
        """Learn whether the strong change that the client saw is chosen, then stamp on top of it (4a)."""

        def on_read(body: bytes) -> None:
            if _is_unconfirmed(draft.token, self._registers.get(draft.key).image):
                draft.token = NO_VERSION  # not a chosen change of this cluster: never a base
            self.write(draft)

        self._read_strongly(draft, on_read)

    def _read_strongly(self, draft: Draft, then: Callable[[bytes], None]) -> None:
        """Read the key strongly, which brings the chosen record here, and call `then` with its body; or fail."""

        def on_read(result: Result) -> None:
            if result.code:
                draft.request.fail(result.code)
            elif draft.request.is_open:
                then(result.body)

        now_ms = self._runtime.clock.wall_ms()
        remaining_ms = max(0, int((draft.deadline_s - self._runtime.clock.monotonic_s()) * 1000))
        read = Operation((), b"", 0, 1, 0, now_ms, now_ms + remaining_ms, on_read)
        self._consensus.submit(draft.key, draft.placement, read)
        self._consensus.start_ready()

    def _stamp(self, draft: Draft, image: Image) -> None:
        committed, overlay = image.committed.version, image.overlay
        base, is_absent = committed, version_is_absent(committed) or image.settled
        held = entry_version(overlay)
        if version_sballot(held) > (version_sballot(committed) or NO_SBALLOT):
            base, is_absent = held, entry_is_absent_based(overlay)  # the overlay has seen a later chosen change
        seen = (held, draft.token, committed, image.accepted.version)
        above = max([version_stamp(version) for version in seen if version] or [0])
        hybrid = self._ceilings.hybrid
        if stamp_ms(above) > self._runtime.clock.wall_ms() + hybrid.max_offset_ms:
            draft.request.fail("clock-skew")  # to stamp above it would carry this node's clock away (R2)
            return
        stamp = self._ceilings.stamp(above)
        if stamp is None:
            self._waiting.for_ceiling(draft, above)
            return
        version = version_eventual(version_sballot(base), stamp, self._node_id)
        if draft.stamp_only:
            draft.request.answer((m.STAMPED, draft.request.number, bytes([is_absent]) + version))
            return
        self._send(draft, version, is_absent=is_absent)

    def send_stamped(self, draft: Draft, stamped: bytes) -> None:
        """Send a write that already has its version, unchanged; as often as the client asks (R25).

        A stamp that no coordinator gave is refused: its base would stand above every ballot for ever (R7).
        """
        request, version = draft.request, Version(stamped[1 : 1 + VERSION_BYTES])
        is_absent = bool(stamped[0] & 1)
        if self._exchanges.reachable(draft.placement.members) < max(1, draft.w):
            request.fail("quorum-unreachable")
        elif self._runtime.clock.wall_ms() - stamp_ms(version_stamp(version)) > 1000 * draft.placement.store.gc_grace_s:
            request.fail("invalid-request", "the stamp is older than gc_grace: the key may have been purged since")
        elif stamp_ms(version_stamp(version)) > self._runtime.clock.wall_ms() + self._ceilings.hybrid.max_offset_ms:
            request.fail("clock-skew", "the stamp is further ahead of this node's clock than max_offset; ask again")
        elif not _is_unconfirmed(version, self._registers.get(draft.key).image):
            self._send(draft, version, is_absent=is_absent)
        else:

            def on_read(body: bytes) -> None:
                is_known = version_sballot(body_version(body)) >= version_sballot(version)
                if is_known or not _is_unconfirmed(version, self._registers.get(draft.key).image):
                    self._send(draft, version, is_absent=is_absent)
                else:
                    request.fail("invalid-request", "the stamp names a strong change that no replica knows")

            self._read_strongly(draft, on_read)

    def _send(self, draft: Draft, version: Version, *, is_absent: bool) -> None:
        created_ms = stamp_ms(version_stamp(version))
        expires_ms = created_ms + draft.ttl_ms if draft.ttl_ms and draft.content else 0
        entry = entry_make(body_pack(version, expires_ms, created_ms, draft.content), absent=is_absent)
        placement = draft.placement
        write = _Write(self, draft.request, Tally(placement.members, max(1, draft.w)), version, draft.deadline_s)
        write.number = number = self._exchanges.begin(write)
        self._open[number] = write
        message = (m.ENTRY, number, self._epoch, draft.key, entry)
        self._handoff.on_send(draft.key, placement.members)
        if draft.w > 1 or self.refuses_writes():
            self._send_to(write, placement.owners, message)
            return
        write.fallback = lambda: self._send_to(write, placement.others, message)
        quiet = self._exchanges.send(placement.others, (m.ENTRY, 0, self._epoch, draft.key, entry))
        write.maybe = bool(quiet)  # whatever they say later, one of them may have stored this one
        self._exchanges.send(self._home_only, message)

    def _send_to(self, write: _Write, owners: tuple[int, ...], message: Message) -> None:
        reached = self._exchanges.send(owners, message)
        for index in owners:
            if not reached >> index & 1:
                write.tally.add_no(index)
        write.check()

    # -- reads

    def read(self, request: Request, key: bytes, placement: Placement, r: int, deadline_s: float) -> None:
        """Return the greatest visible version among `r` owners, and repair those that showed less (R31)."""
        if r <= 1:
            self._answer_body(request, visible_body(self._registers.get(key).shown), self._home_only, ())
            return
        if self._exchanges.reachable(placement.members) < r:
            request.fail("quorum-unreachable")
            return
        read = _Read(self, request, key, Tally(placement.members, r), deadline_s)
        read.number = number = self._exchanges.begin(read)
        self._open[number] = read
        reached = self._exchanges.send(placement.owners, (m.READ, number, self._epoch, key, 1))
        for index in placement.owners:
            if not reached >> index & 1 and number in self._open:
                read.on_lost(index)

    def finish_read(self, read: _Read) -> None:
        """Answer a gathering that has its R states."""
        self.close(read.number)
        bodies = {index: visible_body(image_of(state)) for index, state in read.states.items()}
        shown = {index: spread_version(state, bodies[index]) for index, state in read.states.items()}
        newest = max(bodies, key=lambda index: (shown[index], body_version(bodies[index])))
        body = bodies[newest]
        behind = [index for index, version in shown.items() if version < shown[newest]]
        repaired = [index for index in behind if self._repair(index, read.key, read.states[newest])]
        self._answer_body(read.request, body, tuple(bodies), tuple(repaired))

    def _repair(self, index: int, key: bytes, state: Promise) -> bool:
        """Send a replica what it lacks, the committed record and the overlay entry over it, if the budget allows."""
        ballot = NO_BALLOT if state.settled else state.committed_ballot
        if not self._commits.repair(index, key, ballot, state.committed, state.overlay):
            return False
        self._statistics.repairs += 1
        return True

    def _answer_body(self, request: Request, body: bytes, answered: tuple[int, ...], repaired: tuple[int, ...]) -> None:
        if body and 0 < body_times(body)[0] <= self._runtime.clock.wall_ms():
            body = body[:BODY_HEADER_BYTES]  # absent; its version still is the reader's token
        explanation = {}
        if request.is_explained:
            names = self._names
            explanation = {
                "path": "eventual",
                "answered": [names[index] for index in answered],
                "repaired": [names[index] for index in repaired],
            }
        request.answer((m.ITEM, request.number, body, explanation))

    # -- time

    def close(self, number: int) -> None:
        """Forget an exchange."""
        self._exchanges.end(number)
        self._open.pop(number, None)

    def sweep(self, now_s: float) -> None:
        """Answer what is past its deadline."""
        self._waiting.sweep(now_s)
        for exchange in [exchange for exchange in self._open.values() if exchange.deadline_s < now_s]:
            exchange.on_deadline()


def _is_unconfirmed(seen: Version, image: Image) -> bool:
    """Return whether a version is based on a strong change that this replica does not know to be chosen (4a)."""
    sballot = version_sballot(seen)
    known = max(version_sballot(image.committed.version), version_sballot(entry_version(image.overlay)))
    return sballot > (known or NO_SBALLOT)
