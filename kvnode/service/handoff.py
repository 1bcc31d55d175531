"""Hinted hand-off: what a replica may have missed is noted on disk here, and sent when the replica is back (R32).

Decides: what makes a debt, when debts are paid, and what becomes of one that cannot be.  Leaves to others: the ledger
(`core.hints`), what was sent of late (`recent`), what the receiver makes of it (`replica`: R12, R29, R37), pace
(`may_spend`).

A debt arises when an entry, a proposal or a mark is sent, and an owner is not connected or under suspicion; when an
owner falls silent, is lost, or refuses, for all that it has not vouched for (`recent`); and at a node that is no
replica, which keeps a whole entry for each owner (w="any").

A debt counts for nothing: not for a strong operation, not for an eventual one with a number (R28).  It is paid with
what this node holds when it is sent, and only with what is committed and the overlay over it, never with a proposal
(R13): while one is undecided the debt waits.  So a deleted or purged key is never brought back by one.

The row of a debt is put before the row of what is owed, into the same group or an earlier one.  So it is on disk when
the write is acknowledged, and costs no sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot
from kvnode.config import Limits
from kvnode.core.hints import DEBT_BYTES, Debt, Hints, Ledger, Owed
from kvnode.core.record import NO_ENTRY, NO_RECORD, Entry, Record, entry_version
from kvnode.runtime import Runtime
from kvnode.service.exchange import Exchanges, Link
from kvnode.service.placement import Placement, Placements
from kvnode.service.recent import Recent
from kvnode.service.registers import Registers
from kvnode.storage.engine import Engine

PREFIX = "hint/"
WINDOW = 16
"""Debts on their way to one node.  Each answer lets the next one go, so that neither side meets a burst."""
WINDOW_BYTES = 1 << 20
_ANSWER_S = 30.0
"""How long an answer is waited for: the other may have had no room for it in its outbox."""
_CLAIMS_MAX = 256
"""Generations of recent keys that wait to be looked through."""
_CLAIMED_TOGETHER = 1024
_LOADED_TOGETHER = 1024
"""Keys, and rows after a start, looked at in one sweep: a few milliseconds."""
_REFUSING_S = 1.0
"""How long a node that refused something is sent no debts, and owed what it is sent."""
_UNDECIDED_S = 1.0
"""How long a proposal may stay undecided before it is settled, if it stands in the way of a debt (R32)."""
_UNDECIDED_MAX = 1024


class _Sent:
    """A debt on its way: paid by WRITTEN, put back by anything else."""

    __slots__ = ("deadline_s", "handoff", "key", "number", "size_bytes", "target")

    def __init__(self, handoff: Handoff, target: int, key: bytes, size_bytes: int, deadline_s: float) -> None:
        self.handoff = handoff
        self.deadline_s = deadline_s
        self.target = target
        self.key = key
        self.size_bytes = size_bytes
        self.number = 0

    def on_reply(self, index: int, message: Message) -> None:
        if index == self.target:
            if message[0] == m.WRITTEN:
                self.handoff.on_answer(self, "", message[2])
            else:
                self.handoff.on_answer(self, message[2])

    def on_lost(self, index: int) -> None:
        if index == self.target:
            self.handoff.on_answer(self, "lost")


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
        self._engine = engine
        self._placements = placements
        self._clock = runtime.clock
        self._epoch = epoch
        self._age_ms = round(limits.hint_age_s * 1000)
        self.is_on = limits.hint_bytes_max > 0
        others = [index for index in range(len(names)) if index != home]
        self.hints = Hints(others, limits.hint_bytes_max, limits.hints_max)
        self.recent = Recent(len(names), limits.hints_max)
        self.may_spend: Callable[[int], bool] = lambda size_bytes: True
        """Asked before each debt is sent, with its bytes: the repair budget."""
        self.settle: Callable[[bytes, Placement], object] = lambda key, placement: None
        self._claims: deque[tuple[int, Iterator[tuple[bytes, int]]]] = deque()
        self._losses = list(exchanges.losses)
        self._doubted = 0
        self._refusing_until_s = [0.0] * len(names)
        self._sent: dict[int, _Sent] = {}
        self._in_flight_bytes = [0] * len(names)
        self._resume_s = [0.0] * len(names)
        """When each node, whose own budget may be spent, takes more debts."""
        self._payable = 0
        self._undecided: dict[bytes, tuple[Ballot, float]] = {}
        """Proposals that stand in the way of a debt, and since when they were seen to."""
        self._rows: Generator[tuple[str, bytes], None, None] | None = engine.scan_meta(PREFIX) if self.is_on else None

    # -- debts arise

    def on_send(self, key: bytes, members: int) -> None:
        """Hear that something under `key` is about to be sent to its owners (bits); call before its row is put."""
        self.recent.keys[key] = members
        missing = members & (~self._exchanges.up | self._exchanges.doubted)
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
                self._put_row(target, key, now_ms, NO_ENTRY)

    def keep(self, key: bytes, owners: tuple[int, ...], entry: Entry, *, sync: bool, then: Callable[[], None]) -> bool:
        """Keep a new entry for owners none of which can be reached; `then` runs once it is durable.

        Returns False, and keeps nothing, if there is no room.
        """
        if not self.is_on:
            return False
        now_ms, version = self._clock.wall_ms(), entry_version(entry)
        rows = [t for t in owners if self.hints.owe(t, key, now_ms, version, len(entry)) is Owed.NEW]
        for target in rows:
            self._put_row(target, key, now_ms, entry, sync=sync, then=then if target == rows[-1] else None)
        return bool(rows)

    def _put_row(
        self,
        target: int,
        key: bytes,
        since_ms: int,
        entry: Entry,
        *,
        sync: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        self._engine.put_meta(self._name(target, key), since_ms.to_bytes(8, "big") + entry, sync=sync, then=then)

    def _remove_row(self, target: int, key: bytes) -> None:
        self._engine.remove_meta(self._name(target, key), sync=False, then=None)

    def _name(self, target: int, key: bytes) -> str:
        return f"{PREFIX}{self._names[target]}/{key[:2].hex()}/{key[2:].decode()}"

    # -- what is heard of the others

    def on_heartbeat(self, index: int, sent_s: float) -> None:
        """Node `index` has answered a heartbeat: what was sent before it has arrived."""
        self.recent.vouch(index, sent_s)

    def on_refused(self, link: Link, message: Message) -> None:
        """A node could not take something: it is owed what it may have missed, and whoever waits for it is told."""
        if message[2] in ("overloaded", "clock-skew"):
            self._refusing_until_s[link.index] = self._clock.monotonic_s() + _REFUSING_S
        self._exchanges.on_reply(link, message)

    def sweep(self, now_s: float) -> None:
        """Note new debts of nodes that were lost, give up old ones, and pay what can be paid."""
        exchanges = self._exchanges
        if not self.is_on:
            self.recent.keys.clear()
            return
        if self._rows is not None:
            self._load(self._rows)
        refusing = sum(1 << target for target in self.hints.ledgers if self._refusing_until_s[target] > now_s)
        exchanges.doubted = doubted = exchanges.suspected | refusing
        for target in self.hints.ledgers:
            if exchanges.losses[target] != self._losses[target] or doubted & ~self._doubted & (1 << target):
                self._losses[target] = exchanges.losses[target]
                self._claim(target, now_s)
        self._doubted = doubted
        self.recent.sweep(now_s, exchanges.up & self._not_home)
        self._look_through_claims()
        for sent in [sent for sent in self._sent.values() if sent.deadline_s < now_s]:
            self.on_answer(sent, "silent")
        self._payable = exchanges.up & ~doubted
        for target, ledger in self.hints.ledgers.items():
            if ledger.waiting:
                self._expire(target, ledger)
                self._pay(target, ledger, now_s)

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
            self._remove_row(target, key)

    def _pay(self, target: int, ledger: Ledger, now_s: float) -> None:
        link = self._exchanges.links[target]
        if link is None or not self._payable >> target & 1 or now_s < self._resume_s[target]:
            return
        for _ in range(min(WINDOW, len(ledger.waiting))):
            if len(ledger.sent) >= WINDOW or self._in_flight_bytes[target] >= WINDOW_BYTES:
                return
            taken = ledger.take()
            if taken is not None and not self._send(target, ledger, link, *taken):
                return

    def _send(self, target: int, ledger: Ledger, link: Link, key: bytes, debt: Debt) -> bool:
        """Send what a debt stands for; False if nothing more can be sent now."""
        placement = self._placements.of(key[2:])
        if self._clock.wall_ms() - debt.since_ms > placement.store.gc_grace_s * 1000:
            ledger.expired += 1  # it may bring back what was deleted since (R37)
            self._discharge(target, ledger, key)
            return True
        found = self._kept(target, key, debt) if debt.version else self._held(key, placement)
        if found is None:
            ledger.put_back(key, first=False)
            return True
        ballot, record, entry = found
        if not ballot and not entry:
            self._discharge(target, ledger, key)
            return True
        size_bytes = len(record.body) + len(record.window) + len(entry) + debt.size_bytes
        sent = _Sent(self, target, key, size_bytes, self._clock.monotonic_s() + _ANSWER_S)
        if not self.may_spend(sent.size_bytes):
            ledger.put_back(key, first=True)
            return False
        sent.number = number = self._exchanges.begin(sent)
        if not link.send((m.HINT, number, self._epoch, key, ballot, record.body, record.window, entry)):
            self._exchanges.end(number)
            ledger.put_back(key, first=True)
            return False
        self._sent[number] = sent
        self._in_flight_bytes[target] += sent.size_bytes
        return True

    def _held(self, key: bytes, placement: Placement) -> tuple[Ballot, Record, Entry] | None:
        """Return what this replica holds: what is committed and the overlay, each perhaps empty; None: not yet."""
        register = self._registers.get(key)
        image = register.shown
        if register.pins:
            return None  # what is newer is not durable yet, and must not be shown (R6)
        if image.accepted_ballot:
            self._settle_at_last(key, placement, image.accepted_ballot)
            return None
        self._undecided.pop(key, None)
        if image.settled:
            return NO_BALLOT, NO_RECORD, image.overlay  # no repair spreads a settled tombstone (R38)
        return image.committed_ballot, image.committed, image.overlay

    def _kept(self, target: int, key: bytes, debt: Debt) -> tuple[Ballot, Record, Entry] | None:
        """Return the entry that was kept for a node; None: its row is not written yet."""
        row = self._engine.load_meta(self._name(target, key))
        entry = Entry(row[8:]) if row else NO_ENTRY
        if not entry or entry_version(entry) != debt.version:
            return None
        return NO_BALLOT, NO_RECORD, entry

    def _settle_at_last(self, key: bytes, placement: Placement, ballot: Ballot) -> None:
        """Settle a proposal that has stood in the way for a while; its coordinator may be gone."""
        now_s = self._clock.monotonic_s()
        seen, since_s = self._undecided.get(key, (NO_BALLOT, 0.0))
        if seen != ballot:
            if len(self._undecided) >= _UNDECIDED_MAX:
                self._undecided.clear()
            self._undecided[key] = (ballot, now_s)
        elif now_s - since_s >= _UNDECIDED_S:
            self._undecided[key] = (ballot, now_s)
            self.settle(key, placement)

    def on_answer(self, sent: _Sent, code: str, wait_ms: int = 0) -> None:
        """Take the answer to a debt: paid (no code), refused for good, or to be sent again.

        `wait_ms` is what the other asks for before it is sent more.
        """
        self._exchanges.end(sent.number)
        del self._sent[sent.number]
        target, key = sent.target, sent.key
        self._in_flight_bytes[target] -= sent.size_bytes
        ledger = self.hints.ledgers[target]
        if code in ("", "stale"):
            ledger.delivered += not code
            ledger.stale += bool(code)
            self._discharge(target, ledger, key)
            now_s = self._clock.monotonic_s()
            if wait_ms:
                self._resume_s[target] = now_s + wait_ms / 1000
            elif ledger.waiting:
                self._pay(target, ledger, now_s)
        else:
            ledger.put_back(key, first=code == "lost")

    def _discharge(self, target: int, ledger: Ledger, key: bytes) -> None:
        if ledger.pay(key):
            self._remove_row(target, key)

    # -- after a start

    def _load(self, rows: Generator[tuple[str, bytes], None, None]) -> None:
        """Take up debts from their rows, a little at a time."""
        targets = {name: index for index, name in enumerate(self._names)}
        some = list(islice(rows, _LOADED_TOGETHER))
        for name, row in some:
            node, _, rest = name[len(PREFIX) :].partition("/")
            partition, _, key_name = rest.partition("/")
            key = bytes.fromhex(partition) + key_name.encode()
            ledger = self.hints.ledgers.get(targets.get(node, -1))
            is_possible = self.hints.has_room and self._registers.is_row_key(key)
            if ledger is None or not is_possible:  # no such node is configured, or other bounds or partitions
                self._engine.remove_meta(name, sync=False, then=None)
            elif not ledger.holds(key):
                entry = Entry(row[8:])
                version = entry_version(entry) if entry else NO_VERSION
                debt = Debt(int.from_bytes(row[:8], "big"), len(key) + DEBT_BYTES + len(entry), version)
                self.hints.restore(targets[node], key, debt)
        if len(some) < _LOADED_TOGETHER:
            self._rows = None

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
