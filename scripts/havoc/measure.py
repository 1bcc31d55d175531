"""What clients saw of the cluster in a span of time: outcomes, latency, and for how long nothing succeeded.

Decides: how each is counted.  An operation belongs to the moment at which it was answered; one without an answer to the
moment at which it was asked.  A refused first-write counts as answered well: the check worked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from checkers.operation import Operation

from scripts.measuring import quantile

SECOND_NS = 1_000_000_000


@dataclass
class Second:
    """One second of a run."""

    strong: int = 0
    """Strong operations that were answered well."""
    eventual: int = 0
    failed: int = 0
    unknown: int = 0
    p99_ms: float | None = None

    @property
    def ok(self) -> int:
        """Operations of either kind that were answered well."""
        return self.strong + self.eventual


@dataclass(frozen=True)
class Summary:
    """Some operations in numbers."""

    ok: int
    failed: int
    unknown: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    gap_s: float
    """The longest time in which no operation succeeded."""
    strong_gap_s: float
    """The longest time in which no strong operation succeeded."""
    seconds: list[Second] = field(repr=False)


def moment_ns(operation: Operation) -> int:
    """Return the moment that an operation belongs to."""
    return operation.call_ns if operation.return_ns is None else operation.return_ns


def within(operations: Iterable[Operation], begin_ns: int, end_ns: int) -> list[Operation]:
    """Return the operations of a span of time."""
    return [operation for operation in operations if begin_ns <= moment_ns(operation) < end_ns]


def summary(operations: Sequence[Operation], begin_ns: int, end_ns: int) -> Summary:
    """Count what happened from `begin_ns` to `end_ns`."""
    seen = within(operations, begin_ns, end_ns)
    took = sorted(_took_ms(operation) for operation in seen if operation.status == "ok")
    return Summary(
        ok=len(took),
        failed=sum(operation.status == "fail" for operation in seen),
        unknown=sum(operation.status == "info" for operation in seen),
        p50_ms=quantile(took, 0.5),
        p99_ms=quantile(took, 0.99),
        max_ms=took[-1] if took else None,
        gap_s=_gap_s(seen, begin_ns, end_ns, lambda operation: True),
        strong_gap_s=_gap_s(seen, begin_ns, end_ns, lambda operation: operation.is_strong),
        seconds=by_second(seen, begin_ns, end_ns),
    )


def whole(operations: Sequence[Operation], begin_ns: int, hold_ns: int, go_ns: int, end_ns: int) -> Summary:
    """Count what happened from `begin_ns` to `end_ns`; that nobody asked from `hold_ns` to `go_ns` is no gap."""
    counted = summary(operations, begin_ns, end_ns)
    parts = [summary(operations, begin_ns, hold_ns), summary(operations, go_ns, end_ns)]
    return replace(
        counted,
        gap_s=max(part.gap_s for part in parts),
        strong_gap_s=max(part.strong_gap_s for part in parts),
    )


def by_second(operations: Iterable[Operation], begin_ns: int, end_ns: int) -> list[Second]:
    """Return each second from `begin_ns` on; the last one may be a part of one."""
    seconds = [Second() for _ in range(begin_ns, end_ns, SECOND_NS)]
    took: list[list[float]] = [[] for _ in seconds]
    for operation in within(operations, begin_ns, end_ns):
        number = (moment_ns(operation) - begin_ns) // SECOND_NS
        second = seconds[number]
        if operation.status == "fail":
            second.failed += 1
        elif operation.status == "info":
            second.unknown += 1
        else:
            second.strong += operation.is_strong
            second.eventual += not operation.is_strong
            took[number].append(_took_ms(operation))
    for second, times in zip(seconds, took, strict=True):
        second.p99_ms = quantile(sorted(times), 0.99)
    return seconds


def _gap_s(operations: Iterable[Operation], begin_ns: int, end_ns: int, counts: Callable[[Operation], bool]) -> float:
    moments = (moment_ns(operation) for operation in operations if operation.status == "ok" and counts(operation))
    ends = [begin_ns, *sorted(moments), end_ns]
    return max(later - earlier for earlier, later in pairwise(ends)) / SECOND_NS


def _took_ms(operation: Operation) -> float:
    return ((operation.return_ns or operation.call_ns) - operation.call_ns) / 1e6
