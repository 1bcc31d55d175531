"""What clients asked and were told: the history that every checker judges, its file format, and who writes it.

Decides: when a line is written (the invoke before anything is sent, the completion after its answer), and that a
process does one thing at a time and is retired by an outcome that nobody knows.  Leaves to others: the fields
(`checkers.operation`), the lines (`checkers.lines`), and what a history must satisfy (the other modules of this
package).  The page is docs/testing.md, section 1.

Invariants: all times are of one clock, so that two operations of different processes can be compared.  An operation
without a completion has an unknown outcome: it may take effect at any later moment, once, or never.

Sources: the histories of Jepsen and Knossos (invoke, ok, fail, info, and why an info retires its process); Herlihy and
Wing, "Linearizability" (1990), section 2, for histories as such.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from checkers.lines import HistoryError, Reader, completion_line, invoke_line
from checkers.operation import Function, Mode, Operation, Status, Value, describe

__all__ = ["HistoryError", "Operation", "Recorder", "describe", "dump", "load", "loads"]


class Recorder:
    """Writes a history while it happens, and keeps it in memory.

    A client is whatever names it; its calls may overlap, for each takes a process that is free.  Call `invoke` before
    the request is sent, then exactly one of `ok`, `refused`, `fail` and `info` with the index that it gave.
    """

    def __init__(self, clock_ns: Callable[[], int], out: TextIO | None = None) -> None:
        """`clock_ns` is the one clock of the history: virtual, or `time.monotonic_ns`; `out` gets the lines."""
        self._clock_ns = clock_ns
        self._out = out
        self._operations: list[Operation] = []
        self._open: dict[int, Hashable] = {}
        self._free: dict[Hashable, list[int]] = defaultdict(list)
        self._processes = 0

    @property
    def operations(self) -> list[Operation]:
        """Everything so far, in the order of invocation; what has no answer yet has an unknown outcome."""
        return list(self._operations)

    def invoke(
        self,
        client: Hashable,
        f: Function,
        key: str,
        value: Value = None,
        *,
        etag: str | None = None,
        mode: Mode = "strong",
        node: str = "",
        req: str = "",
        ttl_ms: int = 0,
        is_final: bool = False,
    ) -> int:
        """Record that `client` is about to ask; return the index by which its completion is told."""
        free = self._free[client]
        process = free.pop() if free else self._new_process()
        index = len(self._operations)
        operation = Operation(
            index,
            process,
            f,
            key,
            value,
            etag,
            mode,
            self._clock_ns(),
            node=node,
            req=req,
            ttl_ms=ttl_ms,
            is_final=is_final,
        )
        self._operations.append(operation)
        self._open[index] = client
        if self._out is not None:
            self._out.write(invoke_line(operation))
            self._out.flush()
        return index

    def ok(
        self, index: int, saw: Value = None, etag: str | None = None, *, node: str = "", result: bool = True
    ) -> Operation:
        """Record an answer: what a read or an `incr` showed and its ETag, or the ETag that a write made."""
        return self._complete(index, "ok", saw=saw, saw_etag=etag, node=node, result=result)

    def refused(self, index: int, saw: Value = None, etag: str | None = None, *, node: str = "") -> Operation:
        """Record that a check failed, with what stood there; None if the key was absent."""
        return self.ok(index, saw, etag, node=node, result=False)

    def fail(self, index: int, error: str = "", *, node: str = "") -> Operation:
        """Record that the operation definitely was not applied and never will be."""
        return self._complete(index, "fail", error=error, node=node)

    def info(self, index: int, error: str = "", *, node: str = "") -> Operation:
        """Record that nobody knows the outcome: it may take effect at any time.  The process is retired."""
        return self._complete(index, "info", error=error, node=node)

    def _new_process(self) -> int:
        self._processes += 1
        return self._processes - 1

    def _complete(self, index: int, status: Status, *, node: str = "", **shown: Any) -> Operation:
        client = self._open.pop(index)
        invoked = self._operations[index]
        at_ns = self._clock_ns()
        completed = replace(
            invoked,
            status=status,
            return_ns=None if status == "info" else at_ns,
            node=node or invoked.node,
            **shown,
        )
        self._operations[index] = completed
        if status != "info":
            self._free[client].append(completed.process)
        if self._out is not None:
            self._out.write(completion_line(completed, at_ns))
        return completed


def dump(operations: Iterable[Operation], out: TextIO) -> None:
    """Write operations as a history: the lines in the order of time, as a recorder would have written them."""
    lines: list[tuple[int, str]] = []
    for operation in sorted(operations, key=lambda operation: operation.call_ns):
        lines.append((operation.call_ns, invoke_line(operation)))
        if operation.return_ns is not None or operation.error:
            at_ns = operation.call_ns if operation.return_ns is None else operation.return_ns
            lines.append((at_ns, completion_line(operation, at_ns)))
    out.writelines(text for _, text in sorted(lines, key=lambda line: line[0]))


def load(path: Path | str) -> list[Operation]:
    """Read a history; raises HistoryError for the first line that is wrong.

    The operations come in the order of invocation.  A last line that was cut off in the middle is left out: it was
    being written when the recorder died, so its request was not sent, or its answer never seen.
    """
    reader = Reader(str(path))
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            reader.take(number, line)
    return reader.operations


def loads(text: str) -> list[Operation]:
    """Read a history from text, as `load` does."""
    reader = Reader("history")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        reader.take(number, line)
    return reader.operations
