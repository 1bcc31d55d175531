"""The smallest part of a bad history that is still bad, so that a person can see why.

Decides: what may be left out without making a good history look bad.  Three things may, for each only permits more:

- everything after a moment: who had not been answered by then has an unknown outcome (histories are prefix-closed);
- an operation that only looked;
- that a change happened: its outcome becomes unknown.  If then nobody in the part needs it, it need not be shown.

So the part is bad by itself: whoever explains it away has to explain it without the rest.

Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002), for removing by halves first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from checkers.keyed import ABSENT, KeyHistory, returned_ns, shows, value_left
from checkers.operation import Operation, Value

LOOKED_AT_MAX: Final = 200_000
"""Operations judged again in all while shrinking: a few seconds.  What is left then may be larger than need be."""

Judge = Callable[[KeyHistory], bool]


def smallest_bad_part(
    history: KeyHistory, is_bad: Judge, *, is_weakened: bool = True
) -> tuple[list[Operation], Operation | None]:
    """Return the operations that matter, as recorded, and the one whose answer completes the contradiction.

    Without `is_weakened` only the end is cut off, which is quick.
    """
    shrinking = _Shrinking(history, is_bad)
    last = shrinking.cut()
    if is_weakened:
        shrinking.weaken()
    return shrinking.shown(), last


class _Shrinking:
    """A part that is bad, and gets smaller."""

    def __init__(self, history: KeyHistory, is_bad: Judge) -> None:
        self._history = history
        self._is_bad = is_bad
        self._part = list(history.operations)
        self._left = LOOKED_AT_MAX

    def _try(self, part: list[Operation]) -> bool:
        self._left -= len(part)
        if self._left < 0 or not self._is_bad(self._history.part(part)):
            return False
        self._part = part
        return True

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

    def weaken(self) -> None:
        """Leave out or weaken whatever is not needed, by halves first, until nothing more can be."""
        size = len(self._part)
        while size >= 1:
            at = len(self._part)
            while at > 0:
                start = max(at - size, 0)
                chunk = self._part[start:at]
                weaker = [operation for operation in map(_weaker, chunk) if operation is not None]
                if weaker != chunk:
                    self._try(self._part[:start] + weaker + self._part[at:])
                at = start
            size //= 2

    def shown(self) -> list[Operation]:
        """Return what is left, without the changes of unknown outcome that nobody in it needs."""
        part = self._part
        while True:
            needed = _needed(self._history, part)
            kept = [operation for operation in part if _is_telling(operation, needed)]
            if len(kept) == len(part):
                originals = {operation.index: operation for operation in self._history.operations}
                return [originals[operation.index] for operation in part]
            part = kept


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


def _weaker(operation: Operation) -> Operation | None:
    if not operation.may_change or shows(operation):
        return None
    return operation if operation.return_ns is None else _unknown(operation)


def _unknown(operation: Operation) -> Operation:
    return replace(operation, status="info", return_ns=None, saw=None, saw_etag=None)


def _needed(history: KeyHistory, part: list[Operation]) -> set[Value]:
    """Return the values that somebody saw, or insisted on."""
    needed = {operation.saw for operation in part if shows(operation)}
    needed |= {history.etags[operation.etag] for operation in part if operation.etag in history.etags}
    if any(operation.f == "create" for operation in part):
        needed.add(ABSENT)
    return needed


def _is_telling(operation: Operation, needed: set[Value]) -> bool:
    if operation.is_ok or operation.f == "incr":
        return True
    return value_left(operation) in needed or (operation.ttl_ms > 0 and ABSENT in needed)
