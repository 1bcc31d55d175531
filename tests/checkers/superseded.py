"""What an acknowledged strong change has replaced never comes back: no lost write, no resurrection.

Judges strong answers, and all reads after the cluster has come to rest: whatever they show must not have been replaced
by a strong change that began after the value's writer had ended, and that had ended itself before the read began.  It
takes three operations to break this, which is the shortest evidence there is.  `checkers.linear` finds the same and
more, but may have to give up; this always ends, in about n log n.

A final read must not miss all acknowledged eventual writes either: they are on W disks (protocol, section 3).

Sources: protocol, section 3, R34 and P4; the idea of judging by acknowledged updates in linear time is D. Rystsov's
(rystsov/perseus and its relatives).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from checkers.keyed import ABSENT, NEVER_NS, KeyHistory, returned_ns, shows
from checkers.operation import Operation, Value, describe
from checkers.report import Finding

NAME: Final = "superseded"


def _first_to_end(one: Operation, other: Operation) -> Operation:
    return one if returned_ns(one) <= returned_ns(other) else other


def _last_to_end(one: Operation, other: Operation) -> Operation:
    return one if returned_ns(one) >= returned_ns(other) else other


class _Changes:
    """Acknowledged changes, asked for the one that began after a moment and was the first to end."""

    def __init__(self, changes: Iterable[Operation]) -> None:
        by_call = sorted(changes, key=lambda change: change.call_ns)
        self._calls = [change.call_ns for change in by_call]
        self._first_ended = list(accumulate(reversed(by_call), _first_to_end))[::-1]

    def after(self, moment_ns: int) -> Operation | None:
        """Return the change that began after the moment and ended before all others that did."""
        at = bisect_right(self._calls, moment_ns)
        return self._first_ended[at] if at < len(self._first_ended) else None


class _Writers:
    """Who may have left one value, asked for the one that is hardest to have been replaced."""

    def __init__(self, writers: Iterable[Operation]) -> None:
        by_call = sorted(writers, key=lambda writer: writer.call_ns)
        self._calls = [writer.call_ns for writer in by_call]
        self._last_ended = list(accumulate(by_call, _last_to_end))

    def before(self, moment_ns: int) -> Operation | None:
        """Return the writer that began by the moment and ended after all others that did."""
        at = bisect_right(self._calls, moment_ns)
        return self._last_ended[at - 1] if at else None


def check(history: KeyHistory) -> Finding | None:
    """Return the first answer that showed what had been replaced."""
    return None if history.has_lost_sums else _Judge(history).check()


class _Judge:
    def __init__(self, history: KeyHistory) -> None:
        acknowledged = [change for change in history.changes if change.is_ok]
        strong = [change for change in acknowledged if change.is_strong]
        self._history = history
        self._all = _Changes(acknowledged)
        self._strong = _Changes(strong)
        # A delete that finds nothing changes nothing: an eventual write that it did not see may still be taken up.
        self._real = _Changes(change for change in strong if change.f != "delete" or change.is_checked)
        self._writers: dict[Value, tuple[_Writers, _Writers]] = {}

    def check(self) -> Finding | None:
        """Go through all answers that count."""
        for shown in self._history.operations:
            if shows(shown) and (shown.is_strong or shown.is_final):
                finding = self._judge(shown)
                if finding is not None:
                    return finding
        return None

    def _judge(self, shown: Operation) -> Finding | None:
        evidence: list[Operation] = []
        strong, eventual = self._writers_of(shown.saw)
        for writers, changes in ((strong, self._strong), (eventual, self._real)):
            writer = writers.before(returned_ns(shown))
            if writer is not None:
                replaced = self._replaced(changes, returned_ns(writer), shown)
                if replaced is None:
                    return None
                evidence = [writer, replaced]
        if shown.saw is ABSENT:
            replaced = self._replaced(self._all if shown.is_final else self._strong, -1, shown)
            if replaced is None:
                return None
            evidence = evidence or [replaced]
        return self._finding(shown, evidence) if evidence else None

    def _replaced(self, changes: _Changes, ended_ns: int, shown: Operation) -> Operation | None:
        change = changes.after(ended_ns) if ended_ns < NEVER_NS else None
        return change if change is not None and returned_ns(change) < shown.call_ns else None

    def _writers_of(self, value: Value) -> tuple[_Writers, _Writers]:
        if value not in self._writers:
            writers = self._history.writers.get(value, [])
            strong = _Writers(writer for writer in writers if writer.is_strong)
            self._writers[value] = strong, _Writers(writer for writer in writers if not writer.is_strong)
        return self._writers[value]

    def _finding(self, shown: Operation, evidence: list[Operation]) -> Finding:
        change = evidence[-1]
        what = f"operation {shown.index}, {describe(shown)}, does not know operation {change.index}, {describe(change)}"
        what += ", which had been acknowledged before"
        if len(evidence) > 1:
            what += f" and came after operation {evidence[0].index}, {describe(evidence[0])}"
        return Finding(NAME, self._history.key, what, [*evidence, shown])
