"""The contract of every storage engine: what the replica may rely on, and what it must do.

Decides: nothing; it names the promises of R45-R48 that `rocks` keeps and `memory` models.

An engine maps a row key (partition, store, key) to an `Image`, and a short name to a meta value.  Rows put since the
last sync form a *group*: one atomic batch, one sync, then every callback of the group in the order of the puts.

A row put and a row removed in one group are one batch: after a crash both happened or neither did.

Invariants:
- `then` runs on the event loop, after the row is durable (`sync=True`) or written (`sync=False`), never before, never
  twice; groups complete in the order in which they were formed.
- A failed write or sync calls `fatal` and no callback ever again: a retried fsync lies (R45).
- `load` and `scan` show rows of completed groups; a row still in a group may or may not be seen, so the caller keeps
  the image of a key in memory until its `then` has run.
- Every row carries a CRC32C over key and content, checked whenever it is read; a bad one raises `DamagedRow` (R46).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

from kvnode.core.record import Image

LEAVE_DOWN = (
    "leave it down, keep its directory for inspection and put no empty one in its place; the other replicas serve its"
    " keys"
)
"""What to do with a node that lost rows, until nodes can be replaced (R44)."""


class StorageError(Exception):
    """The data directory or a row in it cannot be used; the text says which and what to do."""


class DamagedRow(StorageError):
    """Stored data fails its checksum: the node must stop and say so (R46, R47); never served, never mended in place.

    It is made with what is damaged and how; what a person can do about it is the same for all.
    """

    def __init__(self, damage: str) -> None:
        super().__init__(
            f"{damage}; this node's data cannot be trusted, so it must stay out: {LEAVE_DOWN}"
            " (docs/protocol.md R44, R46, R47)"
        )


class Engine(Protocol):
    """One node's durable rows.  All methods are called from the event loop's thread."""

    @property
    def writable(self) -> bool:
        """False while free space is below the reserve: put nothing but what frees space; reads go on."""

    @property
    def has_reserve(self) -> bool:
        """False while less than half of the reserve is free: put nothing at all, the rest is for log and files."""

    @property
    def syncs(self) -> int:
        """Number of completed syncs since start."""

    def load(self, key: bytes) -> Image | None:
        """Return the row of `key`, or None.  Raises DamagedRow."""

    def put(self, key: bytes, image: Image, *, sync: bool, then: Callable[[], None] | None) -> None:
        """Add a row to the open group; the group is synced if any row of it asks for that."""

    def remove(self, key: bytes, *, sync: bool, then: Callable[[], None] | None) -> None:
        """Let the open group remove the row of `key`, if there is one; it is part of that batch like a row put."""

    def load_meta(self, name: str) -> bytes | None:
        """Return a meta value, or None.  Raises DamagedRow."""

    def put_meta(self, name: str, value: bytes, *, sync: bool, then: Callable[[], None] | None) -> None:
        """Add a meta value to the open group, like `put`."""

    def remove_meta(self, name: str, *, sync: bool, then: Callable[[], None] | None) -> None:
        """Let the open group remove a meta value, if there is one, like `remove`."""

    def scan_meta(self, prefix: str) -> Generator[tuple[str, bytes], None, None]:
        """Yield the meta values whose names begin with `prefix`, in the order of their bytes, like `scan`."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes of rows that were put and are not complete.  The engine refuses nothing: refuse requests by this."""

    def scan(self, start: bytes, end: bytes) -> Generator[tuple[bytes, Image], None, None]:
        """Yield rows with start <= key < end in key order, from one snapshot, read as they are asked for.

        Close it when done before its end.  Raises DamagedRow.
        """

    def approximate_keys(self) -> int:
        """Return an estimate of the number of rows, meta values not included; its cost is bounded."""

    def stored_bytes(self) -> int:
        """Return the bytes that the engine's files take (0 for memory)."""

    async def close(self) -> None:
        """Finish the open group, sync, and release everything."""
