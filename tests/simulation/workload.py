"""A client of a scenario: it makes its calls through `kvclient`, one after the other, and writes down what it saw.

Decides: how each call of a scenario becomes a call of the client, what goes into the history, and what the oracle is
asked at the moment of each answer.  Leaves to others: judging the history (`checkers`).

Every value is written once, so that whoever reads it knows who wrote it.  A call that does not end in time is a
violation by itself: `kvclient` promises an end, one way or the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from checkers.history import Recorder
from checkers.operation import Function
from simulation.oracle import Oracle
from simulation.scenario import Act
from simulation.violation import broken
from simulation.world import SimWorld

import kvclient
from kvclient.errors import EtagMismatch, KvError, OutcomeUnknown
from kvclient.wire.values import NO_VERSION, Version
from kvnode.core.version import version_text
from kvnode.service.hintrows import PREFIX
from kvnode.storage.rows import meta_key

SLACK_S: Final = 1.0
"""What a call may take beyond its timeout."""
SETTLE_MAX: Final = 8
CONNECT_S: Final = 0.5
_PADDING: Final = "."
_HINT: Final = meta_key(PREFIX)

Consistency = Literal["eventual", "strong"]
Answer = kvclient.Item | None


class Watch:
    """What all clients of a run share: the history, the oracle, and the names of rows."""

    def __init__(self, world: SimWorld, oracle: Oracle, value_bytes: int) -> None:
        self.world, self.oracle, self._value_bytes = world, oracle, value_bytes
        self.recorder = Recorder(lambda: round(world.loop.now_s * 1e9))
        self.last_writes = Recorder(lambda: round(world.loop.now_s * 1e9))
        """What is written after the final reads: told to people, and not judged with the rest."""

    def row_key(self, key: str) -> bytes:
        """Return the key of the row of `key` in the store "default"."""
        name = b"default\0" + key.encode()
        return self.world.hosts[0].node.placements.of(name).prefix + name

    def padded(self, value: str) -> bytes:
        """Return a value as it is written."""
        return value.ljust(self._value_bytes, _PADDING).encode()

    def shown(self, item: Answer) -> str | int | None:
        """Return the value of an item as the history has it."""
        if item is None:
            return None
        return item.value if isinstance(item.value, int) else bytes(item.value).decode().rstrip(_PADDING)

    def check_shown(self, key: str, item: Answer, *, is_strong: bool) -> None:
        """Ask the oracle whether an item may have been shown."""
        if item is not None:
            self.oracle.answered_shown(self.row_key(key), item.version, is_strong=is_strong)

    def check_written(self, act: Act, key: str, item: kvclient.Item) -> None:
        """Ask the oracle whether a write may have been acknowledged."""
        if act.strong or act.copies >= 0 or not self._is_kept(key, item.version):
            self.check_acknowledged(key, item, 0 if act.strong else max(1, act.copies))

    def _is_kept(self, key: str, version: Version) -> bool:
        """Return whether some disk keeps an eventual write for others, which is enough for w="any" (R28)."""
        end = f"/{self.row_key(key)[:2].hex()}/default\0{key}".encode()
        for host in self.world.hosts:
            for name, row in host.disk.rows.items():
                if name.startswith(_HINT) and name.endswith(end) and row.find(version) >= 0:
                    return True
        return False

    def check_acknowledged(self, key: str, item: kvclient.Item, copies: int) -> None:
        """Ask the oracle whether a write may have been acknowledged, strongly or, with `copies`, by so many disks."""
        if copies:
            self.oracle.answered_written(self.row_key(key), item.version, copies)
        else:
            self.oracle.answered_applied(self.row_key(key), item.version)


class Worker:
    """One client process."""

    def __init__(self, watch: Watch, name: str, acts: tuple[Act, ...]) -> None:
        self._watch, self._name, self._acts = watch, name, acts
        self._loop = watch.world.loop
        self._etags: dict[str, str] = {}
        self._seen: dict[str, Version] = {}
        """The greatest version of each key that this client was shown."""
        self._count = 0
        self._kv: kvclient.Kv

    async def main(self) -> None:
        """Connect, make all calls, and close."""
        while True:
            try:
                self._kv = await kvclient.connect(self._watch.world.addresses, connect_timeout=CONNECT_S)
                break
            except KvError:
                await asyncio.sleep(0.1)
        for act in self._acts:
            await asyncio.sleep(act.pause_ms / 1000)
            await self._make(act)
        await self._kv.close()

    async def _make(self, act: Act) -> None:
        begun_s = self._loop.time()
        if len(act.keys) > 1:
            await self._make_many(act)
        else:
            await _CALLS[act.f](self, act, act.keys[0])
        calls = len(act.keys) + (SETTLE_MAX if act.option == "settle" else 0) + (act.f == "cas")
        took_s = self._loop.time() - begun_s
        if took_s > calls * (act.timeout_ms / 1000 + SLACK_S):
            broken("a call outlived its timeout", f"{self._name}: {act.f} of {act.keys[0]} took {took_s:.1f} s")

    def _value(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    # -- one call, and how it ends

    async def _tell(self, index: int, key: str, call: Awaitable[Any], done: Callable[[Any], None]) -> KvError | None:
        """Await one call and record how it ended; `done` records a success.  Return what it raised."""
        try:
            answer = await call
        except EtagMismatch as refusal:
            self._note(key, refusal.current)
            self._watch.check_shown(key, refusal.current, is_strong=True)
            current = refusal.current
            self._watch.recorder.refused(index, self._watch.shown(current), current.etag if current else None)
            return refusal
        except KvError as error:
            if error.outcome == "not applied":
                self._watch.recorder.fail(index, error.code)
            elif not (isinstance(error, OutcomeUnknown) and error.operation_id):
                self._watch.recorder.info(index, error.code)
            return error
        done(answer)
        return None

    async def _mutate(
        self,
        act: Act,
        key: str,
        f: Function,
        value: str | None,
        call: Callable[[dict[str, Any]], Awaitable[Any]],
        etag: str | None = None,
    ) -> None:
        """Make a strong change, and if asked for ask again until its outcome is known."""
        recorder = self._watch.recorder
        index = recorder.invoke(self._name, f, key, value, etag=etag, ttl_ms=act.ttl_ms)
        options: dict[str, Any] = {"timeout": act.timeout_ms / 1000}
        if act.option == "named":
            try:
                options["operation_id"] = self._kv.new_operation_id(timeout=act.timeout_ms / 1000)
            except KvError as error:
                recorder.fail(index, error.code)
                return

        seen = self._seen.get(key, NO_VERSION)

        def done(item: kvclient.Item | None) -> None:
            if item is not None:
                self._watch.check_written(act, key, item)
                self._check_order(key, item, seen)
                self._note(key, item)
            recorder.ok(index, etag=item.etag if item else None)

        for _ in range(SETTLE_MAX if act.option == "settle" else 1):
            unknown = await self._tell(index, key, call(options), done)
            if not (isinstance(unknown, OutcomeUnknown) and unknown.operation_id):
                return
            options["operation_id"] = unknown.operation_id
            if not unknown.retryable:
                break
        recorder.info(index, "outcome-unknown")

    def _check_order(self, key: str, item: kvclient.Item, seen: Version) -> None:
        """A write lies above everything that its client had seen of the key when it asked (R7, R29), unless that was
        purged."""
        if item.version <= seen and self._watch.oracle.graves.version(self._watch.row_key(key)) < seen:
            text = f"{version_text(item.version)} after {version_text(seen)}"
            broken("a write below what its client had seen", f"{self._name}, {key}: {text}")

    def _note(self, key: str, item: Answer) -> None:
        if item is not None:
            self._etags[key] = item.etag
            self._seen[key] = max(item.version, self._seen.get(key, item.version))
        else:
            self._etags.pop(key, None)

    # -- the calls

    async def put(self, act: Act, key: str) -> None:
        """Write, strongly or not."""
        value = self._value()
        if act.strong:
            await self._mutate(act, key, "write", value, lambda options: self._put(act, key, value, **options))
        else:
            await self._write(act, key, value)

    def _put(self, act: Act, key: str, value: str, **options: Any) -> Awaitable[kvclient.Item]:
        if act.ttl_ms:
            options["ttl"] = act.ttl_ms / 1000
        return self._kv.put(key, self._watch.padded(value), consistency="strong", **options)

    async def create(self, act: Act, key: str) -> None:
        """Write if the key is absent."""
        value = self._value()
        await self._mutate(
            act, key, "create", value, lambda options: self._put(act, key, value, create=True, **options)
        )

    async def cas(self, act: Act, key: str) -> None:
        """Write over the version that this client saw last, or over what it reads now."""
        if key not in self._etags:
            await self.get(act, key)
        etag = self._etags.get(key)
        if etag is None:
            await self.create(act, key)
            return
        value = self._value()
        await self._mutate(
            act, key, "cas", value, lambda options: self._put(act, key, value, etag=etag, **options), etag
        )

    async def delete(self, act: Act, key: str) -> None:
        """Delete, strongly or not."""
        if not act.strong:
            await self._write(act, key, None)
            return
        await self._mutate(
            act, key, "delete", None, lambda options: self._kv.delete(key, consistency="strong", **options)
        )

    async def drop(self, act: Act, key: str) -> None:
        """Delete the version that this client saw last."""
        etag = self._etags.get(key)
        if etag is not None:
            await self._mutate(
                act, key, "delete", None, lambda options: self._kv.delete(key, etag=etag, **options), etag
            )

    async def both(self, act: Act, key: str) -> None:
        """Two writes as one: only the second is ever to be seen."""
        first, second = self._watch.padded(f"{self._name}-hidden"), self._value()
        steps = (kvclient.Put(first), kvclient.Put(self._watch.padded(second)))
        await self._mutate(act, key, "write", second, lambda options: self._kv.transact(key, steps, **options))

    async def add(self, act: Act, key: str) -> None:
        """Count one up."""
        recorder = self._watch.recorder
        index = recorder.invoke(self._name, "incr", key, 1)

        def done(item: kvclient.Item) -> None:
            self._watch.oracle.answered_applied(self._watch.row_key(key), item.version)
            recorder.ok(index, item.value, item.etag)

        call = self._kv.update(key, lambda number: number + 1, default=0, timeout=act.timeout_ms / 1000)
        if isinstance(await self._tell(index, key, call, done), OutcomeUnknown):
            recorder.info(index, "outcome-unknown")

    async def get(self, act: Act, key: str) -> None:
        """Read, strongly or not."""
        recorder, consistency = self._watch.recorder, _consistency(act)
        index = recorder.invoke(self._name, "read", key, mode=consistency)
        r = None if act.strong or act.copies < 1 else act.copies
        call = self._kv.get(key, consistency=consistency, r=r, timeout=act.timeout_ms / 1000)
        await self._tell(index, key, call, lambda item: self._on_read(act, index, key, item))

    def _on_read(self, act: Act, index: int, key: str, item: Answer) -> None:
        self._watch.check_shown(key, item, is_strong=act.strong)
        self._note(key, item)
        self._watch.recorder.ok(index, self._watch.shown(item), item.etag if item else None)

    async def _write(self, act: Act, key: str, value: str | None) -> None:
        """Write or delete (no value) without consensus."""
        f: Function = "delete" if value is None else "write"
        recorder = self._watch.recorder
        index = recorder.invoke(self._name, f, key, value, mode="eventual", ttl_ms=act.ttl_ms)
        options: dict[str, Any] = {
            "consistency": "eventual",
            "w": _w(act),
            "timeout": act.timeout_ms / 1000,
            "exactly_once": act.option == "once",
        }
        call: Awaitable[Any]
        if value is None:
            call = self._kv.delete(key, **options)
        else:
            call = self._kv.put(key, self._watch.padded(value), **options)
        seen = self._seen.get(key, NO_VERSION)
        await self._tell(index, key, call, lambda item: self._on_written(act, index, key, item, seen))

    def _on_written(self, act: Act, index: int, key: str, item: kvclient.Item | None, seen: Version) -> None:
        if item is not None:
            self._watch.check_written(act, key, item)
            self._check_order(key, item, seen)
            self._note(key, item)
        self._watch.recorder.ok(index, etag=item.etag if item else None)

    # -- several keys at once

    async def _make_many(self, act: Act) -> None:
        recorder, consistency, is_read = self._watch.recorder, _consistency(act), act.f == "get"
        values = {key: None if is_read else self._value() for key in act.keys}
        f: Function = "read" if is_read else "write"
        indexes = {key: recorder.invoke(self._name, f, key, values[key], mode=consistency) for key in act.keys}
        options: dict[str, Any] = {"consistency": consistency, "timeout": act.timeout_ms / 1000}
        answers: dict[str, Any]
        seen = dict(self._seen)
        if is_read:
            answers = dict(await self._kv.get_many(act.keys, **options))
        else:
            items = {key: self._watch.padded(value or "") for key, value in values.items()}
            answers = dict(await self._kv.put_many(items, w=None if act.strong else _w(act), **options))
        for key, answer in answers.items():
            index = indexes[key]
            if isinstance(answer, KvError):
                if answer.outcome == "not applied":
                    recorder.fail(index, answer.code)
                else:
                    recorder.info(index, answer.code)
            elif is_read:
                self._on_read(act, index, key, answer)
            else:
                self._on_written(act, index, key, answer, seen.get(key, NO_VERSION))


def _consistency(act: Act) -> Consistency:
    return "strong" if act.strong else "eventual"


def _w(act: Act) -> Any:
    """Return W as the client takes it."""
    return "any" if act.copies < 0 else act.copies or None


_CALLS: Final[dict[str, Callable[[Worker, Act, str], Awaitable[None]]]] = {
    "put": Worker.put,
    "get": Worker.get,
    "cas": Worker.cas,
    "create": Worker.create,
    "delete": Worker.delete,
    "drop": Worker.drop,
    "both": Worker.both,
    "add": Worker.add,
}
