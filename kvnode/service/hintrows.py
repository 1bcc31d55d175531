"""The rows that make debts survive a restart: one for each key and node that is owed it.

Decides: how such a row is named, what it says, and when one that is no longer needed goes.  Leaves to others: what is
owed (`core.hints`), when it is noted and when it is paid (`handoff`).

A row says since when something is owed; only where a node keeps an entry that it has nowhere else (w="any") the row
carries it.  Rows that are not needed any more go together, with each sweep: a crash before that brings debts back that
were paid, and to hand something over twice is harmless (R12, R29).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import islice

from kvclient.wire.values import NO_VERSION
from kvnode.core.hints import DEBT_BYTES, Debt, Hints
from kvnode.core.record import NO_ENTRY, Entry, entry_version
from kvnode.storage.engine import Engine

PREFIX = "hint/"
_TOGETHER = 256
"""Rows taken up after a start in one sweep: a millisecond."""
_REMOVED_TOGETHER = 256
_TIME_BYTES = 8

Rows = Generator[tuple[str, bytes], None, None]


class HintRows:
    """The rows of debts of one node."""

    def __init__(self, names: list[str], engine: Engine) -> None:
        self._names = names
        self._engine = engine
        self._left: Rows | None = None
        self._useless: dict[tuple[int, bytes], None] = {}
        """Those that are still on disk and no longer needed."""

    def put(
        self,
        target: int,
        key: bytes,
        since_ms: int,
        entry: Entry = NO_ENTRY,
        *,
        sync: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write that something is owed; `then` runs once that is durable."""
        self._useless.pop((target, key), None)
        row = since_ms.to_bytes(_TIME_BYTES, "big") + entry
        self._engine.put_meta(self._name(target, key), row, sync=sync, then=then)

    def remove(self, target: int, key: bytes) -> None:
        """Let a row go with one of the next sweeps."""
        self._useless[target, key] = None

    def entry(self, target: int, key: bytes) -> Entry:
        """Return the entry that is kept for a node; empty if there is none, or its row is not written yet."""
        row = self._engine.load_meta(self._name(target, key))
        return Entry(row[_TIME_BYTES:]) if row else NO_ENTRY

    def sweep(self) -> None:
        """Remove what is not needed any more."""
        for target, key in list(islice(self._useless, _REMOVED_TOGETHER)):
            del self._useless[target, key]
            self._engine.remove_meta(self._name(target, key), sync=False, then=None)

    def _name(self, target: int, key: bytes) -> str:
        return f"{PREFIX}{self._names[target]}/{key[:2].hex()}/{key[2:].decode()}"

    # -- after a start

    def begin_loading(self) -> None:
        """Take up, with the next calls of `load`, what an earlier process has left."""
        self._left = self._engine.scan_meta(PREFIX)

    def load(self, hints: Hints, is_row_key: Callable[[bytes], bool]) -> None:
        """Take up debts from their rows, a little at a time."""
        if self._left is None:
            return
        some = list(islice(self._left, _TOGETHER))
        targets = {name: index for index, name in enumerate(self._names)}
        for name, row in some:
            node, _, rest = name[len(PREFIX) :].partition("/")
            partition, _, key_name = rest.partition("/")
            key = bytes.fromhex(partition) + key_name.encode()
            target = targets.get(node, -1)
            ledger = hints.ledgers.get(target)
            is_possible = hints.has_room and is_row_key(key)
            if ledger is None or not is_possible:  # no such node is configured, or other bounds or partitions
                self._engine.remove_meta(name, sync=False, then=None)
            elif not ledger.holds(key) and (target, key) not in self._useless:
                entry = Entry(row[_TIME_BYTES:])
                version = entry_version(entry) if entry else NO_VERSION
                since_ms = int.from_bytes(row[:_TIME_BYTES], "big")
                hints.restore(target, key, Debt(since_ms, len(key) + DEBT_BYTES + len(entry), version))
        if len(some) < _TOGETHER:
            self._left = None
