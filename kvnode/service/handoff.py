"""Hinted hand-off: what a replica may have missed is noted on disk here, and sent when the replica is back (R32).

Decides: what makes a debt, when debts are paid, and what becomes of one that cannot be.  Leaves to others: the ledger
(`core.hints`), what was sent of late (`recent`), what the receiver makes of it (`replica`: R12, R29, R37), pace
(`wait_s`).

A debt arises when an entry, a proposal or a mark is sent, and an owner is not connected or under suspicion; when an
owner falls silent, is lost, or refuses, for all that it has not vouched for (`recent`); and at a node that is no
replica, which keeps a whole entry for each owner (w="any").

A debt counts for nothing: not for a strong operation, not for an eventual one with a number (R28).  It is paid with
what this node holds when it is sent, and only with what is committed and the overlay over it, never with a proposal
(R13): while one is undecided the debt waits.  So a deleted or purged key is never brought back by one.

The row of a debt (`hintrows`) is put before the row of what is owed, into the same group or an earlier one.  So it is
on disk when the write is acknowledged, and costs no sync.

Debts go in batches, one batch at a time to each node: the target takes it in one turn of its loop, writes it in one
group and answers once; then, after what its budget and ours ask for, comes the next.  So neither side is ever held for
more than about a millisecond, and a target whose disk or loop is busy slows the sender by being late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, Ballot
from kvnode.config import Limits
from kvnode.core.budget import DEBT_S
from kvnode.core.hints import DEBT_BYTES, Debt, Hints, Ledger, Owed
from kvnode.core.record import NO_RECORD, Entry, Record, entry_version
from kvnode.runtime import Runtime
from kvnode.service.exchange import Exchanges, Link
from kvnode.service.hintrows import HintRows
from kvnode.service.placement import Placement, Placements
from kvnode.service.recent import Recent
from kvnode.service.registers import Registers
from kvnode.storage.engine import Engine

BATCH_HINTS = 32
"""Debts sent together: some half a millisecond of work at either side."""
_BATCH_BYTES = 32 * 1024
_ANSWER_S = 30.0
"""How long an answer is waited for: the other may have had no room for it in its outbox."""
_LOOKED_AT_MAX = 64
"""Debts looked at for one batch: some may have to wait, or stand for nothing any more."""
_CLAIMS_MAX = 256
"""Generations of recent keys that wait to be looked through."""
_CLAIMED_TOGETHER = 256
"""Keys looked at in one sweep: a millisecond."""
_REFUSING_S = 1.0
"""How long a node that refused something is sent no debts, and owed what it is sent."""
_UNDECIDED_S = 1.0
"""How long a proposal may stay undecided before it is settled, if it stands in the way of a debt (R32)."""
_UNDECIDED_MAX = 1024

Found = tuple[Ballot, Record, Entry]
"""What is committed, and the overlay entry; each may be missing."""


class _Batch:
    """Debts on their way: the answer says of each what became of it; without one all of them wait again."""

    __slots__ = ("deadline_s", "fields", "handoff", "keys", "number", "size_bytes", "target")

    def __init__(self, handoff: Handoff, target: int, deadline_s: float) -> None:
        self.handoff = handoff
        self.deadline_s = deadline_s
        self.target = target
        self.keys: list[bytes] = []
        self.fields: list[bytes] = []
        self.size_bytes = 0
        self.number = 0

    def add(self, key: bytes, found: Found) -> None:
        ballot, record, entry = found
        self.keys.append(key)
        self.fields += (key, ballot, record.body, record.window, entry)
        self.size_bytes += len(key) + len(record.body) + len(record.window) + len(entry) + DEBT_BYTES

    def on_reply(self, index: int, message: Message) -> None:
        if index == self.target:
            if message[0] == m.HINTED:
                self.handoff.on_taken(self, message[2], message[3])
            else:
                self.handoff.on_refusal(self)

    def on_lost(self, index: int) -> None:
        if index == self.target:
            self.handoff.on_refusal(self)


class Handoff:
    """The debts of one node."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        registers: Registers,
        engine: Engine,
        placements: Placements,
        runtime: Runtime,
        limits: Limits,
        epoch: int,
    ) -> None:
        self._names = names
        self._not_home = ~(1 << home)
        self._exchanges = exchanges
        self._registers = registers
        self._placements = placements
        self._clock = runtime.clock
        self._timers = runtime.timers
        self._epoch = epoch
        self._age_ms = round(limits.hint_age_s * 1000)
        self.is_on = limits.hint_bytes_max > 0
        others = [index for index in range(len(names)) if index != home]
        self.hints = Hints(others, limits.hint_bytes_max, limits.hints_max)
        self.recent = Recent(len(names), limits.hints_max)
        self._rows = HintRows(names, engine)
        self.wait_s: Callable[[], float] = lambda: 0.0
        """Says after how many seconds the repair budget allows more."""
        self.charge: Callable[[int, int], None] = lambda size_bytes, operations: None
        """Counts what was sent against the repair budget: bytes, and debts."""
        self.settle: Callable[[bytes, Placement], object] = lambda key, placement: None
        self.on_missed: Callable[[], None] = lambda: None
        """Hears that this very node could not take something; it cannot owe itself."""
        self._claims: deque[tuple[int, Iterator[tuple[bytes, int]]]] = deque()
        self._losses = list(exchanges.losses)
        self._doubted = 0
        self._refusing_until_s = [0.0] * len(names)
        self._on_way: dict[int, _Batch] = {}
        """The batch that is not answered yet, by target."""
        self._resume_s = [0.0] * len(names)
        """When each node is sent debts again."""
        self._payable = 0
        self._undecided: dict[bytes, tuple[Ballot, float]] = {}
        """Proposals that stand in the way of a debt, and since when they were seen to."""
        if self.is_on:
            self._rows.begin_loading()

    # -- debts arise

    def on_send(self, key: bytes, members: int) -> None:
        """Hear that something under `key` is about to be sent to its owners (bits); call before its row is put."""
        missing = members & (~self._exchanges.up | self._exchanges.doubted)
        self.recent.keys[key] = members & ~missing  # who is owed it need not be asked whether it has arrived
        if missing:
            self.owe(key, missing)

    def owe(self, key: bytes, missing: int) -> None:
        """Note that these nodes (bits) may lack what is, or is about to be, under `key`; call before its row is put."""
        missing &= self._not_home
        if not self.is_on:
            return
        now_ms = self._clock.wall_ms()
        while missing:
            target = (missing & -missing).bit_length() - 1
            missing &= missing - 1
            if self.hints.owe(target, key, now_ms) is Owed.NEW:
                self._rows.put(target, key, now_ms)

    def keep(self, key: bytes, owners: tuple[int, ...], entry: Entry, *, sync: bool, then: Callable[[], None]) -> bool:
        """Keep a new entry for owners none of which can be reached; `then` runs once it is durable.

        Returns False, and keeps nothing, if there is no room.
        """
        if not self.is_on:
            return False
        now_ms, version = self._clock.wall_ms(), entry_version(entry)
        rows = [t for t in owners if self.hints.owe(t, key, now_ms, version, len(entry)) is Owed.NEW]
        for target in rows:
            self._rows.put(target, key, now_ms, entry, sync=sync, then=then if target == rows[-1] else None)
        return bool(rows)

    # -- what is heard of the others

    def on_heartbeat(self, index: int, sent_s: float) -> None:
        """Node `index` has answered a heartbeat: what was sent before it has arrived, unless a link was lost meanwhile;
        what was on that is claimed first."""
        if self._exchanges.losses[index] == self._losses[index]:
            self.recent.vouch(index, sent_s)

    def on_refused(self, link: Link, message: Message) -> None:
        """A node could not take something: it is owed what it may have missed, and whoever waits for it is told."""
        if message[2] in ("overloaded", "clock-skew"):
            self._refusing_until_s[link.index] = self._clock.monotonic_s() + _REFUSING_S
            if not self._not_home >> link.index & 1:
                self.on_missed()
        self._exchanges.on_reply(link, message)

    def sweep(self, now_s: float) -> None:
        """Note new debts of nodes that were lost, give up old ones, and pay what can be paid."""
        exchanges = self._exchanges
        if not self.is_on:
            self.recent.keys.clear()
            return
        self._rows.load(self.hints, self._registers.is_row_key)
        refusing = sum(1 << target for target in self.hints.ledgers if self._refusing_until_s[target] > now_s)
        exchanges.doubted = doubted = exchanges.suspected | refusing
        for target in self.hints.ledgers:
            if exchanges.losses[target] != self._losses[target] or doubted & ~self._doubted & (1 << target):
                self._losses[target] = exchanges.losses[target]
                self._claim(target, now_s)
        self._doubted = doubted
        self.recent.sweep(now_s, exchanges.up & self._not_home)
        self._look_through_claims()
        for batch in [batch for batch in self._on_way.values() if batch.deadline_s < now_s]:
            self.on_refusal(batch)
        self._payable = exchanges.up & ~doubted
        for target, _ in self._claims:  # what is paid before it is claimed would be owed, and sent, twice
            self._payable &= ~(1 << target)
        for target, ledger in self.hints.ledgers.items():
            if ledger.waiting:
                self._expire(target, ledger)
                self._pay(target)
        self._rows.sweep()

    def _claim(self, target: int, now_s: float) -> None:
        """Owe a node what was sent of late and it has not vouched for, a little at a time."""
        self.recent.close(now_s)
        for keys in self.recent.unvouched(target):
            if len(self._claims) < _CLAIMS_MAX:
                self._claims.append((target, iter(keys.items())))
            else:
                self.hints.ledgers[target].dropped += len(keys)

    def _look_through_claims(self) -> None:
        left = _CLAIMED_TOGETHER
        while self._claims and left:
            target, keys = self._claims[0]
            some = list(islice(keys, left))
            for key, members in some:
                if members >> target & 1:
                    self.owe(key, 1 << target)
            if len(some) < left:
                self._claims.popleft()
            left -= len(some)

    # -- debts end

    def _expire(self, target: int, ledger: Ledger) -> None:
        before_ms = self._clock.wall_ms() - self._age_ms
        for _ in range(_CLAIMED_TOGETHER):
            key = ledger.take_expired(before_ms)
            if key is None:
                return
            self._rows.remove(target, key)

    def _pay(self, target: int) -> None:
        """Send the next batch to a node, unless it must not get one now, or the one before is not answered yet."""
        ledger, link = self.hints.ledgers[target], self._exchanges.links[target]
        if link is None or not self._payable >> target & 1 or ledger.sent or not ledger.waiting:
            return
        if self._clock.monotonic_s() < self._resume_s[target]:
            return
        wait_s = self.wait_s()
        if wait_s > 0.0:
            self._pay_after(target, wait_s)
            return
        batch = self._gather(target, ledger)
        if not batch.keys:
            return
        batch.number = number = self._exchanges.begin(batch)
        if link.send((m.HINTS, number, self._epoch, batch.fields)):
            self._on_way[target] = batch
            self.charge(batch.size_bytes, len(batch.keys))
        else:
            self.on_refusal(batch)

    def _pay_after(self, target: int, wait_s: float) -> None:
        self._resume_s[target] = self._clock.monotonic_s() + wait_s
        self._timers.call_later(wait_s, lambda: self._pay(target))

    def _gather(self, target: int, ledger: Ledger) -> _Batch:
        """Take the oldest debts that can be paid, a batch at most, and what they stand for."""
        now_ms = self._clock.wall_ms()
        batch = _Batch(self, target, self._clock.monotonic_s() + _ANSWER_S)
        for _ in range(min(_LOOKED_AT_MAX, len(ledger.waiting))):
            if len(batch.keys) >= BATCH_HINTS or batch.size_bytes >= _BATCH_BYTES:
                break
            taken = ledger.take()
            if taken is None:
                continue
            key, debt = taken
            age_ms = now_ms - debt.since_ms
            if age_ms > self._placements.grace_ms_min and age_ms > self._placements.of(key[2:]).store.gc_grace_s * 1000:
                ledger.expired += 1  # it may bring back what was deleted since (R37)
                self._discharge(target, ledger, key)
                continue
            found = self._kept(target, key, debt) if debt.version else self._held(key)
            if found is None:
                ledger.put_back(key, first=False)
            elif not found[0] and not found[2]:
                self._discharge(target, ledger, key)
            else:
                batch.add(key, found)
        return batch

    def _held(self, key: bytes) -> Found | None:
        """Return what this replica holds: what is committed and the overlay, each perhaps empty; None: not yet."""
        register = self._registers.peek(key)
        if register is not None and register.pins:
            return None  # what is newer is not durable yet, and must not be shown (R6)
        image = self._registers.shown(key)
        if image.accepted_ballot:
            self._settle_at_last(key, image.accepted_ballot)
            return None
        self._undecided.pop(key, None)
        if image.settled:
            return NO_BALLOT, NO_RECORD, image.overlay  # no repair spreads a settled tombstone (R38)
        return image.committed_ballot, image.committed, image.overlay

    def _kept(self, target: int, key: bytes, debt: Debt) -> Found | None:
        """Return the entry that was kept for a node; None: its row is not written yet."""
        entry = self._rows.entry(target, key)
        if not entry or entry_version(entry) != debt.version:
            return None
        return NO_BALLOT, NO_RECORD, entry

    def _settle_at_last(self, key: bytes, ballot: Ballot) -> None:
        """Settle a proposal that has stood in the way for a while; its coordinator may be gone."""
        now_s = self._clock.monotonic_s()
        seen, since_s = self._undecided.get(key, (NO_BALLOT, 0.0))
        if seen != ballot:
            if len(self._undecided) >= _UNDECIDED_MAX:
                self._undecided.clear()
            self._undecided[key] = (ballot, now_s)
        elif now_s - since_s >= _UNDECIDED_S:
            self._undecided[key] = (ballot, now_s)
            self.settle(key, self._placements.of(key[2:]))

    def on_taken(self, batch: _Batch, wait_ms: int, outcomes: bytes) -> None:
        """Take what became of each debt of a batch, and send the next after what the other asks for.

        Raises MessageError if that is not one outcome for each debt.
        """
        target = batch.target
        ledger = self.hints.ledgers[target]
        if len(outcomes) != len(batch.keys) or wait_ms < 0:
            self.on_refusal(batch)
            raise m.MessageError(f"{len(outcomes)} outcomes, and {wait_ms} ms to wait, for {len(batch.keys)} hints")
        self._end(batch)
        for key, outcome in zip(batch.keys, outcomes, strict=True):
            if outcome == m.HINT_TAKEN:
                ledger.delivered += 1
                self._discharge(target, ledger, key)
            elif outcome == m.HINT_STALE:
                ledger.stale += 1
                self._discharge(target, ledger, key)
            else:
                ledger.put_back(key, first=False)
        pause_s = max(min(wait_ms / 1000, DEBT_S), self.wait_s(), _REFUSING_S if m.HINT_LATER in outcomes else 0.0)
        if pause_s > 0.0:
            self._pay_after(target, pause_s)
        else:
            self._pay(target)

    def on_refusal(self, batch: _Batch) -> None:
        """Let all debts of a batch wait again that was refused as a whole, or lost with its link."""
        self._end(batch)
        ledger = self.hints.ledgers[batch.target]
        for key in reversed(batch.keys):
            ledger.put_back(key, first=True)

    def _end(self, batch: _Batch) -> None:
        self._exchanges.end(batch.number)
        self._on_way.pop(batch.target, None)

    def _discharge(self, target: int, ledger: Ledger, key: bytes) -> None:
        if ledger.pay(key):
            self._rows.remove(target, key)

    # -- facts

    def owes(self, target: int) -> bool:
        """Return whether anything waits to be sent to a node: what is owed is paid before trees are compared."""
        return target in self.hints.ledgers and len(self.hints.ledgers[target]) > 0

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows: debts in all and by node, and what became of those that ended, since start."""
        ledgers = self.hints.ledgers
        return {
            "hints": self.hints.total,
            "hints_owed": {self._names[target]: len(ledger) for target, ledger in ledgers.items() if len(ledger)},
            "hints_delivered": sum(ledger.delivered for ledger in ledgers.values()),
            "hints_dropped": {
                "full": sum(ledger.dropped for ledger in ledgers.values()) + self.recent.forgotten,
                "expired": sum(ledger.expired for ledger in ledgers.values()),
                "stale": sum(ledger.stale for ledger in ledgers.values()),
            },
        }
