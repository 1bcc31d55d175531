"""Histories for tests: written by hand in a line each, or drawn at random from a register that behaves."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from checkers.keyed import KeyHistory, by_key
from checkers.operation import Function, Mode, Operation, Value


def _operation(f: Function, value: Value, call: int, ret: int | None, mode: Mode, **fields: object) -> Operation:
    made = Operation(
        0, 0, f, "k", value, mode=mode, call_ns=call, return_ns=ret, status="info" if ret is None else "ok"
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def wrote(value: Value, call: int, ret: int | None, made: str | None = None, **fields: object) -> Operation:
    return _operation("write", value, call, ret, "strong", saw_etag=made, **fields)


def created(value: Value, call: int, ret: int | None, made: str | None = None, **fields: object) -> Operation:
    return _operation("create", value, call, ret, "strong", saw_etag=made, **fields)


def swapped(over: str, value: Value, call: int, ret: int | None, made: str | None = None) -> Operation:
    return _operation("cas", value, call, ret, "strong", etag=over, saw_etag=made)


def refused(f: Function, value: Value, call: int, ret: int, saw: Value, **fields: object) -> Operation:
    return _operation(f, value, call, ret, "strong", result=False, saw=saw, **fields)


def deleted(call: int, ret: int | None, **fields: object) -> Operation:
    return _operation("delete", None, call, ret, "strong", **fields)


def counted(saw: Value, call: int, ret: int | None, by: int = 1) -> Operation:
    return _operation("incr", by, call, ret, "strong", saw=saw)


def read(saw: Value, call: int, ret: int, etag: str | None = None, **fields: object) -> Operation:
    return _operation("read", None, call, ret, "strong", saw=saw, saw_etag=etag, **fields)


def weak_wrote(value: Value, call: int, ret: int | None, **fields: object) -> Operation:
    return _operation("write", value, call, ret, "eventual", **fields)


def weak_deleted(call: int, ret: int | None, **fields: object) -> Operation:
    return _operation("delete", None, call, ret, "eventual", **fields)


def weak_read(saw: Value, call: int, ret: int, **fields: object) -> Operation:
    return _operation("read", None, call, ret, "eventual", saw=saw, **fields)


def at_rest(saw: Value, call: int, node: str, etag: str | None = None, key: str = "k") -> Operation:
    return weak_read(saw, call, call + 1, is_final=True, node=node, saw_etag=etag, key=key)


def history(*operations: Operation) -> list[Operation]:
    """Number operations, and give each a process of its own."""
    return [replace(operation, index=number, process=number) for number, operation in enumerate(operations)]


def of_key(*operations: Operation) -> KeyHistory:
    """Return the history of the one key that these operations are about."""
    [made] = by_key(history(*operations))
    return made


class Register:
    """A register that behaves: strong operations are atomic; eventual writes float, and are taken up now and then."""

    def __init__(self, rng: Random, *, clients: int, unknown: float, weak: float) -> None:
        self._rng, self._unknown, self._weak = rng, unknown, weak
        self._free = [rng.randint(0, 20) for _ in range(clients)]
        self._held: Value = None
        self._etag: str | None = None
        self._known: dict[int, str] = {}
        self._afloat: list[Operation] = []
        self._operations: list[Operation] = []

    def run(self, count: int) -> list[Operation]:
        """Return the history of `count` operations, each done at a moment of its own time."""
        rng, moments = self._rng, []
        for _ in range(count):
            client = rng.randrange(len(self._free))
            call = self._free[client] + rng.randint(1, 12)
            ret = self._free[client] = call + rng.randint(1, 40)
            moments.append((rng.randint(call, ret), call, ret, client))
        for number, (_, call, ret, client) in enumerate(sorted(moments)):
            self._take_up()
            self._operations.append(self._do(client, f"c{client}-{number}", call, ret))
        return history(*sorted(self._operations, key=lambda operation: operation.call_ns))

    def _do(self, client: int, value: str, call: int, ret: int) -> Operation:
        rng = self._rng
        if rng.random() < self._weak:
            write = weak_wrote(value, call, None if rng.random() < self._unknown else ret, saw_etag=f"E{value}")
            self._afloat.append(write)
            return write
        kind = rng.choice(["read", "read", "write", "cas", "cas", "create", "delete"])
        if kind == "read" or (kind == "cas" and client not in self._known):
            if self._etag is not None:
                self._known[client] = self._etag
            return read(self._held, call, ret, self._etag)
        f: Function = kind  # type: ignore[assignment]
        etag = self._known[client] if f == "cas" else None
        asked = _operation(f, None if f == "delete" else value, call, ret, "strong", etag=etag)
        is_refused = (f == "create" and self._held is not None) or (f == "cas" and etag != self._etag)
        if rng.random() < self._unknown:
            if not is_refused and rng.random() < 0.5:
                self._change(asked)
            return replace(asked, status="info", return_ns=None)
        if is_refused:
            return replace(asked, result=False, saw=self._held, saw_etag=self._etag)
        self._change(asked)
        return replace(asked, saw_etag=self._etag)

    def _change(self, change: Operation) -> None:
        if change.f != "delete" or self._held is not None:
            afloat = self._afloat
            self._afloat = [w for w in afloat if w.return_ns is None or w.return_ns >= change.call_ns]
        self._held = change.value
        self._etag = None if change.f == "delete" else f"E{change.value}"

    def _take_up(self) -> None:
        if self._afloat and self._rng.random() < 0.4:
            taken = self._afloat.pop(self._rng.randrange(len(self._afloat)))
            self._held, self._etag = taken.value, f"E{taken.value}"


def good_history(
    seed: int, count: int = 20, *, clients: int = 4, unknown: float = 0.1, weak: float = 0.0
) -> list[Operation]:
    """Return a random history of one key that keeps every promise."""
    return Register(Random(seed), clients=clients, unknown=unknown, weak=weak).run(count)


def damaged(operations: list[Operation], seed: int) -> list[Operation]:
    """Return a history with one answer changed: mostly one that cannot be explained any more."""
    rng = Random(seed)
    looked = [at for at, operation in enumerate(operations) if operation.is_read]
    if not looked:
        return operations
    values = [operation.value for operation in operations if not operation.is_read] + [None]
    at = rng.choice(looked)
    changed = replace(operations[at], saw=rng.choice(values), saw_etag=None)
    return [*operations[:at], changed, *operations[at + 1 :]]
