"""One winner: at most one change succeeds over a given ETag, and at most one create in each life of a key.

Sources: protocol R7 (an ETag is never assigned again) and C7 (what makes a check succeed "twice").
"""

from __future__ import annotations

from checkers.keyed import ABSENT, KeyHistory
from checkers.operation import Operation
from checkers.report import Finding

NAME = "unique"


def check(history: KeyHistory) -> Finding | None:
    """Return two changes over one ETag that both succeeded, or creates that outnumber the lives of the key."""
    winners: dict[str, Operation] = {}
    creates: list[Operation] = []
    for change in history.changes:
        if not change.is_ok:
            continue
        if change.f == "create":
            creates.append(change)
        if change.etag is not None:
            first = winners.setdefault(change.etag, change)
            if first is not change:
                what = f"operations {first.index} and {change.index} both succeeded over the ETag {change.etag}"
                return Finding(NAME, history.key, what, [first, change])
    ends = history.writers.get(ABSENT, [])
    if len(creates) > 1 + len(ends):
        what = f"{len(creates)} creates succeeded, but the key was deleted or expired at most {len(ends)} times"
        return Finding(NAME, history.key, what, sorted([*creates, *ends], key=lambda operation: operation.call_ns))
    return None
