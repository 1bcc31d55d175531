"""Eventual writes that override what they may not, or lose to what they must not (R7, R8, R10, R15, R29-R31, 4a)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire.values import NO_VERSION
from kvnode.core import proposer, reading, register
from kvnode.core.operation import VALUE, Result
from kvnode.core.record import Record
from kvnode.core.version import ballot_stamp, version_sballot, version_stamp
from kvnode.service.ceilings import Ceilings
from kvnode.service.eventual import Eventual
from kvnode.service.reads import StrongReads


def ordered_by_stamp_alone(patch: pytest.MonkeyPatch) -> None:
    def stamp(version: Any) -> Any:
        return version_stamp(version) or ballot_stamp(version_sballot(version))

    def later(entry: Any, base: Any, *rest: Any) -> Any:
        return not base or stamp(entry[1:45]) > stamp(base)

    for room in (proposer, register):
        name = "entry_counts" if room is proposer else "entry_visible"
        patch.setattr(room, name, later)


def stamps_know_only_the_clock(patch: pytest.MonkeyPatch) -> None:
    stamp = Ceilings.stamp
    patch.setattr(Ceilings, "stamp", lambda ceilings, above=0: stamp(ceilings))


def overlays_are_shown_unabsorbed(patch: pytest.MonkeyPatch) -> None:
    def unabsorbed(reads: Any, gathering: Any) -> Any:
        reads._close(gathering)
        body = register.visible_body(reads._registers.get(gathering.slot.key).shown)
        reads.consensus.on_read_done(gathering.slot, gathering.operations, Result(VALUE, body=body))

    patch.setattr(StrongReads, "_to_round", unabsorbed)


def overlays_are_never_folded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proposer, "entry_counts", lambda entry, base, is_absent: False)


def every_entry_is_visible(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(register, "entry_visible", lambda entry, committed, is_settled: True)


def entries_build_on_proposals(patch: pytest.MonkeyPatch) -> None:
    stamp = Eventual._stamp

    def hopeful(eventual: Any, draft: Any, image: Any) -> Any:
        if image.accepted_ballot:
            image = image._replace(committed_ballot=image.accepted_ballot, committed=image.accepted)
        stamp(eventual, draft, image)

    patch.setattr(Eventual, "_stamp", hopeful)


def writes_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Eventual, "_waits_for_decision", lambda eventual, draft: False)


def patience_is_endless(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kvnode.service.eventual._UNDECIDED_WAIT_S", 1000.0)


def tokens_are_not_confirmed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kvnode.service.eventual._is_unconfirmed", lambda seen, image: False)


def a_token_is_believed(patch: pytest.MonkeyPatch) -> None:
    stamp = Eventual._stamp

    def trusting(eventual: Any, draft: Any, image: Any) -> Any:
        if draft.token:
            image = image._replace(committed=Record(draft.token + image.committed.body[44:], b""))
        stamp(eventual, draft, image)

    patch.setattr("kvnode.service.eventual._is_unconfirmed", lambda seen, image: False)
    patch.setattr(Eventual, "_stamp", trusting)


def nothing_is_unseen(patch: pytest.MonkeyPatch) -> None:
    accept = register.Register.accept

    def blind(self: Any, ballot: Any, record: Any, base: Any, *rest: Any) -> Any:
        return accept(self, ballot, record, NO_VERSION, *rest)

    patch.setattr(register.Register, "accept", blind)


def entries_prove_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reading.FastRead, "_needs_round", lambda read, ballot: False)
