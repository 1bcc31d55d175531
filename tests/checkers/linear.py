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

from checkers import origin, superseded
from checkers.keyed import KeyHistory, returned_ns
from checkers.operation import Operation, describe
from checkers.report import Finding
from checkers.search import STEPS_MAX, Verdict, explain
from checkers.shrink import STEPS_MAX as SHRINK_STEPS_MAX
from checkers.shrink import Judge, smallest_bad_part
from checkers.steps import steps_of

LINEAR: Final = "linear"
MIXED: Final = "mixed"
EVIDENCE_MAX: Final = 100
"""Operations shown at the most, where shrinking had to be given up."""


def is_linearizable(history: KeyHistory, steps_max: int = STEPS_MAX) -> bool:
    """Return whether nothing contradicts the history of a key; also true if that could not be found out."""
    return verdict(history, steps_max)[0] is not Verdict.CONTRADICTED


def verdict(history: KeyHistory, steps_max: int = STEPS_MAX) -> tuple[Verdict, int]:
    """Return whether the operations of a key can be explained, and how many configurations were looked at."""
    initial, steps = steps_of(history, is_mixed=history.is_mixed)
    return explain(steps, initial, steps_max)


def finding(history: KeyHistory, steps_max: int = SHRINK_STEPS_MAX) -> Finding:
    """Return the finding about a key whose history is contradicted, with the smallest part that cannot be explained."""
    is_mixed = history.is_mixed

    def judge(part: KeyHistory, steps_max: int) -> tuple[bool, int]:
        initial, steps = steps_of(part, is_mixed=is_mixed)
        found, looked = explain(steps, initial, steps_max)
        return found is Verdict.CONTRADICTED, looked

    core, last = _shortest(history, judge) or smallest_bad_part(history, judge, steps_max)
    message = "no order of these operations gives every answer"
    if last is not None:
        message = f"the answer of operation {last.index}, {describe(last)}, cannot be explained"
    if len(core) > EVIDENCE_MAX:
        message += f" (the last {EVIDENCE_MAX} of {len(core)} operations that may matter)"
    return Finding(MIXED if is_mixed else LINEAR, history.key, message, core[-EVIDENCE_MAX:])


def _shortest(history: KeyHistory, judge: Judge) -> tuple[list[Operation], Operation] | None:
    """Return the evidence of a simpler promise that is broken with this one, if that cannot be explained either."""
    for simple in (origin, superseded):
        found = simple.check(history)
        if found is not None and judge(history.part(found.evidence), 1000)[0]:
            evidence = sorted(found.evidence, key=lambda operation: operation.call_ns)
            return evidence, max(evidence, key=returned_ns)
    return None
