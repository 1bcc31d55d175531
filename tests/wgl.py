"""A linearizability checker for one register with unique values: Wing and Gong's search with Lowe's memory of states.

Operations are judged on what their clients saw.  One whose outcome is unknown may take effect at any moment after its
invocation, or never; if nobody ever saw its value, never is as good as any, so it is left out of the search.

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

ABSENT = None
Value = bytes | None


@dataclass(frozen=True)
class Step:
    """What an operation does: needs `needs` (if `is_checked`), leaves `leaves` (if `is_write`), or saw `saw`."""

    is_write: bool
    leaves: Value = ABSENT
    is_checked: bool = False
    needs: Value = ABSENT
    saw: Value = ABSENT
    fails: bool = False
    """A check that did not hold."""

    def apply(self, state: Value) -> tuple[bool, Value]:
        """Return whether the operation may happen in `state`, and the state after it."""
        if self.fails:
            return state != self.needs, state
        if not self.is_write:
            return state == self.saw, state
        return not self.is_checked or state == self.needs, self.leaves


@dataclass(frozen=True)
class Event:
    """One operation of the history; `returned` is infinite if its outcome is unknown."""

    step: Step
    invoked: float
    returned: float
    label: str = ""


def is_linearizable(history: list[Event]) -> bool:
    """Return whether the events of one key, which is absent at first, have an order that explains all of them."""
    seen = {value for event in history for value in (event.step.saw, event.step.needs)}
    events = [e for e in history if e.returned != inf or e.step.leaves in seen]
    events.sort(key=lambda event: event.invoked)
    known = sum(1 << n for n, event in enumerate(events) if event.returned != inf)
    stack: list[tuple[int, Value]] = [(0, ABSENT)]
    visited = set(stack)
    while stack:
        done, state = stack.pop()
        if known & ~done == 0:
            return True
        horizon = min(e.returned for n, e in enumerate(events) if not done >> n & 1)
        for number, event in enumerate(events):
            if event.invoked > horizon:
                break
            if done >> number & 1:
                continue
            may, after = event.step.apply(state)
            following = (done | 1 << number, after)
            if may and following not in visited:
                visited.add(following)
                stack.append(following)
    return False
