"""One coordinator of the model: the real `Round` and `FastRead`, driven as `kvnode.service.consensus` drives them.

It runs one thing at a time over all operations that wait; a timeout is an event of the schedule, and a crash forgets
everything.  Operations carry the client's attempt in `context`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from property.onekey.oracle import Decision, Violation

from kvclient.wire.values import NO_BALLOT, Ballot, body_content
from kvnode.core.operation import UNKNOWN, VALUE, Operation, Result
from kvnode.core.proposer import CachedPromise, Round, Step
from kvnode.core.reading import FastRead, Reading
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry
from kvnode.core.version import entry_counts

if TYPE_CHECKING:
    from property.onekey.schedule import Schedule


class Coordinator:
    """What one node coordinates for the key."""

    def __init__(self, schedule: Schedule, index: int) -> None:
        self.schedule = schedule
        self.node = schedule.nodes[index]
        self.cached: CachedPromise | None = None
        self.queue: list[Operation] = []
        self.forget()

    def forget(self) -> None:
        """Lose everything, as a crash does."""
        self.queue.clear()
        self.cached = None
        self.round: Round | None = None
        self.read: FastRead | None = None
        self.readers: list[Operation] = []
        self.number = 0
        self.reached = 0
        self.seen: Ballot = NO_BALLOT
        self.decision: Decision | None = None
        self.held: Entry = NO_ENTRY
        self.owed: Ballot = NO_BALLOT
        self.base_ballot: Ballot = NO_BALLOT

    @property
    def is_idle(self) -> bool:
        """True if nothing runs."""
        return self.round is None and self.read is None

    # -- beginning

    def start(self) -> None:
        """Start what the waiting operations need."""
        random = self.schedule.random
        count = random.randint(1, len(self.queue))
        work, self.queue = self.queue[:count], self.queue[count:]
        if all(operation.is_read for operation in work) and random.random() < self.schedule.plan.fast_read:
            self._gather(work, is_second=False)
        else:
            self.begin(work)

    def begin(self, work: list[Operation]) -> None:
        """Start a round: in phase 2 if the cached promise allows it."""
        self.held = self.schedule.entry_held_by_all()
        node, schedule = self.node, self.schedule
        cached, self.cached = self.cached, None
        floor = max(self.seen, cached.ballot) if cached else self.seen
        ballot = node.issuer.issue(node.stamp(schedule.now_ms), floor)
        following = node.issuer.follow(ballot)
        members, quorums = schedule.members, schedule.round_quorums
        if cached is not None:
            if not node.on.uses_cached_exactly:
                cached = cached._replace(ballot=node.issuer.issue(node.stamp(schedule.now_ms), ballot))
                following = node.issuer.follow(cached.ballot)
            self.round = Round(cached.ballot, following, work, members, quorums)
            self.base_ballot = cached.record_ballot
            schedule.deciding = self
            home = node.register.shown.overlay
            if self.round.begin_cached(cached, home, self.clock_ms) is Step.PROPOSE:
                self._propose()
                return
        self.round = Round(ballot, following, work, members, quorums)
        self.number = schedule.new_number()
        self._send_all(("prepare", self.node.index, self.number, ballot))

    @property
    def clock_ms(self) -> int:
        """This node's wall clock."""
        return self.schedule.now_ms + self.node.offset_ms

    def _send_all(self, message: tuple[Any, ...], only: int = -1) -> int:
        """Send to all replicas whose link is up; tell the round of the others.  Return the reached ones as bits."""
        reached = 0
        for index in range(self.schedule.quorums.n):
            if only >> index & 1 and self.schedule.random.random() >= self.schedule.plan.link_down:
                reached |= 1 << index
                self.node.send(index, message)
        for index in range(self.schedule.quorums.n):
            if not reached >> index & 1 and self.round is not None and self.number == message[2]:
                self._obey(self.round.on_lost(index))
        return reached

    def _propose(self) -> None:
        round_ = self.round
        assert round_ is not None
        self.decision = self.schedule.decision
        assert self.decision is not None
        self.schedule.oracle.propose(round_.ballot, round_.record, self.decision)
        self.number = self.schedule.new_number()
        self.reached = -1
        commit, self.owed = self.owed, NO_BALLOT
        message = (
            "accept",
            self.node.index,
            self.number,
            round_.ballot,
            round_.record,
            round_.base_version,
            round_.following,
            commit,
        )
        is_cut = self.schedule.random.random() < self.schedule.plan.cut
        reached = self._send_all(
            message, 1 << self.schedule.random.randrange(self.schedule.quorums.n) if is_cut else -1
        )
        if self.round is round_:
            self.reached = reached
            if is_cut:
                self._die()

    def _die(self) -> None:
        """Stop with the accept on its way to one replica: the process ends, or its links do."""
        if self.schedule.random.random() < 0.5:
            self.retry()
        else:
            self.forget()

    # -- replies

    def on_reply(self, message: tuple[Any, ...]) -> None:
        """Feed a reply to what runs; one of an earlier phase finds nothing that waits for it."""
        kind, replica, number = message[:3]
        if kind == "unknown":
            self._repair_unknown(replica, message[3])
            return
        if number != self.number:
            return
        if kind == "digest":
            if self.read is not None:
                self._judge(self.read.on_digest(replica, message[3]))
            return
        round_ = self.round
        if round_ is None:
            return
        if kind == "promise":
            self.schedule.deciding = self
            self.schedule.deciding = self
            step = round_.on_promise(replica, message[3], self.clock_ms)
        elif kind == "accepted":
            step = round_.on_accepted(replica, message[3])
        elif kind == "nack":
            step = round_.on_nack(replica, message[3])
        else:
            step = round_.on_refused(replica)
        round_.invariants()
        self._obey(step)

    def _repair_unknown(self, replica: int, ballot: Ballot) -> None:
        image = self.node.register.shown
        if image.committed_ballot >= ballot:
            self.node.send(replica, ("commit", self.node.index, 0, image.committed_ballot, image.committed))

    def lose(self, replica: int) -> None:
        """Lose the link to a replica while it is asked."""
        if self.round is not None:
            self._obey(self.round.on_lost(replica))

    def _obey(self, step: Step) -> None:
        if step is Step.PROPOSE:
            self._propose()
        elif step is Step.RETRY:
            self.retry()
        elif step is not Step.WAIT:
            self._finish(step)

    def retry(self) -> None:
        """Give the round up and put its operations back (R18)."""
        round_ = self.round
        if round_ is None:
            self._end_read(self.readers)
            return
        if round_.sent and round_.tally.yes and not self.node.on.forgets_cached_after_timeout:
            self.cached = round_.cached_promise()
        round_.clear_doubt(self.reached)
        self.seen = max(self.seen, round_.seen)
        self.round = None
        self.number = 0
        self.queue[:0] = [operation for operation in round_.operations if operation.context is not None]

    def _finish(self, step: Step) -> None:
        round_, decision = self.round, self.decision if step is Step.CHOSEN else self.schedule.decision
        assert round_ is not None
        assert decision is not None
        self.round = None
        self.number = 0
        if step is Step.CHOSEN:
            self.schedule.check_chosen(round_, decision, self.held)
            self.node.register.commit(round_.ballot, round_.record)
            self.owed = round_.ballot
            self.cached = round_.cached_promise()
        for operation, result, point in zip(round_.operations, round_.results, decision.points, strict=True):
            self.schedule.answer(operation, result, point)
        self.seen = NO_BALLOT

    def commit_all(self) -> None:
        """Send the mark that is owed (R16), with or without its record."""
        ballot, self.owed = self.owed, NO_BALLOT
        shown = self.node.register.shown
        with_record = shown.committed_ballot == ballot and self.schedule.random.random() < 0.3
        for index in range(self.schedule.quorums.n):
            self.node.send(index, ("commit", self.node.index, 0, ballot, shown.committed if with_record else NO_RECORD))

    def give_up(self, operation: Operation) -> None:
        """Answer an operation that cannot wait longer: unknown where an accept may still be chosen (R21)."""
        if operation.is_in_doubt:
            self.schedule.answer(operation, Result(UNKNOWN), None)
        elif operation.attempt == 1:
            operation.deadline_ms = 0  # the change function must not run it any more
            self.schedule.refuse(operation)

    # -- reads

    def _gather(self, work: list[Operation], *, is_second: bool) -> None:
        self.read = FastRead(self.schedule.read_quorums, is_second=is_second)
        self.readers = work
        self.held = self.schedule.entry_held_by_all(durably=True)
        self.number = self.schedule.new_number()
        self._send_all(("read", self.node.index, self.number))

    def _judge(self, reading: Reading) -> None:
        read, readers = self.read, self.readers
        assert read is not None
        if reading is Reading.SETTLED:
            self._settle(read, readers)
            self._end_read([])
        elif reading is Reading.ROUND or (reading is Reading.UNSETTLED and read.is_second):
            self._end_read([])
            self.begin(readers)
        elif reading is Reading.UNSETTLED:
            self._gather(readers, is_second=True)

    def _end_read(self, back: list[Operation]) -> None:
        self.queue[:0] = back
        self.read, self.readers, self.number = None, [], 0

    def _settle(self, read: FastRead, readers: list[Operation]) -> None:
        """Answer from here if the record is here, else as a replica that holds it would show it."""
        schedule, shown, ballot = self.schedule, self.node.register.shown, read.ballot
        if ballot and shown.committed_ballot > ballot:
            ballot = shown.committed_ballot
        record = schedule.oracle.proposals[ballot] if ballot else NO_RECORD
        line = schedule.oracle.lineages[ballot]
        if record.content != (line[-1].content if line else b""):
            raise Violation("a fast read answers with another value than its lineage")
        if self.held and entry_counts(self.held, record.version, not ballot):
            raise Violation("a fast read passed over an eventual write that all replicas held before it began (R20)")
        for index in read.laggards:
            self.node.send(index, ("commit", self.node.index, 0, ballot, record))
        if not self.node.on.repairs_chosen_only:
            self._copy_accepted()
        for operation in readers:
            body = record.body if body_content(record.body) else b""
            schedule.answer(operation, Result(VALUE, body=body), line)

    def _copy_accepted(self) -> None:
        """A planted mistake: spread what is merely accepted here as if it were chosen (R13, M9a)."""
        image = self.node.register.shown
        if image.accepted_ballot:
            for index in range(self.schedule.quorums.n):
                self.schedule.nodes[index].send(
                    index, ("commit", self.node.index, 0, image.accepted_ballot, image.accepted)
                )
