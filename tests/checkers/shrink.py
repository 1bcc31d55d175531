"""The smallest part of a bad history that is still bad, so that a person can see why.

Decides: what may be left out without making a good history look bad.  Three things may, for each only permits more:

- everything after a moment: who had not been answered by then has an unknown outcome (histories are prefix-closed);
- an operation that only looked;
- that a change happened: then it happened while it was asked for, or never.

What is shown in the end is what was not left out, and where its values came from.  It is bad by itself, and nothing of
the rest can mend it.

Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002), for removing by halves first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from checkers.keyed import ABSENT, KeyHistory, returned_ns, shows
from checkers.operation import Operation, Value

STEPS_MAX: Final = 600_000
"""Configurations to look at in all while shrinking: some seconds.  What is left then may be larger than need be."""

Judge = Callable[[KeyHistory, int], tuple[bool, int]]
"""Says whether a history is bad, and how many configurations that took, of as many as it may look at."""
Weaker = Callable[[Operation], Operation | None]


def smallest_bad_part(
    history: KeyHistory, judge: Judge, steps_max: int = STEPS_MAX
) -> tuple[list[Operation], Operation | None]:
    """Return the operations that matter, as recorded, and the one whose answer completes the contradiction."""
    shrinking = _Shrinking(history, judge, steps_max)
    shrinking.forget()
    last = shrinking.cut()
    shrinking.leave_out(_without_looks)
    shrinking.leave_out(_without_effect)
    return shrinking.shown(), last


class _Shrinking:
    """A part that is bad, and gets smaller."""

    def __init__(self, history: KeyHistory, judge: Judge, steps_max: int) -> None:
        self._history = history
        self._judge = judge
        self._part = list(history.operations)
        self._left = steps_max

    def _try(self, part: list[Operation]) -> bool:
        granted = min(self._left, 500 + 30 * len(part))
        if granted <= 0:
            return False
        is_bad, looked = self._judge(self._history.part(part), granted)
        self._left -= looked + len(part)
        if is_bad:
            self._part = part
        return is_bad

    def forget(self) -> None:
        """Leave out the beginning, as far as it does not matter: what is left is judged sooner."""
        whole, low, high = self._part, 0, len(self._part)
        while low < high:
            middle = (low + high + 1) // 2
            begin = [left for left in map(_weakest, whole[:middle]) if left is not None]
            if self._try(begin + whole[middle:]):
                low = middle
            else:
                high = middle - 1

    def cut(self) -> Operation | None:
        """Cut everything after the first answer that cannot be explained; return who got that answer."""
        whole = self._part
        answered = sorted((operation for operation in whole if operation.return_ns is not None), key=returned_ns)
        low, high = 0, len(answered) - 1
        while low < high:
            middle = (low + high) // 2
            if self._try(_until(whole, returned_ns(answered[middle]))):
                high = middle
            else:
                low = middle + 1
        if not answered or not self._try(_until(whole, returned_ns(answered[high]))):
            return None
        return answered[high]

    def leave_out(self, weaker: Weaker) -> None:
        """Replace operations by weaker ones, or by nothing, by halves first, until no single one can be any more."""
        size = len(self._part)
        while size >= 1:
            end = len(self._part)
            while end > 0:
                start = max(end - size, 0)
                chunk = self._part[start:end]
                less = [left for left in map(weaker, chunk) if left is not None]
                if less != chunk:
                    self._try(self._part[:start] + less + self._part[end:])
                end = start
            size //= 2

    def shown(self) -> list[Operation]:
        """Return what could not be left out, and who left the values in it where that was one operation only."""
        sure = [operation for operation in self._part if operation.is_ok]
        maybe = self._history.part(operation for operation in self._part if not operation.is_ok)
        shown = {operation.index for operation in sure}
        wanted = _needed(self._history, sure)
        while wanted:
            writers = maybe.writers.get(wanted.pop(), ())
            if len(writers) == 1 and writers[0].index not in shown:
                shown.add(writers[0].index)
                wanted |= _needed(self._history, writers)
        return [operation for operation in self._history.operations if operation.index in shown]


def _until(operations: list[Operation], end_ns: int) -> list[Operation]:
    part: list[Operation] = []
    for operation in operations:
        if operation.call_ns > end_ns:
            break
        if returned_ns(operation) <= end_ns:
            part.append(operation)
        elif operation.may_change:
            part.append(_unknown(operation))
    return part


def _without_looks(operation: Operation) -> Operation | None:
    return operation if operation.may_change else None


def _weakest(operation: Operation) -> Operation | None:
    left = _without_looks(operation)
    return None if left is None else _without_effect(left)


def _without_effect(operation: Operation) -> Operation | None:
    return replace(operation, status="info") if operation.may_change and operation.is_ok else operation


def _unknown(operation: Operation) -> Operation:
    return replace(operation, status="info", return_ns=None, saw=None, saw_etag=None)


def _needed(history: KeyHistory, part: Iterable[Operation]) -> set[Value]:
    """Return the values that somebody saw, or insisted on."""
    needed = {operation.saw for operation in part if shows(operation)}
    needed |= {history.etags[operation.etag] for operation in part if operation.etag in history.etags}
    return needed | {ABSENT for operation in part if operation.f == "create"}
