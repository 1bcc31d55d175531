"""Strong reads: one gathering of digests per key, hedged, and a round only if the digests prove nothing.

Decides: whom to ask, when to ask more (hedging), and what follows an inconclusive gathering (R20).  Leaves to others:
what digests prove (`core.reading`), rounds (`consensus`), the marks sent to laggards (`commits`).

First this node and as many others as a quorum read needs are asked; the rest only if an answer is not there after the
observed p95, or does not agree.  A node that made several hedges necessary is asked last for a while, and so is one
that says that it is busier than the rest by far.  So a dead or
slow replica costs a hedge now and then, and never sets the latency.  Only reads are hedged: they have no effect.

Reads of a key that wait together share a gathering; one that arrives after its first request was sent never joins it.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, body_times
from kvnode.config import Limits
from kvnode.core.operation import NOT_APPLIED, VALUE, Operation, Result
from kvnode.core.reading import FastRead, Reading
from kvnode.core.register import digests_agree
from kvnode.runtime import Runtime
from kvnode.service.commits import Commits
from kvnode.service.consensus import Consensus
from kvnode.service.exchange import Exchanges
from kvnode.service.hedge import Hedge
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica
from kvnode.service.requests import Statistics
from kvnode.service.slots import Slot
from kvnode.service.states import promise_of

_SILENT_HEDGES = 8
"""Hedges that a node makes necessary, with no answer in between, before it is asked last: a few are normal (p95)."""
_AVOID_S = 0.5
"""How long a node that made a hedge necessary is asked last."""
_SWEEP_MAX = 256


class Gathering:
    """One quorum read of one key."""

    __slots__ = (
        "asked",
        "hedged_s",
        "home",
        "is_hedged",
        "is_second",
        "needed",
        "number",
        "operations",
        "read",
        "reads",
        "repaired",
        "slot",
        "started_s",
        "wanted",
    )

    def __init__(
        self, reads: StrongReads, slot: Slot, operations: list[Operation], home: bytes, started_s: float
    ) -> None:
        self.reads = reads
        self.slot = slot
        self.operations = operations
        self.home = home
        self.started_s = started_s
        self.number = 0
        self.asked = 0
        """Owners that were asked, as bits; an answer of anybody else is not counted (R28)."""
        self.read: FastRead | None = None
        self.is_second = False
        self.is_hedged = False
        self.hedged_s = 0.0
        self.needed = max(slot.placement.quorums.read, operations[0].copies)
        self.repaired: list[int] = []
        self.wanted: Ballot = NO_BALLOT
        """The settled ballot, while its record is fetched from another replica."""

    def fast_read(self) -> FastRead:
        """Return the core that judges this gathering's digests."""
        return FastRead(self.slot.placement.quorums, needed=self.needed, is_second=self.is_second)

    def on_reply(self, index: int, message: Message) -> None:
        """Feed a digest (or the whole state, once the record is wanted)."""
        if not self.asked >> index & 1:
            return
        if message[0] == m.DIGEST:
            self.reads.on_digest(self, index, message[2])
        elif message[0] == m.PROMISE:
            self.reads.on_state(self, message)
        else:
            self.on_lost(index)

    @property
    def waits_in_vain(self) -> bool:
        """True if a quorum has answered, and what is missing (a vote, or the record) may never come."""
        return bool(self.wanted) or (self.read is not None and self.read.is_inconclusive)

    def on_lost(self, index: int) -> None:
        """Ask the others when a replica cannot answer."""
        if self.asked >> index & 1:
            self.asked &= ~(1 << index)
            self.reads.on_silence(self)


class StrongReads:
    """The gatherings of a coordinator."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        registers: Registers,
        replica: Replica,
        commits: Commits,
        runtime: Runtime,
        limits: Limits,
        epoch: int,
        statistics: Statistics,
    ) -> None:
        self._names = names
        self._home = home
        self._exchanges = exchanges
        self._registers = registers
        self._replica = replica
        self._commits = commits
        self._runtime = runtime
        self._limits = limits
        self._epoch = epoch
        self._statistics = statistics
        self.consensus: Consensus
        self.hedge = Hedge(limits.hedge_min_s, limits.hedge_max_s)
        self._open: dict[int, Gathering] = {}
        """Gatherings that are not hedged yet, oldest first."""
        self._hedged: dict[int, Gathering] = {}
        self._unanswered = [0] * len(names)
        """Hedges since a node last answered, by its index."""
        self._avoid_until_s: dict[int, float] = {}
        self._is_armed = False
        self._turn = 0

    # -- gather

    def start(self, slot: Slot, operations: list[Operation]) -> None:
        """Read for operations that are all reads (R20)."""
        self._gather(Gathering(self, slot, operations, b"", slot.since_s))

    def _gather(self, gathering: Gathering) -> None:
        slot = gathering.slot
        placement = slot.placement
        gathering.home = self._replica.digest(self._registers.get(slot.key))
        gathering.number = number = self._exchanges.begin(gathering)
        if gathering.is_second:
            gathering.hedged_s = self._runtime.clock.monotonic_s()
            self._hedged[number] = gathering
        else:
            self._open[number] = gathering
        if not self._is_armed:
            self._is_armed = True
            self._runtime.timers.call_later(self.hedge.delay_s, self._sweep_hedges)
        wanted = len(placement.others) if gathering.is_second else gathering.needed - 1
        asked = self._ask(gathering, wanted)
        if gathering.is_second or not wanted:
            gathering.read = gathering.fast_read()
            self._judge(gathering, gathering.read.on_digest(self._home, gathering.home))
        if asked + 1 < gathering.needed:
            self._fail(gathering)

    def _ask(self, gathering: Gathering, count: int) -> int:
        """Ask up to `count` more owners, those that answer fast first; return how many were asked."""
        slot = gathering.slot
        others = slot.placement.others
        if count < len(others):
            self._turn += 1
            turn = self._turn % len(others)
            others = others[turn:] + others[:turn]
        if self._avoid_until_s or self._exchanges.suspected or self._exchanges.busy:
            others = self._by_speed(others)
        links, asked = self._exchanges.links, 0
        message = (m.READ, gathering.number, self._epoch, slot.key, 0)
        for index in others:
            if asked == count:
                break
            link = links[index]
            if link is not None and not gathering.asked >> index & 1 and link.send(message):
                gathering.asked |= 1 << index
                asked += 1
        return asked

    def _by_speed(self, others: tuple[int, ...]) -> tuple[int, ...]:
        now_s = self._runtime.clock.monotonic_s()
        self._avoid_until_s = {index: until for index, until in self._avoid_until_s.items() if until > now_s}
        quick = tuple(sorted(others, key=lambda index: self._avoid_until_s.get(index, 0.0)))
        return self._exchanges.by_ease(quick)

    # -- judge

    def on_digest(self, gathering: Gathering, index: int, digest: bytes) -> None:
        """Take a digest; two that agree settle a read of two replies without being parsed."""
        self._unanswered[index] = 0
        read = gathering.read
        if read is None:
            if gathering.needed == 2 and digest and digests_agree(gathering.home, digest):
                ballot = Ballot(digest[1:29])
                if digest[0] != gathering.home[0]:  # the other has only accepted it
                    self._commits.remind(gathering.slot.key, ballot, gathering.slot.placement)
                self._settle(gathering, ballot)
                return
            read = gathering.read = gathering.fast_read()
            read.on_digest(self._home, gathering.home)
        try:
            reading = read.on_digest(index, digest)
        except ValueError as error:
            raise m.MessageError(str(error)) from error
        self._judge(gathering, reading)

    def _judge(self, gathering: Gathering, reading: Reading) -> None:
        read = gathering.read
        assert read is not None
        if reading is Reading.SETTLED:
            for laggard in read.laggards:
                self._repair(gathering, laggard, read.ballot)
            if read.is_unmarked:
                self._commits.remind(gathering.slot.key, read.ballot, gathering.slot.placement)
            self._settle(gathering, read.ballot)
        elif reading is Reading.ROUND:
            self._to_round(gathering)
        elif reading is Reading.UNSETTLED:
            self._ask_again(gathering)
        elif read.is_inconclusive and not self._ask(gathering, len(gathering.slot.placement.others)):
            self._if_nobody_is_left(gathering)

    def _settle(self, gathering: Gathering, ballot: Ballot) -> None:
        """Answer with the record of the settled ballot, from here if it is here, else from a replica that has it."""
        slot = gathering.slot
        if not ballot:
            self._finish(gathering, b"")
            return
        image = self._registers.get(slot.key).shown
        if image.committed_ballot >= ballot:
            self._finish(gathering, image.committed.body)
        elif image.accepted_ballot == ballot:
            self._registers.commit(slot.key, ballot, image.accepted)  # it is proved to be chosen
            self._finish(gathering, image.accepted.body)
        else:
            self._fetch(gathering, ballot)

    def _finish(self, gathering: Gathering, body: bytes) -> None:
        if body and 0 < body_times(body)[0] <= self._runtime.clock.wall_ms():
            self._to_round(gathering)  # expired by this clock; the round decides by its ballot's (R63)
            return
        self._close(gathering)
        if not gathering.is_hedged and not gathering.number & 7:
            self.hedge.observe(self._runtime.clock.monotonic_s() - gathering.started_s)
        operations = gathering.operations
        explanation = None
        for operation in operations:
            if operation.is_explained:
                explanation = self._explain(gathering)
        self.consensus.on_read_done(gathering.slot, operations, Result(VALUE, NO_VERSION, body, "", False, explanation))

    def _explain(self, gathering: Gathering) -> dict[str, Any]:
        read = gathering.read
        answered = read.answered if read is not None else [self._home, *bits(gathering.asked)]
        return {
            "path": "second gathering" if gathering.is_second else "digests",
            "answered": [self._names[index] for index in answered],
            "repaired": [self._names[index] for index in gathering.repaired],
            "hedged": gathering.is_hedged,
        }

    def _close(self, gathering: Gathering) -> None:
        self._exchanges.end(gathering.number)
        if self._open.pop(gathering.number, None) is None:
            self._hedged.pop(gathering.number, None)

    def _to_round(self, gathering: Gathering) -> None:
        self._close(gathering)
        self.consensus.on_read_needs_round(gathering.slot, gathering.operations)

    def _fail(self, gathering: Gathering) -> None:
        self._close(gathering)
        self.consensus.on_read_failed(gathering.slot, gathering.operations, "quorum-unreachable")

    def _ask_again(self, gathering: Gathering) -> None:
        """Everybody answered and nothing is proved: let the writer finish, ask once more, then run a round (R20)."""
        self._close(gathering)
        if gathering.is_second:
            self._to_round(gathering)
            return
        second = Gathering(self, gathering.slot, gathering.operations, b"", gathering.started_s)
        second.is_second = second.is_hedged = True
        self._runtime.timers.call_later(self._limits.hedge_min_s, lambda: self._gather(second))

    # -- the record, if it is not here

    def _fetch(self, gathering: Gathering, ballot: Ballot) -> None:
        if gathering.wanted:
            return
        gathering.wanted = ballot
        message = (m.READ, gathering.number, self._epoch, gathering.slot.key, 1)
        for index in gathering.slot.placement.others:
            link = self._exchanges.links[index]
            if link is not None and link.send(message):
                gathering.asked |= 1 << index

    def on_state(self, gathering: Gathering, message: Message) -> None:
        """Take a whole state: if it holds the wanted record, or a later committed one, answer and keep it here too."""
        state = promise_of(message)
        wanted, key = gathering.wanted, gathering.slot.key
        if state.committed_ballot >= wanted:
            ballot, record = state.committed_ballot, state.committed
        elif state.accepted_ballot == wanted:
            ballot, record = wanted, state.accepted
        else:
            return
        self._registers.commit(key, ballot, record)
        self._statistics.repairs += 1
        self._finish(gathering, record.body)

    def _repair(self, gathering: Gathering, laggard: int, ballot: Ballot) -> None:
        image = self._registers.get(gathering.slot.key).shown
        if image.committed_ballot == ballot:
            record = image.committed
        elif image.accepted_ballot == ballot:
            record = image.accepted
        else:
            return  # this replica lags itself; it is repaired when the record has been fetched
        if self._commits.repair(laggard, gathering.slot.key, ballot, record):
            self._statistics.repairs += 1
            gathering.repaired.append(laggard)

    # -- silence

    def on_silence(self, gathering: Gathering) -> None:
        """Ask somebody else instead of a replica that is lost or refuses."""
        if not self._ask(gathering, 1):
            self._if_nobody_is_left(gathering)

    def _if_nobody_is_left(self, gathering: Gathering) -> None:
        """Nobody else can be asked.  Wait for those who were, if they can still decide it; else a round, or the end."""
        if gathering.asked.bit_count() + 1 < gathering.needed:
            self._fail(gathering)
        elif gathering.read is not None and gathering.read.replies > gathering.asked.bit_count():
            self._ask_again(gathering)

    def expire(self, now_ms: int) -> None:
        """Answer each read that is past its deadline; it has no effect, so it simply failed.  A gathering ends with the
        last of its reads."""
        for gathering in [*self._open.values(), *self._hedged.values()]:
            late = [operation for operation in gathering.operations if operation.deadline_ms < now_ms]
            if len(late) == len(gathering.operations):
                self._close(gathering)
                self.consensus.on_read_failed(gathering.slot, late, "deadline-exceeded")
            elif late:
                gathering.operations = [each for each in gathering.operations if each.deadline_ms >= now_ms]
                for operation in late:
                    operation.answer(Result(NOT_APPLIED, code="deadline-exceeded"))

    def _sweep_hedges(self) -> None:
        """Ask all others for the gatherings that are older than the hedge delay; oldest first, so the sweep is
        short.  Those that have a quorum of answers, and only a silent replica could still decide, go to a round."""
        now_s = self._runtime.clock.monotonic_s()
        for gathering in list(islice(self._open.values(), _SWEEP_MAX)):
            if now_s - gathering.started_s < self.hedge.delay_s:
                break
            self._hedge(gathering, now_s)
        for gathering in list(self._hedged.values()):
            if gathering.waits_in_vain and now_s - gathering.hedged_s >= self._limits.hedge_max_s:
                self._to_round(gathering)
        self._is_armed = bool(self._open or self._hedged)
        if self._is_armed:
            self._runtime.timers.call_later(self.hedge.delay_s, self._sweep_hedges)

    def _hedge(self, gathering: Gathering, now_s: float) -> None:
        gathering.is_hedged, gathering.hedged_s = True, now_s
        self._hedged[gathering.number] = self._open.pop(gathering.number)
        for index in gathering.slot.placement.others:
            if gathering.asked >> index & 1:
                self._unanswered[index] += 1
                if self._unanswered[index] >= _SILENT_HEDGES:
                    self._avoid_until_s[index] = now_s + _AVOID_S
        self._ask(gathering, len(gathering.slot.placement.others))


def bits(mask: int) -> list[int]:
    """Return the numbers of the bits that are set, lowest first."""
    return [number for number in range(mask.bit_length()) if mask >> number & 1]
