"""Clients that are told something else than what happened (R21, R24, R63, 4a)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire.values import body_times
from kvnode.core import change
from kvnode.core.operation import NOT_APPLIED, VALUE, Result
from kvnode.core.proposer import Round
from kvnode.service.exchange import Exchanges
from kvnode.service.reads import StrongReads


def doubt_is_always_cleared(patch: pytest.MonkeyPatch) -> None:
    def forgetful(round_: Any, reached: Any) -> Any:
        for operation in round_.operations:
            operation.is_in_doubt = False

    patch.setattr(Round, "clear_doubt", forgetful)


def no_accept_is_in_doubt(patch: pytest.MonkeyPatch) -> None:
    propose = Round._propose

    def sure(round_: Any, outcome: Any) -> Any:
        step = propose(round_, outcome)
        for operation in round_.operations:
            operation.is_in_doubt = False
        return step

    patch.setattr(Round, "_propose", sure)


def doubt_is_never_cleared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Round, "clear_doubt", lambda round_, reached: None)


def one_refusal_clears_doubt(patch: pytest.MonkeyPatch) -> None:
    clear = Round.clear_doubt
    patch.setattr(Round, "clear_doubt", lambda round_, reached: clear(round_, 0 if round_.refused else reached))


def late_refusals_are_final(patch: pytest.MonkeyPatch) -> None:
    def too_late(key: Any, operation: Any) -> Result:
        key.must_accept = key.must_accept or not operation.is_first_try
        return Result(NOT_APPLIED, code="deadline-exceeded", is_settled=True)

    patch.setattr(change, "_too_late", too_late)


def the_wall_clock_decides(patch: pytest.MonkeyPatch) -> None:
    init = change._Key.__init__

    def by_clock(key: Any, ballot: Any, base: Any, now_ms: Any) -> Any:
        init(key, ballot, base, now_ms)
        key.ballot_ms = now_ms

    patch.setattr(change._Key, "__init__", by_clock)


def links_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exchanges, "reachable", lambda exchanges, members: 99)


def expiry_is_judged_by_the_reader(patch: pytest.MonkeyPatch) -> None:
    def finish(reads: Any, gathering: Any, body: Any) -> Any:
        if body and 0 < body_times(body)[0] <= reads._runtime.clock.wall_ms():
            body = b""
        reads._close(gathering)
        reads.consensus.on_read_done(gathering.slot, gathering.operations, Result(VALUE, body=body))

    patch.setattr(StrongReads, "_finish", finish)
