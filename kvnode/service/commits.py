"""Commits: the marks that tell replicas what is chosen, and the repair of those that have missed it.

Decides: when a mark is sent (R16: lazily, on the next accept of the key if one comes in time) and what follows when a
replica does not hold what is marked (R12).  Leaves to others: what is chosen (`consensus`, `reads`).

Bounds: at most `PENDING_MAX` marks wait, each about `commit_delay_s`; beyond that the oldest is sent at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, Ballot
from kvnode.config import Limits
from kvnode.core.record import Record
from kvnode.runtime import Timers
from kvnode.service.exchange import Exchanges, Link
from kvnode.service.handoff import Handoff
from kvnode.service.placement import Placement
from kvnode.service.registers import Registers

PENDING_MAX = 16_384
_BATCH = 512
"""Marks sent in one turn of the loop: about a millisecond of work."""


class Commits:
    """The marks that this coordinator still owes to the other owners."""

    def __init__(
        self,
        exchanges: Exchanges,
        registers: Registers,
        handoff: Handoff,
        timers: Timers,
        epoch: int,
        limits: Limits,
        may_spend: Callable[[int], bool],
    ) -> None:
        """`may_spend` asks the repair budget for so many bytes (`pace`)."""
        self._exchanges = exchanges
        self._handoff = handoff
        self._registers = registers
        self._timers = timers
        self._epoch = epoch
        self._delay_s = limits.commit_delay_s
        self._may_spend = may_spend
        self._pending: OrderedDict[bytes, tuple[Ballot, Placement]] = OrderedDict()
        self._is_armed = False

    def add(self, key: bytes, ballot: Ballot, placement: Placement) -> None:
        """Owe the mark of `ballot`; it replaces an older one of the key."""
        self._pending[key] = (ballot, placement)
        if not self._is_armed:
            self._arm(self._delay_s)
        elif len(self._pending) > PENDING_MAX:
            self._send(_BATCH)

    def remind(self, key: bytes, ballot: Ballot, placement: Placement) -> None:
        """Owe the mark of a ballot that a read has proved to be chosen, and that some owner only accepted (R20)."""
        owed = self._pending.get(key)
        if owed is None or owed[0] < ballot:
            self.add(key, ballot, placement)

    def take(self, key: bytes) -> Ballot:
        """Return the mark owed for `key`, to ride on its next accept, or an empty ballot."""
        owed = self._pending.pop(key, None)
        return owed[0] if owed else NO_BALLOT

    def flush(self) -> None:
        """Send every mark now."""
        self._send(len(self._pending))

    def repair(self, index: int, key: bytes, ballot: Ballot, record: Record, overlay: bytes = b"") -> bool:
        """Send a replica what it was seen to lack: a chosen record, an overlay entry (R12, R20, R31); nobody waits.

        Returns whether it was sent: when the repair budget is spent, or the link takes no more, it is left to the next
        read, or to what heals without one.
        """
        link = self._exchanges.links[index]
        size_bytes = len(key) + len(record.body) + len(record.window) + len(overlay)
        if link is None or not self._may_spend(size_bytes):
            return False
        is_sent = not ballot or link.send((m.COMMIT, self._epoch, key, ballot, record.body, record.window))
        return is_sent and (not overlay or link.send((m.REPAIR, 0, self._epoch, key, overlay)))

    def on_unknown_ballot(self, link: Link, message: Message) -> None:
        """A replica does not hold what it was told to mark: send it the record that is committed here by now (R12), or
        owe it that when it cannot be sent now."""
        _, key, ballot = message
        image = self._registers.get(key).shown
        if image.committed_ballot < ballot:
            return
        if not self.repair(link.index, key, image.committed_ballot, image.committed):
            self._handoff.owe(key, 1 << link.index)

    def _arm(self, delay_s: float) -> None:
        self._is_armed = True
        self._timers.call_later(delay_s, self._flush_some)

    def _flush_some(self) -> None:
        self._is_armed = False
        self._send(_BATCH)
        if self._pending:
            self._arm(self._delay_s / 4)

    def _send(self, count: int) -> None:
        """Send the oldest marks, in one message per owner; who is away is owed them."""
        marks: dict[int, list[bytes]] = {}
        for key in list(islice(self._pending, count)):
            ballot, placement = self._pending.pop(key)
            self._handoff.on_send(key, placement.members)
            for index in placement.others:
                marks.setdefault(index, []).extend((key, ballot))
        for index, pairs in marks.items():
            link = self._exchanges.links[index]
            if link is not None:
                link.send((m.MARKS, self._epoch, pairs))
