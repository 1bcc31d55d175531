"""What the disk of this node still takes: everything, only what frees space, or nothing.

Decides: when a replica refuses for its disk's sake, and what a full disk takes all the same.  Leaves to others: how
much is free and how far the disk is behind (the engine), the refusal (`replica`).

Below the reserve nothing is taken but what removes a deleted or expired key (R35): the rounds of its tombstone, and the
steps of its purge; else nothing would ever become free.  That is safe: a replica may refuse any message, and take any
that its rules allow.  And it is little: each writes a row, over one that is there, that is no longer than a tombstone
and its request window.  Below half of the reserve that is refused as well: log and compaction need room to end in.
"""

from __future__ import annotations

from kvclient.wire.values import body_content, body_times
from kvnode.core.record import Image
from kvnode.core.register import visible_body
from kvnode.storage.engine import Engine

BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""Bytes waiting for the disk before writes are refused: at 100 MB/s, more than half a second of work."""


class Room:
    """The room on one node's disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def is_clogged(self) -> bool:
        """True while the disk cannot take more: full up to its reserve, or too far behind."""
        engine = self._engine
        return engine.backlog_bytes > BACKLOG_BYTES_MAX or not engine.writable

    @property
    def may_free(self) -> bool:
        """True while the disk takes what frees space."""
        engine = self._engine
        return engine.backlog_bytes <= BACKLOG_BYTES_MAX and (engine.writable or engine.has_reserve)

    def may_bury(self, image: Image, now_ms: int) -> bool:
        """Return whether a round of this key may go on, though others may not: it is deleted here, or has expired."""
        body = visible_body(image)
        if not body or not self.may_free:
            return False
        return not body_content(body) or 0 < body_times(body)[0] <= now_ms

    def reason(self) -> str:
        """Return why something was refused."""
        if not self._engine.writable:
            return "the disk is full up to its reserve (disk_reserve_bytes)"
        return f"{BACKLOG_BYTES_MAX} bytes wait for the disk already"
