"""Strong operations: one queue per key, and the rounds that empty it.

Decides: what waits for what (R14: operations on one key share a round), when a round starts, is given up, and is tried
again (R18, R24), and what the cached promise is used for (R19).  Leaves to others: every rule of a round
(`core.proposer`), reads that need no round (`reads`), and the answer's form (`requests`).

A *slot* is a key with something to do.  It runs one thing at a time, a round or a quorum read, over all operations that
waited when it began; so a coordinator never competes with itself, and a hot key gets larger batches instead of a longer
queue.

Bounds: `key_queue_max` operations wait per slot, beyond that Overloaded; there are at most
`requests_in_flight_max` slots; see `promises` for the cached ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT
from kvnode.config import Limits
from kvnode.core.operation import ACCEPT, ANCHOR, NOT_APPLIED, SETTLE, UNKNOWN, Operation, Result, identity_read
from kvnode.core.proposer import Round, Step
from kvnode.core.version import ballot_ms
from kvnode.runtime import Runtime
from kvnode.service.ceilings import Ceilings
from kvnode.service.commits import Commits
from kvnode.service.exchange import Exchanges
from kvnode.service.handoff import Handoff
from kvnode.service.placement import Placement
from kvnode.service.promises import PromiseCache
from kvnode.service.registers import Registers
from kvnode.service.slots import Slot

_IN_DOUBT = Result(UNKNOWN, code="in doubt")
_LATE_ROUNDS = 4
"""Rounds that a retry past its deadline may take to find out what became of the operation (R24)."""
_LAST_REFUSAL_S = 0.1
"""How long operations in doubt wait, when full disks have refused them, for the refusals that are still on their way:
if every replica has refused, nothing was applied (R21)."""
_BATCH_MAX = 256
"""Operations of one round: bounds the record's window growth and the time of one turn."""


class Reads(Protocol):
    """Quorum reads, as the consensus uses them."""

    def start(self, slot: Slot, operations: list[Operation]) -> None:
        """Read for operations that are all reads; ends in `Consensus.on_read_done` or `on_read_needs_round`."""


class Consensus:
    """All slots of a coordinator."""

    def __init__(
        self,
        exchanges: Exchanges,
        registers: Registers,
        ceilings: Ceilings,
        commits: Commits,
        handoff: Handoff,
        runtime: Runtime,
        limits: Limits,
        epoch: int,
        names: list[str],
    ) -> None:
        self._exchanges = exchanges
        self._registers = registers
        self._ceilings = ceilings
        self._commits = commits
        self._handoff = handoff
        self._runtime = runtime
        self._limits = limits
        self._epoch = epoch
        self._names = names
        self.reads: Reads
        self._slots: dict[bytes, Slot] = {}
        self.ready: list[Slot] = []
        """Keys whose first operation waits for `start_ready`."""
        self._promises = PromiseCache(limits.cached_promises_max, limits.register_bytes_max // 2)
        self.now_ms = runtime.clock.wall_ms

    # -- the queue

    def submit(self, key: bytes, placement: Placement, operation: Operation) -> None:
        """Queue an operation; what arrives before `start_ready`, or while the key is busy, shares what comes next.

        The caller calls `start_ready` when it has submitted all that it has at hand.
        """
        slot = self._slots.get(key)
        if slot is None:
            if len(self._slots) >= self._limits.requests_in_flight_max:  # a stuck disk keeps slots past their deadlines
                operation.answer(Result(NOT_APPLIED, code="overloaded"))
                return
            slot = self._slots[key] = Slot(self, key, placement)
            self.ready.append(slot)
        elif len(slot.waiting) >= self._limits.key_queue_max:
            operation.answer(Result(NOT_APPLIED, code="overloaded"))
            return
        slot.waiting.append(operation)

    def settle(
        self, key: bytes, placement: Placement, identity: int = SETTLE, then: Callable[[Result], None] | None = None
    ) -> bool:
        """Run an identity round for a key, for nobody: what is accepted there becomes decided.

        False, and nothing is done, if the key is busy or this node has too much to do already.
        """
        if key in self._slots or len(self._slots) >= self._limits.requests_in_flight_max // 2:
            return False
        slot = self._slots[key] = Slot(self, key, placement)
        copies = 0
        if identity == ANCHOR:
            copies = placement.quorums.n
            self._promises.take(key)  # the round is to see every replica's overlay, at a ballot of its own time
        slot.since_s = self._runtime.clock.monotonic_s()
        nobody = identity_read(identity, copies, self.now_ms(), self._limits.timeout_s, then or _to_nobody)
        self._begin(slot, [nobody])
        return True

    def start_ready(self) -> None:
        """Start what was submitted since the last call."""
        ready, self.ready = self.ready, []
        for slot in ready:
            self._next(slot)

    def _next(self, slot: Slot) -> None:
        """Start what the slot's waiting operations need, or close it."""
        slot.round = None
        if not slot.waiting:
            del self._slots[slot.key]
            return
        now_ms = self.now_ms()
        operations = [
            op for op in slot.waiting if (op.deadline_ms >= now_ms and op.context) or not self._is_late(slot, op)
        ]
        if not operations:
            del self._slots[slot.key]
            return
        slot.waiting = []
        if len(operations) > 1:
            count = _batch_size(operations)
            operations, slot.waiting = operations[:count], operations[count:]
        slot.since_s = self._runtime.clock.monotonic_s()
        if not slot.attempts and _are_reads(operations):
            self.reads.start(slot, operations)
        else:
            self._begin(slot, operations)

    def _is_late(self, slot: Slot, operation: Operation) -> bool:
        """Answer an operation that waited past its deadline, unless a round must still find out what became of it."""
        if operation.context is None:
            return True
        if operation.deadline_ms >= self.now_ms():
            return False
        if operation.attempt > 1:
            self._promises.take(slot.key)  # its ballot's time may lie before the deadline, and then it settles nothing
            return False
        if operation.is_in_doubt and not operation.is_read:
            _leave(operation)
        else:
            operation.answer(Result(NOT_APPLIED, code="deadline-exceeded"))
        return True

    # -- rounds

    def _begin(self, slot: Slot, operations: list[Operation]) -> None:
        """Start a round: in phase 2 if the key's cached promise allows it, else with a prepare."""
        placement = slot.placement
        quorums = placement.quorums
        if self._exchanges.reachable(placement.members) < max(quorums.q1, quorums.q2, operations[0].copies):
            self._give_up(slot, operations, "quorum-unreachable")
            return
        cached = self._promises.take(slot.key)
        ballots = self._ceilings.ballot(cached.ballot if cached else slot.seen)
        if ballots is None:
            if cached is not None:
                self._promises.keep(slot.key, cached)  # nothing was sent with it
            slot.waiting[:0] = operations
            self._ceilings.when_raised(lambda: self._next(slot))
            return
        ballot, following = ballots
        if cached is not None:
            slot.round = Round(cached.ballot, following, operations, placement.members, quorums)
            home = self._registers.get(slot.key).shown.overlay
            if slot.round.begin_cached(cached, home, self.now_ms()) is Step.PROPOSE:
                self._propose(slot)
                return
        slot.round = Round(ballot, following, operations, placement.members, quorums)
        slot.number = number = self._exchanges.begin(slot)
        self._send(slot, slot.round, (m.PREPARE, number, self._epoch, slot.key, ballot))

    def obey(self, slot: Slot, step: Step) -> None:
        """Do what the round asks for."""
        if step is Step.RETRY:
            self._retry(slot)
            return
        self._exchanges.end(slot.number)
        if step is Step.PROPOSE:
            self._propose(slot)
        else:
            self._finish(slot, step)

    def _propose(self, slot: Slot) -> None:
        round_ = slot.round
        assert round_ is not None
        body, window = round_.record
        base, following = round_.base_version, round_.following
        slot.number = number = self._exchanges.begin(slot)
        # Until all is sent: this node's own refusal may come before `send` returns
        slot.reached = slot.placement.members
        commit = self._commits.take(slot.key)
        self._handoff.on_send(slot.key, slot.placement.members)
        accept = (m.ACCEPT, number, self._epoch, slot.key, round_.ballot, body, window, base, following, commit)
        reached = self._send(slot, round_, accept)
        if slot.round is round_:
            slot.reached = reached

    def _send(self, slot: Slot, round_: Round, message: Message) -> int:
        """Send to all owners, tell the round of those that could not be reached, and return the others as bits."""
        placement = slot.placement
        reached = self._exchanges.send(placement.owners, message)
        if reached != placement.members:
            for index in placement.owners:
                if not reached >> index & 1 and slot.round is round_ and slot.number == message[1]:
                    slot.on_lost(index)
        return reached

    def _finish(self, slot: Slot, step: Step) -> None:
        round_ = slot.round
        assert round_ is not None
        identity = round_.operations[0].identity
        if step is Step.CHOSEN:
            self._registers.commit(slot.key, round_.ballot, round_.record)
            self._commits.add(slot.key, round_.ballot, slot.placement)
            if identity != ANCHOR:
                self._promises.keep(slot.key, round_.cached_promise())
        elif round_.base_ballot:  # proved to be chosen: this replica may lag behind what was just told
            self._registers.commit(slot.key, round_.base_ballot, round_.base)
            if identity:
                self._commits.remind(slot.key, round_.base_ballot, slot.placement)
        for operation, result in zip(round_.operations, round_.results, strict=True):
            if operation.is_explained:
                answered = [name for index, name in enumerate(self._names) if round_.tally.yes >> index & 1]
                result = result._replace(explanation={"path": "round", "answered": answered, "repaired": []})
            if identity == ANCHOR and step is Step.CHOSEN:
                result = result._replace(anchor=round_.anchor())
            operation.answer(result)
        slot.attempts, slot.seen, slot.complaint, slot.refusers = 0, NO_BALLOT, "", 0
        self._next(slot)

    def _retry(self, slot: Slot) -> None:
        """Begin again above everything seen, after a random, growing pause (R18)."""
        round_ = slot.round
        assert round_ is not None
        slot.seen = max(slot.seen, round_.seen)
        slot.round, slot.failed = None, round_
        slot.attempts += 1
        limits = self._limits
        code = self._why_hopeless(slot, round_)
        if code:
            if code == "overloaded" and any(op.is_in_doubt and not op.is_read for op in round_.operations):
                self._runtime.timers.call_later(_LAST_REFUSAL_S, lambda: self._give_up_failed(slot, round_, code))
            else:
                self._give_up_failed(slot, round_, code)
            return
        slot.complaint, slot.refusers = "", 0
        slot.waiting[:0] = round_.operations
        longest_s = min(limits.backoff_max_s, limits.backoff_min_s * 2.0 ** min(slot.attempts, 16))
        self._runtime.timers.call_later(longest_s * self._runtime.rng.random(), lambda: self._resume(slot))

    def _why_hopeless(self, slot: Slot, round_: Round) -> str:
        """Return why no other round can succeed now, as an error code; empty if one may."""
        members, quorums = slot.placement.members, slot.placement.quorums
        needed = max(quorums.q1, quorums.q2)
        if self._exchanges.reachable(members) < needed:
            return "quorum-unreachable"
        if round_.operations[0].identity == ANCHOR and round_.seen == round_.ballot:
            return "quorum-unreachable"  # one of all N is silent: who waits for the key must not wait for that
        if (members & ~slot.refusers).bit_count() >= needed:
            return ""
        now_ms = self.now_ms()
        if slot.complaint == "clock-skew" and ballot_ms(round_.ballot) > now_ms + self._limits.max_offset_ms:
            if self._ceilings.hybrid.is_ahead(now_ms):
                return "clock-skew"  # this node's own time: its wall clock was far ahead, and was set back
            slot.seen = NO_BALLOT  # it was another's ballot, from a clock far ahead, that we had outbid (R5)
            return ""
        return slot.complaint if slot.complaint in ("overloaded", "clock-skew") else ""

    def _resume(self, slot: Slot) -> None:
        self._end_failed(slot)
        self._next(slot)

    def _end_failed(self, slot: Slot) -> None:
        """Close a round that failed: if by now all have refused its record, it had no effect (R21)."""
        self._exchanges.end(slot.number)
        if slot.failed is not None:
            slot.failed.clear_doubt(slot.reached)
            slot.failed = None

    def _give_up_failed(self, slot: Slot, round_: Round, code: str) -> None:
        self._end_failed(slot)
        self._give_up(slot, round_.operations, code)

    def _give_up(self, slot: Slot, operations: list[Operation], code: str) -> None:
        """Answer a batch that cannot be run now: not applied, or unknown where an accept may still be chosen (R21)."""
        for operation in operations:
            if operation.is_in_doubt and not operation.is_read:
                _leave(operation)
            else:
                operation.answer(Result(NOT_APPLIED, code=code))
        slot.attempts, slot.seen, slot.complaint, slot.refusers = 0, NO_BALLOT, "", 0
        slot.round = None
        if slot.waiting:  # in a turn of its own: what waits may have to be given up just as fast
            self._runtime.timers.call_soon(lambda: self._next(slot))
        else:
            self._next(slot)

    # -- what reads find

    def on_read_done(self, slot: Slot, operations: list[Operation], result: Result) -> None:
        """Answer the reads that shared a gathering, and go on with the key."""
        for operation in operations:
            operation.answer(result)
        self._next(slot)

    def on_read_failed(self, slot: Slot, operations: list[Operation], code: str) -> None:
        """Answer reads that could not reach enough replicas."""
        self._give_up(slot, operations, code)

    def on_read_needs_round(self, slot: Slot, operations: list[Operation]) -> None:
        """Run an identity round for reads that digests could not answer (R20); what waits meanwhile joins it."""
        room = 0 if operations[0].copies else min(_BATCH_MAX - len(operations), _batch_size(slot.waiting))
        joining, slot.waiting = slot.waiting[:room], slot.waiting[room:]
        slot.since_s = self._runtime.clock.monotonic_s()
        self._begin(slot, operations + joining)

    # -- time

    def sweep(self, now_s: float) -> None:
        """Answer what is past its deadline, and give up rounds that are silent for `round_timeout_s` (R18)."""
        now_ms = self.now_ms()
        for slot in list(self._slots.values()):
            slot.waiting = [op for op in slot.waiting if op.deadline_ms >= now_ms or not self._is_late(slot, op)]
            round_ = slot.round
            if round_ is None:
                continue
            for operation in round_.operations:
                if operation.attempt == 1:
                    is_late = operation.deadline_ms < now_ms
                else:  # it may have come long after its deadline, to find out what became of it
                    is_late = slot.attempts >= _LATE_ROUNDS and operation.deadline_ms < now_ms
                if is_late:
                    _expire(operation)
            if now_s - slot.since_s > self._limits.round_timeout_s:
                self._retry(slot)

    def fail_all(self) -> None:
        """Answer everything that is still open; called when a drain has taken too long."""
        for slot in list(self._slots.values()):
            operations = slot.waiting + (slot.round.operations if slot.round else [])
            for operation in operations:
                _expire(operation)


def _to_nobody(result: Result) -> None:
    """Take a result that nobody waits for."""


def _are_reads(operations: list[Operation]) -> bool:
    """Return whether all of them can be answered without a round: reads that ask for no identity round."""
    return all(operation.is_read and operation.identity < ACCEPT for operation in operations)


def _batch_size(waiting: list[Operation]) -> int:
    """Return how many operations share what comes next.  One that asks for more replicas than a quorum goes alone: the
    others must not wait for those, nor fail without them."""
    if waiting and waiting[0].copies:
        return 1
    for index, operation in enumerate(waiting):
        if operation.copies or index == _BATCH_MAX:
            return index
    return len(waiting)


def _leave(operation: Operation) -> None:
    """Answer that the outcome is unknown."""
    operation.answer(_IN_DOUBT)


def _expire(operation: Operation) -> None:
    """Answer an operation of a running round at its deadline; the round, which may still run it, finds nobody
    waiting."""
    if operation.is_in_doubt and not operation.is_read:
        _leave(operation)
    else:
        operation.deadline_ms = 0  # the change function must not run it any more
        operation.answer(Result(NOT_APPLIED, code="deadline-exceeded"))
