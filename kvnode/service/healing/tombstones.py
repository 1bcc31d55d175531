"""Purge, the replica's side: anchor, settle and remove a tombstone, each durable before it is acknowledged (R35).

Also what is left of a key that was only ever asked for: a promise, which its floor keeps as well (R6).

Decides: when an acknowledgement may leave, and that a floor is written before the row that it stands for goes (R36).
Leaves to others: the rules of each step (`core.register`), and who asks for them (`purge`).

Crashes: anchor and settle are one row each, all or none.  A removal is a floor and then a row's deletion, in the order
of the log: what survives of them is nothing, the floor alone, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvnode.core.clock import stamp_of
from kvnode.core.record import NO_RECORD, Image
from kvnode.core.register import Verdict
from kvnode.core.version import ballot_greatest_at, ballot_ms
from kvnode.runtime import Clock
from kvnode.service.exchange import Link
from kvnode.service.registers import CachedRegister, Registers
from kvnode.service.replica import Replica
from kvnode.service.states import check_ballot

_ANSWERS = {
    Verdict.DONE: m.PURGE_DONE,
    Verdict.REPEAT: m.PURGE_DONE,
    Verdict.OTHER: m.PURGE_OTHER,
    Verdict.SOON: m.PURGE_SOON,
    Verdict.GONE: m.PURGE_GONE,
}

_STEP_BYTES = 200
"""What a step costs the replica, about: a small row."""


class Tombstones:
    """The tombstones of every key of this node, as a purge finds them."""

    def __init__(
        self,
        replica: Replica,
        registers: Registers,
        clock: Clock,
        max_offset_ms: int,
        settle_after_ms: Callable[[bytes], int],
        charge: Callable[[int], None],
    ) -> None:
        """`settle_after_ms` says of a key's name how long a tombstone must have been anchored before it is settled;
        `charge` counts bytes against the repair budget."""
        self._replica = replica
        self._registers = registers
        self._clock = clock
        self._max_offset_ms = max_offset_ms
        self._settle_after_ms = settle_after_ms
        self._charge = charge

    def handlers(self) -> dict[int, Any]:
        """Return the handler of each message kind of a purge."""
        return {m.ANCHOR: self.on_anchor, m.SETTLE: self.on_settle, m.REMOVE: self.on_remove}

    def on_anchor(self, link: Link, message: Message) -> None:
        """Step 1: commit the identity round, drop what the tombstone supersedes, and note since when."""
        if not self._takes(link, message):
            return
        _, number, _, key, ballot = message
        self._registers.commit(key, ballot, NO_RECORD)
        register = self._registers.get(key)
        self._answer(link, number, register, register.anchor(ballot, self._clock.wall_ms()))

    def on_settle(self, link: Link, message: Message) -> None:
        """Step 2: mark it settled, unless it is too soon by this node's clock."""
        if not self._takes(link, message):
            return
        _, number, _, key, ballot = message
        register = self._registers.get(key)
        before = register.image
        verdict = register.settle(ballot, self._clock.wall_ms(), self._settle_after_ms(key[2:]))
        if verdict is Verdict.DONE:
            self._registers.on_change(key, before, register.image)
        self._answer(link, number, register, verdict)

    def on_remove(self, link: Link, message: Message) -> None:
        """Step 3: raise the floor and remove the row."""
        if not self._takes(link, message):
            return
        _, number, _, key, ballot = message
        register = self._registers.get(key)
        horizon = ballot_greatest_at(stamp_of(self._clock.wall_ms() + self._max_offset_ms))
        verdict = register.remove(ballot, horizon)
        if verdict is not Verdict.DONE:
            self._answer(link, number, register, verdict)
            return

        def on_durable() -> None:
            link.send((m.PURGED, number, m.PURGE_DONE, 0))

        self._replica.age.note()
        self._registers.remove(register, on_durable)

    # -- rows that hold nothing but a promise

    @property
    def has_room(self) -> bool:
        """True: a row is dealt with at once."""
        return True

    def on_row(self, key: bytes, image: Image) -> None:
        """Leave a promise that is older than gc_grace to the floor: reads and deletes of keys that never were would
        fill the disk with such rows (R6)."""
        if not image.promised or image.accepted_ballot or image.committed_ballot or image.overlay:
            return
        if not self._replica.room.may_free:
            return  # the next walk meets it again
        old_ms = self._clock.wall_ms() - self._settle_after_ms(key[2:])
        if ballot_ms(image.promised) < old_ms:
            register = self._registers.get(key)
            if register.forget_promise(ballot_greatest_at(stamp_of(old_ms))) is Verdict.DONE:
                self._replica.age.note()
                self._registers.remove(register, _nothing)

    # -- shared

    def _takes(self, link: Link, message: Message) -> bool:
        _, number, epoch, key, ballot = message
        check_ballot(key, ballot)
        self._charge(_STEP_BYTES)
        return self._replica.takes_removal(link, number, epoch)

    def _answer(self, link: Link, number: int, register: CachedRegister, verdict: Verdict) -> None:
        anchored_ms = register.image.anchored_ms
        age_ms = max(0, self._clock.wall_ms() - anchored_ms) if anchored_ms else 0
        reply = (m.PURGED, number, _ANSWERS[verdict], age_ms)
        self._replica.answer(register, link, reply, is_changed=verdict is Verdict.DONE)


def _nothing() -> None:
    """Answer nobody."""
