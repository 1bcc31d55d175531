"""What the operations of Dapr's state API mean here: once, for HTTP, gRPC and the component.

Decides (Dapr's reference semantics, made exact):

| ETag | concurrency | effect |
|---|---|---|
| none | not said, last-write | written unconditionally |
| none | first-write | created: ETAG_MISMATCH if the key is there (an expired one is not) |
| given | any | written only over that version; ETAG_MISMATCH if another or none stands there |

A conditional operation is strong whatever `consistency` says, as is a transaction.  What the caller and the `DaprStore`
leave unsaid is as the cluster is configured.  A bulk call is not atomic: each item is a write of its own, but a
malformed item refuses the call before anything is written.  Writes of one key in one call happen in their order.

Leaves to others: the words of requests (`options`), what the failures look like (`errors`), the cluster (`kvclient`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import kvclient
from kvclient import Consistency, Item, KvError, RawJson
from kvclient.content import encode
from kvclient.many import IN_FLIGHT_MAX, each
from kvclient.transaction import OPERATIONS_MAX
from kvclient.wire.values import KEY_BYTES_MAX
from kvnode.dapr import errors
from kvnode.dapr.errors import Call, StateError
from kvnode.dapr.options import Delete, Operation, Save, check_count, check_key
from kvnode.dapr.settings import SEPARATOR, DaprStore, GatewaySettings

PAGE_LIMIT = 50
PAGE_LIMIT_MAX = 1000
BULK_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of the values in one answer: a request of some kilobytes can name the largest value thousands of times."""
BULK_S_MAX = 30.0
"""Seconds after which a bulk call begins no further item, if its caller does not say how long it waits."""
_NULL = RawJson("null")
_LAST = "\U0010ffff"

Request = TypeVar("Request", Save, Delete)
Done = TypeVar("Done")
Hold = Callable[[int, Call], None]
"""Holds so many bytes for a call; raises StateError if there is no room."""


class Entry(NamedTuple):
    """A value as it was read."""

    key: str
    data: bytes
    """The bytes, or the JSON text in UTF-8, exactly as they were stored."""
    is_json: bool
    etag: str
    expires_at: datetime | None


class States:
    """The stores that one gateway serves."""

    def __init__(self, kv: kvclient.Kv, settings: GatewaySettings) -> None:
        """Raises kvclient.InvalidRequest for a store whose settings are out of bounds."""
        self._app_id = settings.app_id
        self._stores = {name: StateStore(kv, store) for name, store in settings.stores.items()}

    def store(self, name: str) -> StateStore:
        """Return the store that users call `name`.  Raises StateError."""
        store = self._stores.get(name)
        if store is None:
            make = errors.not_found if self._stores else errors.not_configured
            raise make(name, self._app_id)
        return store


class StateStore:
    """One store under its Dapr name.  Every method raises StateError."""

    transaction_operations_max = OPERATIONS_MAX

    def __init__(self, kv: kvclient.Kv, settings: DaprStore, *, has_prefixed_keys: bool = False) -> None:
        """`has_prefixed_keys`: a sidecar has put its prefixes before the keys, so `||` is legal in them.

        Raises kvclient.InvalidRequest.
        """
        self.name = settings.name
        self.settings = settings
        ttl: kvclient.Ttl | None = "never" if settings.ttl_s == 0 else settings.ttl_s
        self._store = kv.store(settings.store, consistency=settings.consistency, ttl=ttl)
        self._prefix = settings.key_prefix
        self._has_prefixed_keys = has_prefixed_keys
        self._ends_at_s: float | None = None
        self._begins_until_s: float | None = None

    def within(self, timeout_s: float | None) -> StateStore:
        """Return this store for one request of a caller who waits `timeout_s` seconds at most, from now.

        None: the caller does not say, and each operation has the cluster's default.  Time beyond what the cluster
        takes is not used.
        """
        if timeout_s is None:
            return self
        limited = copy.copy(self)
        limited._ends_at_s = asyncio.get_running_loop().time() + timeout_s
        return limited

    # -- reads

    async def get(self, key: str, consistency: Consistency | None = None) -> Entry | None:
        """Return what stands under a key, or None if it is absent, deleted or expired."""
        name = self._name(key)
        try:
            item = await self._store.get(name, consistency=consistency, timeout=self._left_s())
            return None if item is None else _entry(key, item)
        except KvError as error:
            raise errors.failed(Call.GET, self.name, key, error) from error

    async def get_many(
        self,
        keys: Sequence[str],
        parallelism: int = 0,
        consistency: Consistency | None = None,
        hold: Hold | None = None,
    ) -> list[Entry | StateError | None]:
        """Return for each key, in their order, its entry, None if it is absent, or why it could not be read.

        `parallelism` reads at most are under way; 0 or less: as many as the gateway allows itself.  What is beyond
        `BULK_BYTES_MAX` is left out, with an error in its place.  `hold` is told the bytes of the answer as they come,
        and ends the call by raising StateError.
        """
        check_count(len(keys))
        names = {key: self._name(key) for key in keys}
        limited = self._limited()
        read = _Bytes(hold)

        async def one(key: str) -> Entry | None:
            read.add(0)
            item = await self._store.get(names[key], consistency=consistency, timeout=limited._left_s())
            if item is None:
                return None
            read.add(len(item.raw))
            return _entry(key, item)

        in_flight_max = parallelism if parallelism > 0 else IN_FLIGHT_MAX
        found = await each(names, one, in_flight_max)
        read.repeat(found, keys)
        if read.refusal is not None:
            raise read.refusal
        answered = _Bytes()  # a key may stand there many times
        return [self._told(Call.GET, key, answered.fitting(found[key])) for key in keys]

    async def keys(self, prefix: str = "", limit: int = PAGE_LIMIT, token: str = "") -> tuple[list[str], str]:
        """Return a page of the keys that begin with `prefix`, in order, and the token of the next page ("": none).

        An eventual view.  `token` is what the page before gave.  Without a key prefix, a store that is shared with
        others shows only the keys that can be asked for.
        """
        if limit < 1:
            raise errors.malformed(f"page_limit must be 1 or more, not {limit}")
        limit = min(limit, PAGE_LIMIT_MAX)
        after = self._prefix + _after_of(token) if token else ""
        keys: list[str] = []
        try:
            while len(keys) <= limit:
                wanted, seen = limit + 1 - len(keys), 0
                async for item in self._store.scan(self._prefix + prefix, after=after, values=False, limit=wanted):
                    after, seen = item.key, seen + 1
                    key = after[len(self._prefix) :]
                    if self._has_prefixed_keys or SEPARATOR not in key:
                        keys.append(key)
                    elif (end := _end_of_others(after, len(self._prefix))) is not None:
                        after, seen = end, wanted  # there may be millions that nobody is shown
                        break
                if seen < wanted:
                    return keys, ""
        except KvError as error:
            raise errors.failed(Call.LIST, self.name, prefix, error) from error
        del keys[limit:]
        return keys, _token_of(keys[-1])

    # -- writes

    async def save(self, save: Save) -> str:
        """Write one value and return its ETag."""
        name = self._name(save.key)
        try:
            return await self._put(name, save)
        except KvError as error:
            raise errors.failed(Call.SAVE, self.name, save.key, error) from error

    async def save_many(self, saves: Sequence[Save]) -> list[str | StateError]:
        """Write several values, each for itself; return for each its ETag or why it failed (`errors.joined`)."""
        check_count(len(saves))
        for save in saves:
            self._check_value(save)
        limited = self._limited()
        return await limited._each(Call.SAVE, saves, limited._put)

    async def delete(self, delete: Delete) -> None:
        """Delete one key.  That it is absent already is no failure, unless an ETag is given."""
        name = self._name(delete.key)
        try:
            await self._remove(name, delete)
        except KvError as error:
            raise errors.failed(Call.DELETE, self.name, delete.key, error) from error

    async def delete_many(self, deletes: Sequence[Delete]) -> list[StateError | None]:
        """Delete several keys, each for itself; return for each None or why it failed (`errors.joined`)."""
        check_count(len(deletes))
        limited = self._limited()
        return await limited._each(Call.BULK_DELETE, deletes, limited._remove)

    async def transact(self, operations: Sequence[Operation]) -> None:
        """Run operations in order as one change, all or nothing.  They must concern one key; none is no failure."""
        if not operations:
            return
        most = self.transaction_operations_max
        if len(operations) > most:
            raise errors.too_many_operations(self.name, len(operations), most)
        key = operations[0].key
        names = {self._name(operation.key) for operation in operations}
        if len(names) > 1:
            raise errors.no_transactions(self.name, "over several keys: put what belongs together under one key")
        steps = [step for operation in operations for step in _steps(operation)]
        try:
            await self._store.transact(names.pop(), steps, timeout=self._left_s())
        except KvError as error:
            raise errors.failed(Call.TRANSACTION, self.name, key, error) from error

    # -- how

    def _check_value(self, save: Save) -> None:
        """Raise StateError for a value that the cluster would not take."""
        try:
            size, most = len(encode(save.value)) - 1, self._store.value_bytes_max
        except kvclient.InvalidRequest as error:
            raise errors.malformed(f"the value of {save.key!r:.80} cannot be stored: {error}") from error
        if size > most:
            raise errors.malformed(f"the value of {save.key!r:.80} has {size} bytes: the cluster takes {most} at most")

    async def _put(self, name: str, save: Save) -> str:
        item = await self._store.put(
            name,
            save.value,
            etag=save.etag or None,
            consistency=save.consistency,
            concurrency=save.concurrency,
            ttl=save.ttl,
            timeout=self._left_s(),
        )
        return item.etag

    async def _remove(self, name: str, delete: Delete) -> None:
        if delete.concurrency == "first-write" and not delete.etag:
            # Only an absent key can be what the caller has seen, and then there is nothing to delete.
            if (item := await self._store.get(name, consistency="strong", timeout=self._left_s())) is not None:
                raise kvclient.EtagMismatch("a first-write delete needs the ETag", item)
            return
        await self._store.delete(
            name,
            etag=delete.etag or None,
            consistency=delete.consistency,
            concurrency=delete.concurrency,
            timeout=self._left_s(),
        )

    async def _each(
        self, call: Call, requests: Sequence[Request], one: Callable[[str, Request], Awaitable[Done]]
    ) -> list[Done | StateError]:
        """Run `one` for each request, those of one key in order, the others beside each other."""
        names = [self._name(request.key) for request in requests]

        async def numbered(number: int) -> Done:
            return await one(names[number], requests[number])

        results: dict[int, Done | KvError] = {}
        for wave in _waves(names):
            results |= await each(wave, numbered)
        return [self._told(call, request.key, results[number]) for number, request in enumerate(requests)]

    def _limited(self) -> StateStore:
        """Return this store for one bulk call, which ends also if every item of it waits for a lost node."""
        limited = copy.copy(self)
        limited._begins_until_s = asyncio.get_running_loop().time() + BULK_S_MAX
        return limited

    def _left_s(self) -> float | None:
        """Return the seconds that are left for one operation, None if the caller did not say."""
        if self._ends_at_s is None:
            if self._begins_until_s is not None and asyncio.get_running_loop().time() >= self._begins_until_s:
                raise kvclient.DeadlineExceeded(f"the call has taken {BULK_S_MAX:g} s, and this was not begun by then")
            return None
        left_s = self._ends_at_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise kvclient.DeadlineExceeded("the caller's time was up before the operation began: nothing was sent")
        return min(left_s, self._store.timeout_max)

    def _told(self, call: Call, key: str, result: Done | KvError) -> Done | StateError:
        return errors.failed(call, self.name, key, result) if isinstance(result, KvError) else result

    def _name(self, key: str) -> str:
        return check_key(self.name, self._prefix, key, has_prefix=self._has_prefixed_keys)


class _Bytes:
    """The bytes of one answer, as far as it has grown."""

    def __init__(self, hold: Hold | None = None) -> None:
        self._count = 0
        self._hold = hold
        self.refusal: StateError | None = None
        """Why there is no room for the answer."""

    def add(self, size: int) -> None:
        """Add so many bytes.  Raises kvclient.InvalidRequest if they are too many."""
        self._count += size
        if self._count > BULK_BYTES_MAX or self.refusal is not None:
            text = f"one answer may have {BULK_BYTES_MAX} bytes of values, and there are more: get this key alone"
            raise kvclient.InvalidRequest(text)
        self._held(size)

    def repeat(self, found: Mapping[str, Entry | KvError | None], keys: Sequence[str]) -> None:
        """Add what stands in the answer once more, because it was asked for several times."""
        if len(found) < len(keys):
            sizes = {key: len(entry.data) for key, entry in found.items() if isinstance(entry, Entry)}
            every, once = sum(sizes.get(key, 0) for key in keys), sum(sizes.values())
            self._held(min(every, BULK_BYTES_MAX) - once)

    def fitting(self, found: Entry | KvError | None) -> Entry | KvError | None:
        """Return what was found, or the error in its place if it is too much."""
        if isinstance(found, Entry):
            try:
                self.add(len(found.data))
            except kvclient.InvalidRequest as error:
                return error
        return found

    def _held(self, size: int) -> None:
        if self._hold is not None and self.refusal is None:
            try:
                self._hold(size, Call.BULK_GET)
            except StateError as error:
                self.refusal = error


def _waves(names: Iterable[str]) -> list[list[int]]:
    """Return the numbers of the names in as few lists as it takes for no list to have a name twice."""
    waves: list[list[int]] = []
    times: dict[str, int] = {}
    for number, name in enumerate(names):
        wave = times.get(name, 0)
        times[name] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(number)
    return waves


def _steps(operation: Operation) -> Iterable[kvclient.Put | kvclient.Delete]:
    """Return an operation in the client's words."""
    etag = operation.etag or None
    is_first = operation.concurrency == "first-write" and etag is None
    if isinstance(operation, Save):
        create = None if operation.concurrency is None else is_first
        return [kvclient.Put(operation.value, etag=etag, create=create, ttl=operation.ttl)]
    if is_first:  # the key must be absent: created and deleted at once, which nobody can see
        return [kvclient.Put(_NULL, create=True), kvclient.Delete()]
    return [kvclient.Delete(etag=etag)]


def _entry(key: str, item: Item) -> Entry:
    return Entry(key, item.raw, item.is_json, item.etag, item.expires_at)


def _end_of_others(key: str, start: int) -> str | None:
    """Return what hardly a key with the same foreign prefix as `key` is greater than, or None if `key` itself is."""
    end = key[: key.index(SEPARATOR, start) + len(SEPARATOR)] + _LAST
    return end if key < end and len(end.encode()) <= KEY_BYTES_MAX else None


def _token_of(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _after_of(token: str) -> str:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        return raw.decode()
    except (binascii.Error, ValueError) as error:
        raise errors.malformed(f"page_token {token!r:.80} is not one that a page gave: begin without one") from error
