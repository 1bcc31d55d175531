"""The lines of a history file: one JSON object each, written and read.

Decides: the names of the fields, what a completion repeats, and the message for each line that is wrong.  Leaves to
others: who writes when (`checkers.history`).  The page is docs/testing.md, section 1.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

from checkers.operation import FUNCTIONS, MODES, Function, Mode, Operation, Status, Value


class HistoryError(ValueError):
    """A history that cannot be judged; the message names file, line, what is wrong and what is right."""


def invoke_line(operation: Operation) -> str:
    """Return the line that is written before the request is sent."""
    line: dict[str, Any] = {
        "i": operation.index,
        "process": operation.process,
        "type": "invoke",
        "f": operation.f,
        "key": operation.key,
        "value": operation.value,
        "time": operation.call_ns,
        "mode": operation.mode,
    }
    optional = {
        "etag": operation.etag,
        "node": operation.node,
        "req": operation.req,
        "ttl_ms": operation.ttl_ms,
        "final": operation.is_final,
    }
    line.update((name, value) for name, value in optional.items() if value)
    return json.dumps(line, separators=(",", ":")) + "\n"


def completion_line(operation: Operation, at_ns: int) -> str:
    """Return the line that is written after the answer, or when nobody waits for one any more."""
    line: dict[str, Any] = {
        "i": operation.index,
        "process": operation.process,
        "type": operation.status,
        "f": operation.f,
        "key": operation.key,
        "time": at_ns,
    }
    if operation.status == "ok":
        is_shown = operation.f in ("read", "incr") or not operation.result
        line["value"] = operation.saw if is_shown else operation.value
        line["result"] = operation.result
    optional = {"etag": operation.saw_etag, "node": operation.node, "error": operation.error}
    line.update((name, value) for name, value in optional.items() if value)
    return json.dumps(line, separators=(",", ":")) + "\n"


class Reader:
    """Pairs invokes and completions by their process, which does one thing at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._number = 0
        self._open: dict[int, int] = {}
        self._retired: dict[int, int] = {}
        self.operations: list[Operation] = []

    def take(self, number: int, text: str) -> None:
        """Take the next line."""
        self._number = number
        if not text.strip():
            return
        try:
            line = json.loads(text)
        except ValueError as error:
            if not text.endswith("\n"):
                return
            raise self._wrong(f"is not JSON ({error}): write one object per line") from error
        if not isinstance(line, dict):
            raise self._wrong(f"is {line!r:.80}: write a JSON object")
        process, kind = self._integer(line, "process"), line.get("type")
        if kind == "invoke":
            self._invoke(process, line)
        elif kind in ("ok", "fail", "info"):
            self._complete(process, cast(Status, kind), line)
        else:
            raise self._wrong(f'has "type" {kind!r}: invoke, ok, fail or info')

    def _invoke(self, process: int, line: dict[str, Any]) -> None:
        if process in self._open:
            raise self._wrong(f"invokes while process {process} still waits: a process does one thing at a time")
        if process in self._retired:
            line_number = self._retired[process]
            raise self._wrong(f"uses process {process}, retired by the info of line {line_number}: take a new one")
        f, mode, key = line.get("f"), line.get("mode", "strong"), line.get("key")
        if f not in FUNCTIONS:
            raise self._wrong(f'has "f" {f!r}: one of {", ".join(sorted(FUNCTIONS))}')
        if mode not in MODES:
            raise self._wrong(f'has "mode" {mode!r}: strong or eventual')
        if not isinstance(key, str):
            raise self._wrong(f'has "key" {key!r}: a string')
        self._open[process] = len(self.operations)
        self.operations.append(
            Operation(
                index=self._integer(line, "i"),
                process=process,
                f=cast(Function, f),
                key=key,
                value=self._value(line),
                etag=self._text(line, "etag") or None,
                mode=cast(Mode, mode),
                call_ns=self._integer(line, "time"),
                node=self._text(line, "node"),
                req=self._text(line, "req"),
                ttl_ms=self._integer(line, "ttl_ms") if line.get("ttl_ms") else 0,
                is_final=bool(line.get("final")),
            )
        )

    def _complete(self, process: int, status: Status, line: dict[str, Any]) -> None:
        if process not in self._open:
            raise self._wrong(f"completes process {process}, which has invoked nothing: the invoke line comes first")
        at = self._open.pop(process)
        invoked = self.operations[at]
        at_ns = self._integer(line, "time")
        if at_ns < invoked.call_ns:
            raise self._wrong(f"completes at {at_ns}, before its invoke at {invoked.call_ns}: use one monotonic clock")
        if status == "info":
            self._retired[process] = self._number
        is_ok, result = status == "ok", line.get("result", True) is not False
        is_shown = is_ok and (invoked.f in ("read", "incr") or not result)
        self.operations[at] = replace(
            invoked,
            status=status,
            return_ns=None if status == "info" else at_ns,
            result=result,
            saw=self._value(line) if is_shown else None,
            saw_etag=self._text(line, "etag") or None if is_ok else None,
            node=self._text(line, "node") or invoked.node,
            error=self._text(line, "error"),
        )

    def _integer(self, line: dict[str, Any], name: str) -> int:
        number = line.get(name)
        if not isinstance(number, int) or isinstance(number, bool):
            raise self._wrong(f'has "{name}" {number!r}: an integer')
        return number

    def _value(self, line: dict[str, Any]) -> Value:
        value = line.get("value")
        if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
            raise self._wrong(f'has "value" {value!r:.80}: a string, an integer or null')
        return value

    def _text(self, line: dict[str, Any], name: str) -> str:
        text = line.get(name) or ""
        if not isinstance(text, str):
            raise self._wrong(f'has "{name}" {text!r:.80}: a string or null')
        return text

    def _wrong(self, what: str) -> HistoryError:
        return HistoryError(f"{self._name}, line {self._number} {what}.")
