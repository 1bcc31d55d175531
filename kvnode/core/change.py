"""What a round does to a key: fold the overlay, expire, then apply the batch of operations in order.

Decides: R14-R16 (one version and one result for each operation), R23-R24 (window and deadlines), R63 (expiry), and
whether the results may be told on the evidence of the promises alone or need an accept first (R17).  Leaves to others:
which record is the base (`proposer`), and every message.

A pure function of its arguments: it may run again at a higher ballot, and then gives what that ballot's base demands.
"""

from __future__ import annotations

from typing import NamedTuple

from kvclient.wire.values import (
    NO_VERSION,
    TOMBSTONE,
    Ballot,
    Version,
    body_content,
    body_pack,
    body_times,
    body_version,
)
from kvnode.core import window as windows
from kvnode.core.operation import (
    ACCEPT,
    ANCHOR,
    APPLIED,
    CHECK_ABSENT,
    CHECK_ETAG,
    CONFLICT,
    NOT_APPLIED,
    UNKNOWN,
    VALUE,
    Operation,
    Result,
)
from kvnode.core.record import NO_RECORD, Entry, Record, entry_body
from kvnode.core.version import ABSENT_VERSION, ballot_ms, version_fold, version_strong
from kvnode.core.window import NO_VERSION_PADDED, Completed, Window


class Change(NamedTuple):
    """The outcome of a round's work: the record to propose and one result per operation, in order.

    `needs_accept` is False if nothing changed and every result may be told on the promises' evidence (R17).
    """

    record: Record
    results: list[Result]
    needs_accept: bool


class _Key:
    """The key while a batch runs over it."""

    __slots__ = ("ballot", "ballot_ms", "body", "changes", "content", "must_accept", "now_ms", "version", "window")

    def __init__(self, ballot: Ballot, base: Record, now_ms: int) -> None:
        self.ballot = ballot
        self.ballot_ms = ballot_ms(ballot)
        self.now_ms = now_ms
        self.body = base.body
        self.version = base.version if base.body else NO_VERSION
        self.content = body_content(base.body)
        self.window = Window.decode(base.window)
        self.changes = 0
        self.must_accept = False

    def set(self, content: bytes, expires_at_ms: int, created_at_ms: int) -> None:
        """Make the next change of the round: a new version, a new body."""
        self.version = version_strong(self.ballot, self.changes)
        self.changes += 1
        self.content = content
        self.body = body_pack(self.version, expires_at_ms, created_at_ms, content)

    @property
    def shown(self) -> bytes:
        """The body as an answer shows it: of a tombstone too, whose version is a token (4a); empty if there is none."""
        return self.body


def apply(
    ballot: Ballot, base: Record, entry: Entry, operations: list[Operation], now_ms: int, *, is_settled: bool = False
) -> Change:
    """Return what `operations` make of `base` (NO_RECORD: the key is absent) after folding `entry` (NO_ENTRY: none).

    `now_ms` is the coordinator's clock once the promises are in; it can only refuse, never let run (R24).

    `is_settled`: the base is a settled tombstone.  It is never accepted again as it is: it would be a delete anew, over
    eventual writes whose replicas have removed it before (R38).
    """
    key = _Key(ballot, base, now_ms)
    if entry:
        _fold(key, base, entry)
    if key.content and 0 < body_times(key.body)[0] <= key.ballot_ms:
        key.set(TOMBSTONE, 0, key.ballot_ms)
    key.window.expire(key.ballot_ms)
    results = [_run(key, operation) for operation in operations]
    needs_accept = key.must_accept or key.changes > 0 or bool(entry)
    if is_settled and needs_accept and not (key.changes or entry):
        return Change(base, [_unrecorded(*each) for each in zip(operations, results, strict=True)], False)
    if needs_accept and not key.body:  # a window needs a record to live in; it is no change (R7), so it hides nothing
        key.body = body_pack(ABSENT_VERSION, 0, key.ballot_ms, TOMBSTONE)
    return Change(Record(key.body, key.window.encode()) if key.body else NO_RECORD, results, needs_accept)


def _unrecorded(operation: Operation, result: Result) -> Result:
    """Return what may be told of an operation although no record can say it: a later attempt's refusal is none (R23).
    The key is about to be absent; asked again, it is refused then."""
    return result if operation.is_read or operation.is_first_try else Result(UNKNOWN, code="in doubt")


def _fold(key: _Key, base: Record, entry: Entry) -> None:
    body = entry_body(entry)
    key.version = version_fold(base.version, body_version(body))
    key.content = body_content(body)
    key.body = body_pack(key.version, *body_times(body), key.content)


def _run(key: _Key, operation: Operation) -> Result:
    if operation.is_read:
        if operation.identity == ACCEPT or (operation.identity == ANCHOR and not key.content):
            key.must_accept = key.must_accept or bool(key.body)
        return Result(VALUE, body=key.shown)
    known = key.window.find(operation.session, operation.sequence)
    if known is not None:
        return _repeat(key, known)
    if key.window.is_answered(operation.session, operation.sequence):
        return Result(UNKNOWN, code="answered")
    if max(key.ballot_ms, key.now_ms) > operation.deadline_ms:
        return _too_late(key, operation)
    if not key.window.has_room(operation.session, operation.mark):
        # An earlier accept of it may be on its way: only a record chosen above that makes "no" true (R17, R21)
        key.must_accept = key.must_accept or not operation.is_first_try
        return Result(NOT_APPLIED, code="overloaded")
    return _execute(key, operation)


def _repeat(key: _Key, known: Completed) -> Result:
    """Answer a retry from the window; the identity round that carries it makes the answer true for ever (R18)."""
    key.must_accept = True
    if known.result == windows.REFUSED:
        return Result(CONFLICT, body=key.shown)
    return Result(APPLIED, version=known.version if known.result == windows.APPLIED else NO_VERSION)


def _too_late(key: _Key, operation: Operation) -> Result:
    """Refuse an operation past its deadline: for good if this round's ballot, once chosen, shuts out every round that
    could still run it (R24)."""
    if operation.is_first_try:
        return Result(NOT_APPLIED, code="deadline-exceeded", is_settled=True)
    if key.ballot_ms >= operation.deadline_ms + windows.KEEP_AFTER_DEADLINE_MS:
        return Result(UNKNOWN, code="too late to tell")
    if key.ballot_ms <= operation.deadline_ms:
        # Late by this clock alone: a higher ballot of the same time, at a node whose clock is behind, may still run it
        return Result(UNKNOWN, code="in doubt")
    key.must_accept = True
    return Result(NOT_APPLIED, code="deadline-exceeded", is_settled=True)


def _execute(key: _Key, operation: Operation) -> Result:
    content, expires_at_ms, changed = key.content, 0, False
    for step in operation.steps:
        if (step.check == CHECK_ABSENT and content) or (
            step.check == CHECK_ETAG and not (content and key.content and step.version == key.version)
        ):
            _remember(key, operation, windows.REFUSED, NO_VERSION_PADDED)
            return Result(CONFLICT, body=key.shown)
        changed = changed or bool(content or step.content)
        content, expires_at_ms = step.content, step.expires_at_ms
    if not changed:
        _remember(key, operation, windows.UNCHANGED, NO_VERSION_PADDED)
        return Result(APPLIED)
    key.set(content, expires_at_ms, operation.created_at_ms)
    _remember(key, operation, windows.APPLIED, key.version)
    return Result(APPLIED, version=key.version)


def _remember(key: _Key, operation: Operation, result: int, version: Version) -> None:
    """Record an outcome.  One that changed nothing is recorded only for a later attempt: an earlier one, still on its
    way, would run after the client was told (R17, R23)."""
    if result != windows.APPLIED and operation.is_first_try:
        return
    key.must_accept = True
    key.window.record(operation.session, operation.mark, operation.sequence, result, operation.deadline_ms, version)
