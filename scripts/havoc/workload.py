"""Clients that never stop: strong, first-write and eventual operations on keys of four kinds, every one recorded.

Decides: what is asked, how often, of whom, and how an answer becomes a line of the history (docs/testing.md, section
1). Leaves to others: the recorder (`checkers.history`) and the verdict.

Half of the clients know one node only, as if they lived beside it: so every node coordinates, also the one that is cut
off.  The others find their way as any user of `kvclient` does.  Of either half, some want everything strong, some are
content with one replica, so that one sees what goes on where strong operations cannot, and some ask for up to all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from checkers.history import Recorder
from checkers.operation import Function, Mode

import kvclient
from kvclient import ClockSkew, Item, Kv, KvError
from kvclient.addresses import seeds_of
from kvclient.cluster import Cluster as Links
from kvclient.errors import EtagMismatch, OutcomeUnknown
from kvclient.options import Options
from scripts.havoc.cluster import Cluster
from scripts.havoc.keys import Key, Keys, Kind

Mix = dict[Kind, dict[str, int]]
"""How often what is asked, of each kind of key."""
TIMEOUT_S: Final = 3.0
IMPATIENT_S: Final = 0.25
"""What one operation in `IMPATIENT_ONE_IN` waits: so outcomes stay unknown under faults that `TIMEOUT_S` outlasts."""
IMPATIENT_ONE_IN: Final = 10
SETTLE_TIMEOUT_S: Final = 2.0
PAUSE_S: Final = 0.1
BURSTS: Final = (1, 1, 1, 1, 8)
"""How many operations a client has in flight at once, each as often: whatever hangs or dies meets several."""
FINAL_TIMEOUT_S: Final = 5.0
REPAIR_S: Final = 1.0
"""Repairs that reads have set off are on their way for so long."""
FINAL_READS_IN_FLIGHT: Final = 16


class Temper(NamedTuple):
    """What a client asks for."""

    mix: Mix
    copies: tuple[int, ...] = (1,)
    """How many replicas an eventual operation waits for."""


_STRONG: Final[Mix] = {
    "register": {"read": 35, "write": 25, "cas": 25, "create": 5, "delete": 10},
    "counter": {"incr": 65, "read": 35},
    "mixed": {"read": 40, "write": 30, "cas": 20, "delete": 10},
}
_EVENTUAL: Final[Mix] = {
    "mixed": {"eventual write": 50, "eventual read": 45, "eventual delete": 5},
    "eventual": {"eventual write": 45, "eventual read": 45, "eventual delete": 10},
}
STRONG: Final = Temper(_STRONG)
TEMPERS: Final = (STRONG, Temper(_EVENTUAL), STRONG, Temper(_EVENTUAL, (1, 1, 1, 2, 2, 3)))


class OneNode(Links):
    """A client's links if it knows one node only, and never gets to know another."""

    def _keep(self, address: Any) -> None:
        if address in self.seeds.addresses:
            super()._keep(address)


async def connect_to(address: str) -> Kv:
    """Connect to one node for good."""
    return Kv(await OneNode.open(seeds_of([address]), TIMEOUT_S), Options(timeout=TIMEOUT_S))


class Client:
    """One closed loop: an operation or some at once, a short pause, the next."""

    def __init__(
        self, name: str, kv: Kv, keys: Keys, recorder: Recorder, rng: random.Random, *, temper: Temper, node: str = ""
    ) -> None:
        self.name = name
        self._mix, self._copies = temper
        self._kv = kv
        self._keys = keys
        self._recorder = recorder
        self._rng = rng
        self._node = node
        self._written = 0
        self._etags: dict[str, str] = {}

    async def run(self, stop: asyncio.Event, go: asyncio.Event) -> None:
        """Go on until told to stop, while `go` is set; what was begun is finished."""
        while not stop.is_set():
            await go.wait()
            await asyncio.gather(*(self._one() for _ in range(self._rng.choice(BURSTS))))
            await asyncio.sleep(PAUSE_S * self._rng.random() * 2)

    async def _one(self) -> None:
        kind = self._rng.choice(list(self._mix))
        shares = self._mix[kind]
        (what,) = self._rng.choices(list(shares), list(shares.values()))
        key = self._keys.draw(kind, self._rng)
        if key is not None:
            try:
                await self._do(key, what)
            finally:
                self._keys.release(key)

    async def _do(self, key: Key, what: str) -> None:
        match what:
            case "read":
                await self._read(key, "strong")
            case "eventual read":
                await self._read(key, "eventual")
            case "write" | "eventual write":
                await self._write(key, "eventual" if what.startswith("eventual") else "strong")
            case "delete" | "eventual delete":
                await self._delete(key, "eventual" if what.startswith("eventual") else "strong")
            case "cas" | "create":
                await self._first_write(key)
            case "incr":
                await self._increment(key)

    def _value(self) -> str:
        self._written += 1
        return f"{self.name}-{self._written}"

    # -- one operation each

    async def _read(self, key: Key, mode: Mode) -> None:
        options: dict[str, Any] = {"consistency": mode, "timeout": self._timeout_s()}
        if mode == "eventual":
            options["r"] = self._rng.choice(self._copies)
        with self._recorded(key, "read", mode=mode) as record:
            record.item(await self._kv.get(key.name, **options))

    async def _write(self, key: Key, mode: Mode) -> None:
        value = self._value()
        with self._recorded(key, "write", value, mode=mode) as record:
            if mode == "eventual":
                record.made(await self._kv.put(key.name, value, consistency=mode, **self._eventually()))
            else:
                record.made(await self._settled(lambda **id: self._kv.put(key.name, value, consistency=mode, **id)))

    async def _first_write(self, key: Key) -> None:
        etag = self._etags.get(key.name)
        value = self._value()
        checks: dict[str, Any] = {"etag": etag} if etag else {"create": True}
        with self._recorded(key, "cas" if etag else "create", value, etag=etag) as record:
            record.made(await self._settled(lambda **id: self._kv.put(key.name, value, **checks, **id)))

    async def _delete(self, key: Key, mode: Mode) -> None:
        with self._recorded(key, "delete", mode=mode) as record:
            if mode == "eventual":
                await self._kv.delete(key.name, consistency=mode, **self._eventually())
            else:
                await self._settled(lambda **id: self._kv.delete(key.name, consistency=mode, **id))
            record.done()

    async def _increment(self, key: Key) -> None:
        step = self._rng.randrange(1, 4)
        with self._recorded(key, "incr", step) as record:
            timeout_s = self._timeout_s()
            record.item(await self._kv.update(key.name, lambda count: count + step, default=0, timeout=timeout_s))

    async def _settled(self, call: Callable[..., Awaitable[Any]]) -> Any:
        """Call; ask every second unknown outcome again under its operation id."""
        try:
            return await call(timeout=self._timeout_s())
        except OutcomeUnknown as error:
            if not (error.operation_id and error.retryable and self._rng.random() < 0.5):
                raise
            return await call(operation_id=error.operation_id, timeout=SETTLE_TIMEOUT_S)

    def _eventually(self) -> dict[str, Any]:
        return {"w": self._rng.choice(self._copies), "timeout": self._timeout_s()}

    def _timeout_s(self) -> float:
        return TIMEOUT_S if self._rng.randrange(IMPATIENT_ONE_IN) else IMPATIENT_S

    # -- the record of it

    @contextmanager
    def _recorded(
        self, key: Key, f: Function, value: str | int | None = None, *, etag: str | None = None, mode: Mode = "strong"
    ) -> Iterator[_Record]:
        """Record the invocation, then what becomes of it."""
        index = self._recorder.invoke(self.name, f, key.name, value, etag=etag, mode=mode, node=self._node)
        record = _Record(self._recorder, index)
        try:
            yield record
        except EtagMismatch as lost:
            record.lost(lost.current)
        except KvError as error:
            if error.outcome == "unknown" and f != "read":
                key.unknown += 1
                self._recorder.info(index, str(error))
            else:
                self._recorder.fail(index, str(error))
        if record.etag:
            self._etags[key.name] = record.etag
        elif record.is_absent:
            self._etags.pop(key.name, None)


class _Record:
    """The completion of one operation."""

    def __init__(self, recorder: Recorder, index: int) -> None:
        self._recorder = recorder
        self._index = index
        self.etag = ""
        self.is_absent = False

    def item(self, item: Item | None) -> None:
        """What a read or an increment showed."""
        self._look_at(item)
        self._recorder.ok(self._index, None if item is None else item.value, self.etag or None)

    def made(self, item: Item) -> None:
        """The item that a write became."""
        self._look_at(item)
        self._recorder.ok(self._index, etag=item.etag)

    def lost(self, current: Item | None) -> None:
        """What stood there when a check failed."""
        self._look_at(current)
        self._recorder.refused(self._index, None if current is None else current.value, self.etag or None)

    def done(self) -> None:
        """A delete took effect."""
        self.is_absent = True
        self._recorder.ok(self._index)

    def _look_at(self, item: Item | None) -> None:
        self.etag = "" if item is None else item.etag
        self.is_absent = item is None


class Unread(NamedTuple):
    """A read that failed although nothing was wrong any more."""

    key: str
    mode: Mode
    node: str
    """Or nothing: of any node."""
    error: str


@dataclass
class Load:
    """All clients of a run, and what they leave."""

    cluster: Cluster
    recorder: Recorder
    rng: random.Random
    keys: Keys = field(default_factory=Keys)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    unread: list[Unread] = field(default_factory=list)
    """What could not be read although nothing was wrong any more."""

    async def run(self, clients: int) -> None:
        """Run clients until told to stop."""
        self.go.set()
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        """Every second one knows one node only, every node has its own; whoever comes later has the next temper."""
        names = self.cluster.names
        node = names[number // 2 % len(names)] if number % 2 else ""
        temper = TEMPERS[number // 2 // len(names) % len(TEMPERS)]
        rng = random.Random(self.rng.getrandbits(64))
        async with await self._connected(node) as kv:
            await Client(f"c{number}", kv, self.keys, self.recorder, rng, temper=temper, node=node).run(
                self.stop, self.go
            )

    async def hold(self) -> None:
        """Let all clients finish what they have begun and wait until `go` is set again."""
        self.go.clear()
        await self.keys.idle.wait()

    async def _connected(self, node: str) -> Kv:
        if node:
            return await connect_to(self.cluster.address(node))
        return await kvclient.connect([self.cluster.address(name) for name in self.cluster.names], timeout=TIMEOUT_S)

    async def read_quietly(self) -> None:
        """Read every key from each node as it is there: such a read asks nobody else, so it repairs nothing."""
        for name in self.cluster.names:
            async with await self._connected(name) as kv:
                await self._read_all(kv, list(self.keys.names), name, [("eventual", 1)])

    async def read_finally(self) -> None:
        """Repair every key by one strong read and one of all replicas, then read it from each node in both ways.

        Of a key that could not be repaired nothing more is asked: its replicas need not agree.
        """
        keys = list(self.keys.names)
        async with await self._connected("") as kv:
            await self._read_all(kv, keys, "", [("strong", None), ("eventual", self.cluster.replicas)])
        await asyncio.sleep(REPAIR_S)
        failed = {unread.key for unread in self.unread}
        for name in self.cluster.names:
            async with await self._connected(name) as kv:
                repaired = [key for key in keys if key not in failed]
                await self._read_all(kv, repaired, name, [("strong", None), ("eventual", 1)])

    async def _read_all(self, kv: Kv, keys: list[str], node: str, ways: list[tuple[Mode, int | None]]) -> None:
        client = f"final {node}"
        limit = asyncio.Semaphore(FINAL_READS_IN_FLIGHT)

        async def one(key: str) -> None:
            async with limit:
                for mode, r in ways:
                    index = self.recorder.invoke(client, "read", key, mode=mode, node=node, is_final=bool(node))
                    try:
                        item = await kv.get(key, consistency=mode, r=r, timeout=FINAL_TIMEOUT_S)
                    except ClockSkew as error:
                        self.recorder.fail(index, str(error))
                        if not self.cluster.is_excused_ahead(node):  # R3 and R5 let it refuse until that time has come
                            self.unread.append(Unread(key, mode, node, str(error)))
                    except KvError as error:
                        self.recorder.fail(index, str(error))
                        self.unread.append(Unread(key, mode, node, str(error)))
                    else:
                        shown, etag = (None, None) if item is None else (item.value, item.etag)
                        self.recorder.ok(index, shown, etag)

        await asyncio.gather(*map(one, keys))
