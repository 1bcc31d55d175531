"""Operations that take effect twice, or are refused without evidence (R17, R18, R23-R25, 4a)."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.wire.values import body_pack
from kvnode.core import change
from kvnode.core import window as windows
from kvnode.core.change import Change
from kvnode.core.operation import CHECK_ETAG, CONFLICT, Result
from kvnode.core.proposer import Round, Step
from kvnode.core.record import Record
from kvnode.core.version import ABSENT_VERSION
from kvnode.core.window import Window
from kvnode.service.consensus import Consensus
from kvnode.service.eventual import Eventual


def only_effects_are_remembered(patch: pytest.MonkeyPatch) -> None:
    remember = change._remember

    def careless(key: Any, operation: Any, result: Any, version: Any) -> Any:
        if result == windows.APPLIED:
            remember(key, operation, result, version)

    patch.setattr(change, "_remember", careless)


def a_fold_drops_the_window(patch: pytest.MonkeyPatch) -> None:
    fold = change._fold

    def forgetful(key: Any, base: Any, entry: Any) -> Any:
        fold(key, base, entry)
        key.window = Window()

    patch.setattr(change, "_fold", forgetful)


def changes_drop_the_window(patch: pytest.MonkeyPatch) -> None:
    honest = change._Key.set

    def forgetful(key: Any, *arguments: Any) -> Any:
        honest(key, *arguments)
        key.window = Window()

    patch.setattr(change._Key, "set", forgetful)


def nothing_is_remembered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "find", lambda window, session, sequence: None)


def marks_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "is_answered", lambda window, session, sequence: False)


def entries_are_dropped_at_the_deadline(patch: pytest.MonkeyPatch) -> None:
    expire = Window.expire
    patch.setattr(Window, "expire", lambda window, ballot_ms: expire(window, ballot_ms + 70_000))


def refusals_come_from_home(patch: pytest.MonkeyPatch) -> None:
    """M6d: a check that fails at this replica is refused at once, without a round."""
    submit = Consensus.submit

    def hasty(consensus: Any, key: bytes, placement: Any, operation: Any) -> None:
        body = consensus._registers.get(key).shown.committed.body
        step = operation.steps[0] if operation.steps else None
        if step is not None and step.check == CHECK_ETAG and body and step.version != body[:44]:
            operation.answer(Result(CONFLICT, body=body))
        else:
            submit(consensus, key, placement, operation)

    patch.setattr(Consensus, "submit", hasty)


def a_repeated_write_is_stamped_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Eventual, "send_stamped", lambda eventual, draft, stamp: eventual.write(draft))


def promises_prove_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Round, "_has_evidence", lambda round_, ballot: True)


def promises_prove_nothing(patch: pytest.MonkeyPatch) -> None:
    propose = Round._propose

    def with_a_record(round_: Round, outcome: Change) -> Step:
        nothing = Record(body_pack(ABSENT_VERSION, 0, 0, b""), b"")
        return propose(round_, outcome if outcome.record.body else outcome._replace(record=nothing))

    patch.setattr(Round, "_has_evidence", lambda round_, ballot: False)
    patch.setattr(Round, "_propose", with_a_record)


def reads_join_what_runs(patch: pytest.MonkeyPatch) -> None:
    submit = Consensus.submit

    def joining(consensus: Any, key: Any, placement: Any, operation: Any) -> Any:
        for gathering in consensus.reads._open.values():
            if gathering.slot.key == key and operation.is_read:
                gathering.operations.append(operation)
                return
        submit(consensus, key, placement, operation)

    patch.setattr(Consensus, "submit", joining)
