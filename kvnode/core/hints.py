"""What this node owes to others: one debt per key and target, oldest first, within bounds.

Decides: what is owed, what replaces what, and what is given up at the bounds.  Leaves to others: the rows that make it
survive a restart, what is sent, and when (`kvnode.service.handoff`).

A debt says "node T may lack what is here under this key".  What that is, is looked up when it is sent, so a thousand
writes of a key make one debt.  Only a node that is no replica of the key has nothing else to look up: its debt is for
one entry, whose version it names, and a newer entry replaces it.

A debt waits, or is sent.  If the key is written again meanwhile, it does both: what was sent may be older.

Bounds: `bytes_max` for each target and `count_max` for all; a debt beyond them is not taken.  One that is older than
its age is given up.  Both are counted: anti-entropy finds what they stood for.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import IntEnum
from typing import NamedTuple

from kvclient.wire.values import NO_VERSION, Version

DEBT_BYTES = 64
"""What a debt counts beside its key and its entry: the row's frame, and most of what it takes in memory."""


class Debt(NamedTuple):
    """One key that is owed to one node."""

    since_ms: int
    """When it was first owed, by this node's wall clock."""
    size_bytes: int
    version: Version
    """The entry that is owed; empty: whatever this node holds."""


class Owed(IntEnum):
    """What became of a debt that was to be noted."""

    NEW = 0
    """It is noted; its row must be written."""
    HELD = 1
    """It is there already, or something newer is."""
    FULL = 2
    """It is beyond a bound, and was counted as dropped."""


class Ledger:
    """What is owed to one node."""

    __slots__ = ("delivered", "dropped", "expired", "sent", "size_bytes", "stale", "waiting")

    def __init__(self) -> None:
        self.waiting: OrderedDict[bytes, Debt] = OrderedDict()
        """By row key, the oldest first."""
        self.sent: dict[bytes, Debt] = {}
        self.size_bytes = 0
        self.delivered = self.dropped = self.expired = self.stale = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.sent)

    def holds(self, key: bytes) -> bool:
        """Return whether anything is owed under a key: then its row must stay."""
        return key in self.waiting or key in self.sent

    def take(self) -> tuple[bytes, Debt] | None:
        """Return the oldest debt that waits, which counts as sent from now on; None if it must wait for itself: the
        answer to what was sent earlier under its key would be taken for its own."""
        key = next(iter(self.waiting))
        if key in self.sent:
            self.waiting.move_to_end(key)
            return None
        self.sent[key] = debt = self.waiting.pop(key)
        return key, debt

    def take_expired(self, before_ms: int) -> bytes | None:
        """Give up the oldest debt that waits if it was owed before that time, and return its key."""
        for key, debt in self.waiting.items():
            if debt.since_ms >= before_ms:
                return None
            self.give_up(key)
            self.expired += 1
            return key
        return None

    def pay(self, key: bytes) -> bool:
        """Note that a debt that was sent is paid; True if nothing is owed under the key any more."""
        debt = self.sent.pop(key, None)
        if debt is not None:
            self.size_bytes -= debt.size_bytes
        return not self.holds(key)

    def give_up(self, key: bytes) -> None:
        """Forget everything that is owed under a key."""
        for debts in (self.waiting, self.sent):
            debt = debts.pop(key, None)
            if debt is not None:
                self.size_bytes -= debt.size_bytes

    def put_back(self, key: bytes, *, first: bool) -> None:
        """Let a debt that was sent wait again, before all others or behind them."""
        debt = self.sent.pop(key, None)
        if debt is None:
            return
        if key in self.waiting:
            self.size_bytes -= debt.size_bytes
        else:
            self.waiting[key] = debt
            if first:
                self.waiting.move_to_end(key, last=False)


class Hints:
    """What is owed to every other node, by node index."""

    def __init__(self, targets: list[int], bytes_max: int, count_max: int) -> None:
        self.ledgers = {target: Ledger() for target in targets}
        self._bytes_max = bytes_max
        self._count_max = count_max

    @property
    def total(self) -> int:
        """Debts to all nodes."""
        return sum(len(ledger) for ledger in self.ledgers.values())

    @property
    def has_room(self) -> bool:
        """True unless there are `count_max` debts."""
        return self.total < self._count_max

    def owe(self, target: int, key: bytes, now_ms: int, version: Version = NO_VERSION, entry_bytes: int = 0) -> Owed:
        """Note that `target` may lack what is under `key`: the entry with this version, or what this node holds."""
        ledger = self.ledgers[target]
        held, sent = ledger.waiting.get(key), ledger.sent.get(key)
        if held is not None and held.version >= version:
            return Owed.HELD
        if version and sent is not None and sent.version >= version:
            return Owed.HELD
        size_bytes = len(key) + DEBT_BYTES + entry_bytes
        is_known = held is not None or sent is not None
        if ledger.size_bytes + size_bytes - (held.size_bytes if held is not None else 0) > self._bytes_max or (
            not is_known and not self.has_room
        ):
            ledger.dropped += 1
            return Owed.FULL
        since_ms = now_ms
        if held is not None:
            since_ms = held.since_ms
            ledger.size_bytes -= held.size_bytes
        ledger.waiting[key] = Debt(since_ms, size_bytes, version)
        ledger.size_bytes += size_bytes
        return Owed.HELD if sent is not None and not version else Owed.NEW

    def restore(self, target: int, key: bytes, debt: Debt) -> None:
        """Take up a debt from its row, in the order of a scan."""
        ledger = self.ledgers[target]
        ledger.waiting[key] = debt
        ledger.size_bytes += debt.size_bytes
