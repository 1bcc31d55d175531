"""After rest all replicas agree: the final reads of a key, whoever answered them, show one value and one version.

A final read is marked so by whoever recorded it: all faults have ended, nothing is under way, and what repairs replicas
has run (as long as healing comes from reads: one strong read and one eventual read with R = N).  A key that was changed
after its first final read is not judged.
"""

from __future__ import annotations

from typing import Final

from checkers.keyed import KeyHistory
from checkers.operation import Operation
from checkers.report import Finding

NAME: Final = "convergence"


def final_reads(history: KeyHistory) -> list[Operation]:
    """Return the answered final reads of a key; none if it was changed after the first one began."""
    reads = [operation for operation in history.operations if operation.is_final and operation.is_read]
    if any(change.call_ns >= reads[0].call_ns for change in history.changes[-1:] if reads):
        return []
    return [read for read in reads if read.is_ok]


def check(history: KeyHistory) -> Finding | None:
    """Return two final reads that differ."""
    reads = final_reads(history)
    for read in reads[1:]:
        first = reads[0]
        etags = {etag for etag in (first.saw_etag, read.saw_etag) if etag is not None}
        if read.saw != first.saw or len(etags) > 1:
            what = f"at rest {_where(first)} shows {first.saw!r} and {_where(read)} shows {read.saw!r}"
            what += "" if read.saw != first.saw else " under another ETag"
            return Finding(NAME, history.key, what, [first, read])
    return None


def _where(read: Operation) -> str:
    return f"{read.node or 'a node'} (operation {read.index})"
