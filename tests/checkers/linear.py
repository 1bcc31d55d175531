"""Strong operations on one key are linearizable, among themselves and with eventual writes that float.

Decides: which operations make up the history that has to be explained, and the sentence that says why it cannot be.

- *linear* judges keys that only strong operations change: there must be one order of all operations, each at one moment
  between its invocation and its answer, in which a plain register gives every answer (Herlihy and Wing, 1990).
- *mixed* judges keys that eventual writes change, too, by section 3 of docs/protocol.md: an eventual write takes effect
  for strong operations at one moment after its invocation, at most once, or never, acknowledged or not; and never
  after a strong change that was asked for when the write had been acknowledged (P4).  The reference is `lincheck` with
  `ew_deadline` in docs/model/regmodel.py.

In both an eventual read binds the strong operations: what it showed had been chosen.
"""

from __future__ import annotations

from typing import Final

from checkers.keyed import KeyHistory
from checkers.operation import describe
from checkers.report import Finding
from checkers.search import STEPS_MAX, Verdict, explain
from checkers.shrink import smallest_bad_part
from checkers.steps import steps_of

LINEAR: Final = "linear"
MIXED: Final = "mixed"


def is_linearizable(history: KeyHistory, steps_max: int = STEPS_MAX) -> bool:
    """Return whether nothing contradicts the history of a key; also true if that could not be found out."""
    return verdict(history, steps_max)[0] is not Verdict.CONTRADICTED


def verdict(history: KeyHistory, steps_max: int = STEPS_MAX) -> tuple[Verdict, int]:
    """Return whether the operations of a key can be explained, and how many configurations were looked at."""
    initial, steps = steps_of(history, is_mixed=history.is_mixed)
    return explain(steps, initial, steps_max)


def finding(history: KeyHistory, *, is_shrunk: bool = True) -> Finding:
    """Return the finding about a key whose history is contradicted, with the smallest part that cannot be explained."""
    is_mixed = history.is_mixed

    def is_bad(part: KeyHistory) -> bool:
        initial, steps = steps_of(part, is_mixed=is_mixed)
        return explain(steps, initial, 500 + 5 * len(steps))[0] is Verdict.CONTRADICTED

    core, last = smallest_bad_part(history, is_bad, is_weakened=is_shrunk)
    message = "no order of these operations gives every answer"
    if last is not None:
        message = f"the answer of operation {last.index}, {describe(last)}, cannot be explained"
    return Finding(MIXED if is_mixed else LINEAR, history.key, message, core)
