"""The history of one key, with what several checkers ask of it.

Decides: who may have written a value, which value an ETag names, and whether a key is mixed or a counter.  Keys are
independent of each other: a history is linearizable if and only if the part of each key is (Herlihy and Wing, 1990,
theorem 1), so everything is judged key by key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from checkers.operation import Operation, Value

ABSENT: Final = None
"""The value of a key that was never written, or was deleted, or has expired."""
NEVER_NS: Final = 1 << 62
"""Later than every moment of a history."""


def returned_ns(operation: Operation) -> int:
    """Return when an operation ended; never, if its outcome is unknown."""
    return NEVER_NS if operation.return_ns is None else operation.return_ns


def shows(operation: Operation) -> bool:
    """Return whether the answer tells what the key held."""
    return operation.is_ok and (operation.is_read or not operation.result)


def value_left(operation: Operation) -> Value:
    """Return what the key holds after a change; for `incr` what its answer showed, ABSENT if nothing."""
    if operation.f == "delete":
        return ABSENT
    if operation.f == "incr":
        return operation.saw if operation.is_ok else ABSENT
    return operation.value


@dataclass(frozen=True)
class KeyHistory:
    """All operations on one key, in the order of invocation."""

    key: str
    operations: Sequence[Operation]
    etags: Mapping[str | None, Value]
    """What each ETag names, as far as any answer of the whole history showed it."""

    def part(self, operations: Iterable[Operation]) -> KeyHistory:
        """Return the history of some of these operations; what their ETags name stays known."""
        return KeyHistory(self.key, sorted(operations, key=lambda operation: operation.call_ns), self.etags)

    @cached_property
    def changes(self) -> list[Operation]:
        """The operations that changed the key, or may have, or may still."""
        return [operation for operation in self.operations if operation.may_change]

    @cached_property
    def is_mixed(self) -> bool:
        """True if eventual writes may have touched the key."""
        return any(not change.is_strong for change in self.changes)

    @cached_property
    def is_counter(self) -> bool:
        """True if the key is only incremented and read."""
        functions = {operation.f for operation in self.operations}
        return "incr" in functions and functions <= {"incr", "read"}

    @cached_property
    def has_lost_sums(self) -> bool:
        """True if an increment may have left a number that its client was never told."""
        return any(change.f == "incr" and not isinstance(value_left(change), int) for change in self.changes)

    @cached_property
    def writers(self) -> dict[Value, list[Operation]]:
        """Who may have left each value (see `has_lost_sums`); ABSENT may be left by a delete or by an expiry."""
        writers: dict[Value, list[Operation]] = defaultdict(list)
        for change in self.changes:
            if change.f != "incr" or value_left(change) is not ABSENT:
                writers[value_left(change)].append(change)
            if change.ttl_ms:
                writers[ABSENT].append(change)
        return dict(writers)


def by_key(operations: Iterable[Operation]) -> list[KeyHistory]:
    """Split a history into those of its keys, which come in the order of their first operation."""
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in sorted(operations, key=lambda operation: operation.call_ns):
        groups[operation.key].append(operation)
    return [KeyHistory(key, group, dict(_etags(group))) for key, group in groups.items()]


def _etags(operations: Iterable[Operation]) -> Iterable[tuple[str, Value]]:
    for operation in operations:
        if operation.saw_etag is not None:
            yield operation.saw_etag, value_shown(operation)


def value_shown(operation: Operation) -> Value:
    """Return the value that the ETag of an answer names."""
    return operation.saw if shows(operation) else value_left(operation)
