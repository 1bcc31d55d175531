"""Every value that was shown had been written: nothing out of thin air, nothing that was not applied, nothing early.

An eventual read is judged, too: it shows what a replica has committed or got as an eventual write, never a proposal
that was not chosen (protocol, section 3).
"""

from __future__ import annotations

from checkers.keyed import ABSENT, KeyHistory, returned_ns, shows
from checkers.operation import Operation, Value, describe
from checkers.report import Finding

NAME = "origin"


def check(history: KeyHistory) -> Finding | None:
    """Return the first answer that showed a value which nobody can have left by then."""
    if history.has_lost_sums:
        return None
    for shown in history.operations:
        if shows(shown) and shown.saw is not ABSENT:
            writers = history.writers.get(shown.saw, ())
            if not any(writer.call_ns <= returned_ns(shown) for writer in writers):
                return _finding(history, shown)
    return None


def _finding(history: KeyHistory, shown: Operation) -> Finding:
    suspects = [operation for operation in history.operations if _asked_for(operation, shown.saw)]
    what = f"operation {shown.index}, {describe(shown)}, shows a value that "
    if not suspects:
        what += "nobody ever wrote"
    elif suspects[0].may_change:
        what += f"was asked for only afterwards, by operation {suspects[0].index}"
    else:
        what += f"operation {suspects[0].index}, {describe(suspects[0])}, was told not to have written"
    return Finding(NAME, history.key, what, [*suspects[:1], shown])


def _asked_for(operation: Operation, value: Value) -> bool:
    return operation.f in ("write", "cas", "create") and operation.value == value
