"""Hints that are more than they may be (R13, R28, R37)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire import messages as m
from kvnode.core.hints import Ledger
from kvnode.core.record import NO_ENTRY
from kvnode.service import handoff
from kvnode.service.consensus import Consensus
from kvnode.service.handoff import Handoff
from kvnode.service.hintrows import HintRows
from kvnode.service.replica import Replica


def hints_carry_proposals(patch: pytest.MonkeyPatch) -> None:
    held = Handoff._held

    def hopeful(handoff: Any, key: Any) -> Any:
        image = handoff._registers.get(key).shown
        if image.accepted_ballot:
            return image.accepted_ballot, image.accepted, image.overlay
        return held(handoff, key)

    patch.setattr(Handoff, "_held", hopeful)


def hints_count(patch: pytest.MonkeyPatch) -> None:
    send = Consensus._send

    def counting(consensus: Any, slot: Any, round_: Any, message: Any) -> Any:
        reached = send(consensus, slot, round_, message)
        for index in slot.placement.owners if message[0] == m.ACCEPT else ():
            if not reached >> index & 1 and slot.round is round_:
                round_.tally.no &= ~(1 << index)
                slot.on_reply(index, (m.ACCEPTED, message[1], NO_ENTRY))
        return reached

    patch.setattr(Consensus, "_send", counting)


def hints_know_no_age(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "_is_stale", lambda replica, key, register, stamp, now_ms: False)


def hints_never_grow_old(patch: pytest.MonkeyPatch) -> None:
    """Neither side looks at the age of a hint."""
    take = Ledger.take

    def young(ledger: Any) -> Any:
        taken = take(ledger)
        return taken and (taken[0], taken[1]._replace(since_ms=1 << 62))

    patch.setattr(Ledger, "take", young)
    hints_know_no_age(patch)


def hints_end_with_their_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HintRows, "begin_loading", lambda rows: None)


def hints_are_cleared_when_sent(patch: pytest.MonkeyPatch) -> None:
    """A debt is paid once it is written to a connection, whatever becomes of it there."""
    pay = Handoff._pay

    def hopeful(debtor: Any, target: Any) -> None:
        pay(debtor, target)
        ledger = debtor.hints.ledgers[target]
        for key in list(ledger.sent):
            debtor._discharge(target, ledger, key)

    patch.setattr(Handoff, "_pay", hopeful)


def hints_are_paid_when_sent(patch: pytest.MonkeyPatch) -> None:
    def trusting(batch: Any, index: int) -> None:
        if index == batch.target:
            batch.handoff.on_taken(batch, 0, bytes(len(batch.keys)))

    patch.setattr(handoff._Batch, "on_lost", trusting)
