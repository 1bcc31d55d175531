"""Counters: every acknowledged increment is counted once, every unknown one at most once, nothing else at all.

A strong or final read of a key that is only incremented and read lies between the sum of what had been acknowledged
before it and the sum of what had been asked for by then; and no two increments by one give the same number.

Source: docs/testing.md, section 2; Jepsen's counter checker judges reads by the same bounds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final

from checkers.keyed import KeyHistory, returned_ns, shows
from checkers.operation import Operation, describe
from checkers.report import Finding

NAME: Final = "counters"


def check(history: KeyHistory) -> Finding | None:
    """Return the first read outside its bounds, or two increments that gave the same number."""
    return (_given_twice(history) or _out_of_bounds(history)) if history.is_counter else None


def added(operation: Operation) -> int:
    """Return what an increment adds."""
    return 1 if operation.value is None else int(operation.value)


class _Sums:
    """The sum of some increments up to a moment."""

    def __init__(self, increments: Iterable[Operation], moment: Callable[[Operation], int]) -> None:
        ordered = sorted(increments, key=moment)
        self._moments = [moment(increment) for increment in ordered]
        self._raising = list(accumulate((max(added(increment), 0) for increment in ordered), initial=0))
        self._lowering = list(accumulate((min(added(increment), 0) for increment in ordered), initial=0))

    def before(self, moment_ns: int) -> tuple[int, int]:
        """Return the sums of what raises and what lowers, strictly before a moment."""
        at = bisect_left(self._moments, moment_ns)
        return self._raising[at], self._lowering[at]

    def until(self, moment_ns: int) -> tuple[int, int]:
        """Return the sums of what raises and what lowers, up to a moment."""
        at = bisect_right(self._moments, moment_ns)
        return self._raising[at], self._lowering[at]


def _out_of_bounds(history: KeyHistory) -> Finding | None:
    sure = _Sums((change for change in history.changes if change.is_ok), returned_ns)
    asked = _Sums(history.changes, lambda change: change.call_ns)
    for read in history.operations:
        if not shows(read) or not (read.is_strong or read.is_final):
            continue
        up_sure, down_sure = sure.before(read.call_ns)
        up_asked, down_asked = asked.until(returned_ns(read))
        low, high = up_sure + down_asked, up_asked + down_sure
        count = 0 if read.saw is None else read.saw
        if not isinstance(count, int) or not low <= count <= high:
            what = f"operation {read.index}, {describe(read)}, is not between {low}, acknowledged before, and {high}, "
            what += "asked for by then"
            return Finding(NAME, history.key, what, [*_around(history, read), read])
    return None


def _around(history: KeyHistory, read: Operation) -> list[Operation]:
    """Return the last few increments before the read's answer: the sum itself has too many."""
    return [change for change in history.changes if change.call_ns <= returned_ns(read)][-5:]


def _given_twice(history: KeyHistory) -> Finding | None:
    if any(added(change) <= 0 for change in history.changes):
        return None
    given: dict[object, Operation] = {}
    for change in history.changes:
        if change.is_ok and change.saw is not None:
            first = given.setdefault(change.saw, change)
            if first is not change:
                what = f"operations {first.index} and {change.index} both counted to {change.saw}: one of them is lost"
                return Finding(NAME, history.key, what, [first, change])
    return None
