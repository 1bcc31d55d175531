"""Clients that are told something else than what happened (R21, R24, R63, 4a)."""

from __future__ import annotations

import pytest

from kvnode.core import change
from kvnode.core.operation import VALUE, Result
from kvnode.core.proposer import Round
from kvnode.service.exchange import Exchanges
from kvnode.service.reads import StrongReads


def doubt_is_always_cleared(patch: pytest.MonkeyPatch) -> None:
    def forgetful(round_, reached):  # type: ignore[no-untyped-def]
        for operation in round_.operations:
            operation.is_in_doubt = False

    patch.setattr(Round, "clear_doubt", forgetful)


def no_accept_is_in_doubt(patch: pytest.MonkeyPatch) -> None:
    propose = Round._propose

    def sure(round_, outcome):  # type: ignore[no-untyped-def]
        step = propose(round_, outcome)
        for operation in round_.operations:
            operation.is_in_doubt = False
        return step

    patch.setattr(Round, "_propose", sure)


def doubt_is_never_cleared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Round, "clear_doubt", lambda round_, reached: None)


def the_wall_clock_decides(patch: pytest.MonkeyPatch) -> None:
    init = change._Key.__init__

    def by_clock(key, ballot, base, now_ms):  # type: ignore[no-untyped-def]
        init(key, ballot, base, now_ms)
        key.ballot_ms = now_ms

    patch.setattr(change._Key, "__init__", by_clock)


def links_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exchanges, "reachable", lambda exchanges, members: 99)


def expiry_is_judged_by_the_reader(patch: pytest.MonkeyPatch) -> None:
    def finish(reads, gathering, body):  # type: ignore[no-untyped-def]
        if body and 0 < change.body_times(body)[0] <= reads._runtime.clock.wall_ms():
            body = b""
        reads._close(gathering)
        reads.consensus.on_read_done(gathering.slot, gathering.operations, Result(VALUE, body=body))

    patch.setattr(StrongReads, "_finish", finish)
