"""Versions, as their ETags show them: one value each, and rising from one strong answer to the next.

Versions stay out of the model of a register, so that a server cannot vouch for itself.  They are judged on their own:

- an ETag never names two values (R7: unique, never assigned again);
- a strong write gets a greater version than anything that a strong operation had shown before it began, and no strong
  answer shows a smaller one (P1; the sweep is D. Rystsov's: linear in the history but for sorting).  A key that may
  have been absent in between may have been purged, and its new life may begin below the old one (R8);
- nobody succeeds over an ETag that nobody was ever shown.

ETags that are not versions of kvnode are compared for equality only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from checkers.keyed import ABSENT, KeyHistory, returned_ns, shows, value_left, value_shown
from checkers.operation import Operation, describe
from checkers.report import Finding

from kvclient.wire.values import Version, etag_parse

NAME: Final = "versions"


def check(history: KeyHistory) -> Finding | None:
    """Return the first finding about the ETags of a key."""
    return next((finding for rule in (_two_values, _never_shown, _not_rising) for finding in rule(history)), None)


def _two_values(history: KeyHistory) -> Iterator[Finding]:
    named: dict[str, Operation] = {}
    for operation in history.operations:
        if operation.saw_etag is not None:
            first = named.setdefault(operation.saw_etag, operation)
            one, other = value_shown(first), value_shown(operation)
            if one != other:
                what = f"the ETag {operation.saw_etag} names two values, {one!r} and {other!r}"
                yield Finding(NAME, history.key, what, [first, operation])


def _never_shown(history: KeyHistory) -> Iterator[Finding]:
    for change in history.changes:
        if change.is_ok and change.etag is not None and change.etag not in history.etags:
            what = f"operation {change.index}, {describe(change)}, succeeded over an ETag that nobody was ever shown"
            yield Finding(NAME, history.key, what, [change])


def _not_rising(history: KeyHistory) -> Iterator[Finding]:
    answers = [(version, operation) for version, operation in _versions(history) if operation.is_strong]
    by_return = iter(sorted(answers, key=lambda answer: returned_ns(answer[1])))
    ended = next(by_return, None)
    greatest: tuple[Version, Operation] | None = None
    absences = _Absences(history)
    for version, operation in answers:
        while ended is not None and returned_ns(ended[1]) < operation.call_ns:
            greatest = ended if greatest is None or ended[0] > greatest[0] else greatest
            ended = next(by_return, None)
        if greatest is None or version > greatest[0] or (version == greatest[0] and not operation.may_change):
            continue
        if absences.may_lie_between(greatest[1], operation):
            continue
        what = f"operation {operation.index}, {describe(operation)}, shows a version that is not above the one that "
        what += f"operation {greatest[1].index}, {describe(greatest[1])}, had shown before"
        yield Finding(NAME, history.key, what, [greatest[1], operation])


class _Absences:
    """When the key may have been absent: by a delete, an expiry, or as somebody saw it."""

    def __init__(self, history: KeyHistory) -> None:
        absent = [operation for operation in history.operations if _may_be_absent(operation)]
        self._begun_ns = [operation.call_ns for operation in absent]
        self._ended_ns = list(accumulate(map(returned_ns, absent), max))

    def may_lie_between(self, one: Operation, other: Operation) -> bool:
        """Return whether some absence may lie after the effect of `one` and before that of `other`."""
        begun = bisect_left(self._begun_ns, other.call_ns)
        return begun > 0 and self._ended_ns[begun - 1] > one.call_ns


def _may_be_absent(operation: Operation) -> bool:
    if operation.may_change and operation.f != "incr" and (value_left(operation) is ABSENT or operation.ttl_ms):
        return True
    return shows(operation) and operation.saw is ABSENT


def _versions(history: KeyHistory) -> Iterator[tuple[Version, Operation]]:
    for operation in history.operations:
        version = None if operation.saw_etag is None else etag_parse(operation.saw_etag)
        if version is not None:
            yield version, operation
