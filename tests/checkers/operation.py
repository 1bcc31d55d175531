"""One operation as its client saw it: what it asked, what it was told, and when.

Decides: the fields, what they mean for each function, and the few words in which an operation is told.  Leaves to
others: the lines of a file (`checkers.lines`) and what a history must satisfy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Function = Literal["read", "write", "cas", "create", "delete", "incr"]
Mode = Literal["strong", "eventual"]
Status = Literal["ok", "fail", "info"]
Value = str | int | None
"""What a key holds; None is an absent key.  A writer writes each value once only: checkers are fast then, and sharp."""

FUNCTIONS: Final = frozenset({"read", "write", "cas", "create", "delete", "incr"})
MODES: Final = frozenset({"strong", "eventual"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as its client saw it.

    `value` and `etag` are what the client gave: the value to write (for `incr` what to add) and the version that it
    insisted on.  `saw` and `saw_etag` are what the answer showed: the value read, the value that a new write became, or
    the one that refused it.  `result` is False if a check failed (CONFLICT): then nothing was written.
    """

    index: int
    process: int
    f: Function
    key: str
    value: Value = None
    etag: str | None = None
    mode: Mode = "strong"
    call_ns: int = 0
    return_ns: int | None = None
    """None for an outcome that nobody knows."""
    status: Status = "info"
    result: bool = True
    saw: Value = None
    saw_etag: str | None = None
    node: str = ""
    req: str = ""
    ttl_ms: int = 0
    """After which the value written counts as absent; 0: never."""
    is_final: bool = False
    """A read after all faults have ended, the cluster has come to rest and every replica has been repaired."""
    error: str = ""

    @property
    def is_strong(self) -> bool:
        """True if consensus decides it: asked for as strong, or with a check, which always is."""
        return self.mode == "strong" or self.is_checked or self.f == "incr"

    @property
    def is_checked(self) -> bool:
        """True if it changes the key only under a condition."""
        return self.f in ("cas", "create") or (self.f != "read" and self.etag is not None)

    @property
    def is_read(self) -> bool:
        """True if it never changes anything."""
        return self.f == "read"

    @property
    def may_change(self) -> bool:
        """True if it changed the key, or may have, or may still."""
        return self.f != "read" and self.status != "fail" and self.result

    @property
    def is_ok(self) -> bool:
        """True if it was answered, be it with a refusal."""
        return self.status == "ok"

    def __str__(self) -> str:
        return describe(self)


def describe(operation: Operation) -> str:
    """Return an operation in a few words, such as `cas(n1-4) over n2-3 -> refused, saw n2-9`."""
    text = operation.f if operation.mode == "strong" else f"eventual {operation.f}"
    if operation.value is not None:
        text += f"({operation.value})"
    if operation.etag is not None:
        text += f" over {operation.etag[-8:]}"
    if operation.status != "ok":
        return f"{text} -> {'not applied' if operation.status == 'fail' else 'unknown'}"
    if not operation.result:
        return f"{text} -> refused, saw {_shown(operation.saw)}"
    return f"{text} -> {_shown(operation.saw)}" if operation.f in ("read", "incr") else f"{text} -> ok"


def _shown(value: Value) -> str:
    return "absent" if value is None else str(value)
