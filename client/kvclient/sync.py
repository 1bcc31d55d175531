"""The same interface without async: `with kvclient.sync.connect("127.0.0.1:7401") as kv: kv.put("k", 1)`.

Decides: where the work runs.  A client has one thread of its own with one event loop; a call hands its work over and
waits.  Any number of threads may share a client.  What calls mean, their options and their errors are those of
`kvclient.Store`; only `connect` connects at once.

Caveats: do not call it on an event loop's thread, which it would block.  A child made by `os.fork` must connect anew.
A client that is never closed does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from kvclient import client as aio
from kvclient.errors import KvError, NotConnected, OutcomeUnknown
from kvclient.health import Health
from kvclient.item import Item
from kvclient.options import Concurrency, Consistency, Copies, Ttl
from kvclient.session import OperationId
from kvclient.store import Store as AsyncStore
from kvclient.transaction import Delete, Put

SCAN_CHUNK = 256
"""Items that one hand-over between the threads brings."""

T = TypeVar("T")


def connect(
    where: str | os.PathLike[str] | Iterable[str],
    *,
    cluster: str = "",
    consistency: Consistency | None = None,
    concurrency: Concurrency | None = None,
    r: int | None = None,
    w: Copies | None = None,
    ttl: Ttl | None = None,
    timeout: float | None = None,
    connect_timeout: float = aio.CONNECT_TIMEOUT_S,
) -> Kv:
    """Connect to a cluster and return the client: close it, or use it in `with`.  Arguments as `kvclient.connect`.

    Raises InvalidRequest, ConfigError or NotConnected.
    """
    connecting = aio.connect(
        where,
        cluster=cluster,
        consistency=consistency,
        concurrency=concurrency,
        r=r,
        w=w,
        ttl=ttl,
        timeout=timeout,
        connect_timeout=connect_timeout,
    )

    async def connected() -> aio.Kv:
        return await connecting

    worker = _Worker()
    try:
        return Kv(worker, worker.run(connected()))
    except BaseException:
        worker.stop()
        raise


class _Worker:
    """A thread with an event loop."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._lock = threading.Lock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._serve, name="kvclient", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and return its result.  Interrupting the caller cancels the work."""
        with self._lock:
            if self._is_stopped:
                work.close()
                raise NotConnected("the client is closed: connect again")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise OutcomeUnknown("the client was closed during the call, which may or may not take effect") from error
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Run a plain function on the loop's thread and return its result."""

        async def called() -> T:
            return function()

        return self.run(called())

    def stop(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Run `last`, let what is under way end, and end the thread.  Idempotent."""
        with self._lock:
            was_stopped, self._is_stopped = self._is_stopped, True
        if was_stopped:
            if last is not None:
                last.close()
            return
        ending = asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        try:
            ending.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _end(self, last: Coroutine[Any, Any, None] | None) -> None:
        if last is not None:
            await last
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # the client is closed, so they are about to fail
            _, late = await asyncio.wait(others, timeout=1)
            for task in late:
                task.cancel()
        await self._loop.shutdown_asyncgens()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    with contextlib.suppress(ImportError):  # faster where it is installed
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class Store:
    """The keys of one store, without async: see `kvclient.Store` for what each call does, takes and raises."""

    def __init__(self, worker: _Worker, store: AsyncStore) -> None:
        self._worker = worker
        self._store = store

    @property
    def name(self) -> str:
        """The name of this store."""
        return self._store.name

    @property
    def timeout_max(self) -> float:
        """The longest `timeout` that the cluster takes, in seconds."""
        return self._store.timeout_max

    def get(
        self,
        key: str,
        *,
        consistency: Consistency | None = None,
        r: int | None = None,
        timeout: float | None = None,
        explain: bool = False,
    ) -> Item | None:
        """Return the item of `key`, or None if it is absent, deleted or expired."""
        work = self._store.get(key, consistency=consistency, r=r, timeout=timeout, explain=explain)
        return self._worker.run(work)

    def get_many(
        self,
        keys: Iterable[str],
        *,
        consistency: Consistency | None = None,
        r: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, Item | KvError | None]:
        """Return for each key its item, None if it is absent, or the error of its read."""
        listed = keys if isinstance(keys, str) else list(keys)  # a generator must run on the caller's thread
        work = self._store.get_many(listed, consistency=consistency, r=r, timeout=timeout)
        return self._worker.run(work)

    def scan(
        self,
        prefix: str = "",
        *,
        after: str = "",
        values: bool = True,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[Item]:
        """Iterate over the items whose key begins with `prefix`, in key order: an eventual view."""

        def scanned() -> AsyncIterator[Item]:
            return self._store.scan(prefix, after=after, values=values, limit=limit, timeout=timeout)

        return self._chunks(self._worker.call(scanned))

    def _chunks(self, items: AsyncIterator[Item]) -> Iterator[Item]:
        while chunk := self._worker.run(_chunk(items)):
            yield from chunk

    def explain(self, key: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Return where `key` lives, what each replica holds of it, and what a strong read would do."""
        return self._worker.run(self._store.explain(key, timeout=timeout))

    def put(
        self,
        key: str,
        value: Any,
        *,
        etag: str | None = None,
        create: bool = False,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
        exactly_once: bool = False,
        operation_id: str | OperationId | None = None,
    ) -> Item:
        """Write `value` and return the item that it became."""
        work = self._store.put(
            key,
            value,
            etag=etag,
            create=create,
            consistency=consistency,
            concurrency=concurrency,
            r=r,
            w=w,
            ttl=ttl,
            timeout=timeout,
            exactly_once=exactly_once,
            operation_id=operation_id,
        )
        return self._worker.run(work)

    def put_many(
        self,
        items: Mapping[str, Any],
        *,
        create: bool = False,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
        exactly_once: bool = False,
    ) -> dict[str, Item | KvError]:
        """Put each key with its value, and return for each its item or its error."""
        work = self._store.put_many(
            items,
            create=create,
            consistency=consistency,
            concurrency=concurrency,
            r=r,
            w=w,
            ttl=ttl,
            timeout=timeout,
            exactly_once=exactly_once,
        )
        return self._worker.run(work)

    def delete(
        self,
        key: str,
        *,
        etag: str | None = None,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        timeout: float | None = None,
        exactly_once: bool = False,
        operation_id: str | OperationId | None = None,
    ) -> None:
        """Delete `key`.  That it is absent already is no error."""
        work = self._store.delete(
            key,
            etag=etag,
            consistency=consistency,
            concurrency=concurrency,
            r=r,
            w=w,
            timeout=timeout,
            exactly_once=exactly_once,
            operation_id=operation_id,
        )
        self._worker.run(work)

    def update(
        self,
        key: str,
        function: Callable[[Any], Any],
        *,
        default: Any = None,
        r: int | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
        operation_id: str | OperationId | None = None,
    ) -> Item:
        """Replace the value of `key` by `function(value)`; it runs on the client's thread and must not block."""
        work = self._store.update(
            key, function, default=default, r=r, ttl=ttl, timeout=timeout, operation_id=operation_id
        )
        return self._worker.run(work)

    def transact(
        self,
        key: str,
        operations: Sequence[Put | Delete],
        *,
        timeout: float | None = None,
        operation_id: str | OperationId | None = None,
    ) -> Item | None:
        """Run several operations on one key as one change, all or nothing, and return the item that stands after it."""
        return self._worker.run(self._store.transact(key, operations, timeout=timeout, operation_id=operation_id))


async def _chunk(items: AsyncIterator[Item]) -> list[Item]:
    chunk: list[Item] = []
    async for item in items:
        chunk.append(item)
        if len(chunk) == SCAN_CHUNK:
            break
    return chunk


class Kv(Store):
    """A connected client, and its store "default".  Made by `connect`; any number of threads may share it."""

    def __init__(self, worker: _Worker, kv: aio.Kv) -> None:
        super().__init__(worker, kv)
        self._kv = kv

    def store(
        self,
        name: str,
        *,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
    ) -> Store:
        """Return the store `name` with defaults of its own.  Raises InvalidRequest."""
        options: dict[str, Any] = {"consistency": consistency, "concurrency": concurrency, "r": r, "w": w}
        options |= {"ttl": ttl, "timeout": timeout}
        return Store(self._worker, self._worker.call(lambda: self._kv.store(name, **options)))

    def new_operation_id(self, *, timeout: float | None = None) -> OperationId:
        """Return a fresh id for a mutation that may have to be asked for again."""
        return self._worker.call(lambda: self._kv.new_operation_id(timeout=timeout))

    def status(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]:
        """Return for each node, by name, what it says about itself."""
        return self._worker.run(self._kv.status(timeout=timeout))

    def health(self, stores: Iterable[str] = (aio.DEFAULT_STORE,), *, timeout: float = aio.HEALTH_TIMEOUT_S) -> Health:
        """Return whether every key of these stores can be read and written with a quorum now."""
        return self._worker.run(self._kv.health(list(stores), timeout=timeout))

    def close(self) -> None:
        """Close every connection and end the thread.  Calls of other threads end as lost.  Idempotent."""
        with contextlib.suppress(concurrent.futures.CancelledError):
            self._worker.stop(self._kv.close())

    def __enter__(self) -> Kv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
