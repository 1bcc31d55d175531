"""Of two eventual changes through one node the later one wins: no resurrection by an older stamp, no lost delete.

Which of two eventual changes wins is for clocks to decide, unless one node has stamped both: its stamps rise, over
restarts too, and its base never falls back (R3, R7, R29).  So what it acknowledged first cannot stand at rest if it
acknowledged something else on that key afterwards.  `superseded` judges strong changes; this one is for the others.

Whoever records must name a node only if it coordinates what it is asked: if it owns a copy, and the client knows no
other.
"""

from __future__ import annotations

from typing import Final

from checkers.keyed import KeyHistory, returned_ns, shows, value_left
from checkers.operation import Operation, describe
from checkers.report import Finding

NAME: Final = "succession"


def check(history: KeyHistory) -> Finding | None:
    """Return the first read at rest all of whose possible writers were followed by something else at their node."""
    for read in history.operations:
        if read.is_final and shows(read):
            writers = history.writers.get(read.saw, [])
            followed = [(writer, _follower(history, writer, read)) for writer in writers]
            evidence = [(writer, later) for writer, later in followed if later is not None]
            if writers and len(evidence) == len(writers):
                return _finding(history, read, *evidence[0])
    return None


def _follower(history: KeyHistory, writer: Operation, read: Operation) -> Operation | None:
    """Return an eventual change that the writer's node stamped later; None also if the writer is strong or unknown."""
    if not (_is_stamped(writer) and writer.node):
        return None
    for later in history.changes:
        is_between = later.call_ns > returned_ns(writer) and returned_ns(later) < read.call_ns
        is_other = later.node == writer.node and value_left(later) != read.saw
        if is_between and is_other and _is_stamped(later):
            return later
    return None


def _is_stamped(change: Operation) -> bool:
    return change.is_ok and not change.is_strong


def _finding(history: KeyHistory, read: Operation, writer: Operation, later: Operation) -> Finding:
    what = (
        f"operation {read.index}, {describe(read)}, shows at rest what operation {writer.index}, {describe(writer)}, "
    )
    what += f"had left, though {later.node} acknowledged operation {later.index}, {describe(later)}, after it"
    return Finding(NAME, history.key, what, [writer, later, read])
