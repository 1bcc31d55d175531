"""One store of a cluster: every call that users make on keys.

Decides: what each call sends by default and what it gives back.  Leaves
to others: bounds (`options`), the way to an answer (`mutations`, `retries`), the loops of `update`, `scan` and `_many`.

The fast path of `get` and `put` makes one future and no task, timer or further check beyond what its arguments need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from kvclient import content as contents
from kvclient import mutations, results, retries, updating
from kvclient import scan as scans
from kvclient import transaction as transactions
from kvclient.cluster import Cluster
from kvclient.connection import UNSENT
from kvclient.errors import InvalidRequest, KvError
from kvclient.item import Item, item_of_body
from kvclient.many import each
from kvclient.mutations import Change
from kvclient.options import (
    Concurrency,
    Consistency,
    Copies,
    Options,
    ReadPlan,
    StoreSettings,
    Ttl,
    WritePlan,
    check_of,
    etag_on_wire,
    key_bytes,
    plan_read,
    plan_write,
    store_prefix,
    timeout_s_of,
    ttl_ms_of,
)
from kvclient.routing import Router, Table
from kvclient.session import OperationId
from kvclient.updating import Update
from kvclient.wire.messages import CHECK_NONE, DELETE, EXPLAIN, GET, ITEM, PUT, RESULT, TRANSACT
from kvclient.wire.values import KEY_BYTES_MAX, Version, body_version, version_stamp_ms


class Store:
    """The keys of one store, for any number of tasks.  Take it from `kv.store(name)`.

    Options; what a call does not say is taken from the store's defaults, the client's, the cluster's for the store:

    - `consistency`: "eventual", "quorum" (eventual with r = w = majority) or "strong".
    - `concurrency`: "last-write" or "first-write".  A first-write, like any call with `etag=` or `create=True`, is
      always strong; without an ETag it creates.
    - `r`, `w`: how many replicas an eventual request waits for, 1 to N; `w="any"` is one durable copy anywhere.  They
      are raised to what the consistency needs.  Writes take an `r` within these bounds as well, so that one set of
      options serves all calls; only `update`, which reads, has a use for it.
    - `ttl`: seconds until the key counts as absent, above 0, or "never".
    - `timeout`: seconds until the call ends one way or the other, carried to the replicas.

    Every call may raise `InvalidRequest`, `NotConnected`, `QuorumUnreachable`, `Overloaded`, `DeadlineExceeded` (not
    applied: see `KvError.outcome`), and every call with an effect `OutcomeUnknown`.  Cancelling a call is safe; what
    was sent may still take effect.
    """

    def __init__(self, cluster: Cluster, name: str, options: Options) -> None:
        self._cluster = cluster
        self._seen = cluster.seen
        self._name = name
        self._options = options
        self._prefix = store_prefix(name)
        self._router: Router = cluster.known_router
        self._loop = cluster.loop
        self._refresh()

    def _refresh(self) -> None:
        """Compute again what follows from the cluster's settings.  Raises InvalidRequest for defaults out of bounds."""
        self._table: Table = self._cluster.table
        options = self._options
        self._settings: StoreSettings = self._table.settings(self._name)
        self._read_plan: ReadPlan = plan_read(self._settings, options)
        self._write_plan: WritePlan = plan_write(self._settings, options)
        self._read_plans: dict[str, ReadPlan] = {}
        self._write_plans: dict[str, WritePlan] = {}
        most = self._table.timeout_s_max
        self._timeout_s: float = (
            self._table.timeout_s if options.timeout is None else timeout_s_of(options.timeout, most)
        )
        self._ttl_ms = round(self._settings.ttl_s * 1000) if options.ttl is None else ttl_ms_of(options.ttl)

    @property
    def name(self) -> str:
        """The name of this store."""
        return self._name

    @property
    def timeout_max(self) -> float:
        """The longest `timeout` that the cluster takes, in seconds."""
        return self._table.timeout_s_max

    @property
    def value_bytes_max(self) -> int:
        """The bytes of the largest value that the cluster takes."""
        return self._table.value_bytes_max

    # -- reads

    async def get(
        self,
        key: str,
        *,
        consistency: Consistency | None = None,
        r: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        explain: bool = False,
    ) -> Item | None:
        """Return the item of `key`, or None if it is absent, deleted or expired."""
        name = self._row_name(key)
        plan = self._read_plan if consistency is None and r is None else self._plan_read(consistency, r)
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        deadline_s = self._loop.time() + timeout_s
        message = [GET, 0, name, plan.strong, plan.r, int(timeout_s * 1000) or 1, 1 if explain else 0]
        link = self._router.pick(name)
        answer = UNSENT if link is None else await link.ask(message, deadline_s)
        if answer[0] != ITEM:
            answer = await retries.read(self._cluster, name, message, ITEM, deadline_s, link, answer)
        body: bytes = answer[2]
        if body:  # also a tombstone's: an eventual write of this client must not lose to a delete that it has seen
            self._seen.note(name, body_version(body))
        return item_of_body(key, body, answer[3] if explain else None)

    async def get_many(
        self,
        keys: Iterable[str],
        *,
        consistency: Consistency | None = None,
        r: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> dict[str, Item | KvError | None]:
        """Return for each key its item, None if it is absent, or the error of its read.

        `timeout` is for each key.  No order or common moment among the reads.
        """
        if isinstance(keys, str | bytes):
            raise InvalidRequest(f"get_many takes several keys, not {keys!r:.80}: give a list, or call get")

        async def one(key: str) -> Item | None:
            return await self.get(key, consistency=consistency, r=r, timeout=timeout)

        return await each(dict.fromkeys(keys), one)

    def scan(
        self,
        prefix: str = "",
        *,
        after: str = "",
        values: bool = True,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Item]:
        """Iterate over the items whose key begins with `prefix`, in key order, at most `limit`.

        `after`: only keys greater than this one, which need not exist: the last key of an earlier page.

        It is *eventual*: each partition is read from one replica, page by page, while others write.  A key that stands
        throughout is seen if that replica has it; what changes meanwhile is seen old, new or not at all.  When a node
        is lost, its partitions go on at their next owner after the last key seen.  With `values=False` only `key` is
        filled. `timeout` is for each page.
        """
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        return scans.scan(
            self._cluster, self._name, prefix, after=after, values=values, limit=limit, timeout_s=timeout_s
        )

    async def explain(self, key: str, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """Return where `key` lives, what each replica holds of it, and what a strong read would do."""
        name = self._row_name(key)
        deadline_s = self._loop.time() + (self._timeout_s if timeout is None else self._checked_timeout(timeout))
        message = [EXPLAIN, 0, name]
        answer = await retries.read(self._cluster, name, message, RESULT, deadline_s, None, UNSENT)
        return dict(answer[2])

    # -- writes

    async def put(
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
        timeout: float | None = None,  # noqa: ASYNC109
        exactly_once: bool = False,
        operation_id: str | OperationId | None = None,
    ) -> Item:
        """Write `value` and return the item that it became.

        `etag`: only over that very version; `create`: only if the key is absent; EtagMismatch carries what stands
        there. `operation_id`: ask for the outcome of an earlier call with the same arguments, or write under an id of
        your own (`kv.new_operation_id()`); it takes the strong path.  `exactly_once`: an eventual write that is
        repeated until it is acknowledged, for one more round trip; without it a lost acknowledgement is OutcomeUnknown.
        """
        name = self._row_name(key)
        content = self._encode(value)
        ttl_ms = self._ttl_ms if ttl is None else ttl_ms_of(ttl)
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        self._check_r(r)
        plan = self._plan_write(consistency, concurrency, w)
        if plan.strong or create or etag is not None or operation_id is not None:
            check = check_of(plan, etag, create)
            change = Change(name, PUT, check, etag_on_wire(etag), content, ttl_ms, plan.strong_w)
            answer, issued_at_ms = await mutations.mutate(self._cluster, change, timeout_s, operation_id)
            return results.item_applied(self._seen, key, change, answer, issued_at_ms)
        answer = await mutations.write(
            self._cluster, name, plan.w, content, ttl_ms, timeout_s, exactly_once=exactly_once
        )
        version = Version(answer[2])
        self._seen.note(name, version)
        stamp_ms = version_stamp_ms(version)
        explanation = {"superseded": True} if answer[3] else None
        return Item(key, version, content, stamp_ms + ttl_ms if ttl_ms else 0, stamp_ms, explanation)

    async def put_many(
        self,
        items: Mapping[str, Any],
        *,
        create: bool = False,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        exactly_once: bool = False,
    ) -> dict[str, Item | KvError]:
        """Put each key with its value, and return for each its item or its error.

        `timeout` is for each key.  Each key is a write of its own: some may be applied and others not.
        """

        async def one(key: str) -> Item:
            return await self.put(
                key,
                items[key],
                create=create,
                consistency=consistency,
                concurrency=concurrency,
                r=r,
                w=w,
                ttl=ttl,
                timeout=timeout,
                exactly_once=exactly_once,
            )

        return await each(items, one)

    async def delete(
        self,
        key: str,
        *,
        etag: str | None = None,
        consistency: Consistency | None = None,
        concurrency: Concurrency | None = None,
        r: int | None = None,
        w: Copies | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        exactly_once: bool = False,
        operation_id: str | OperationId | None = None,
    ) -> None:
        """Delete `key`.  That it is absent already is no error.

        `etag`: only that very version, otherwise EtagMismatch with what stands there (None if absent).  A first-write
        needs it; where first-write is only a default, a delete without `etag` is strong and unconditional.
        """
        name = self._row_name(key)
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        self._check_r(r)
        plan = self._plan_write(consistency, concurrency, w)
        if concurrency == "first-write" and etag is None:
            raise InvalidRequest("delete with concurrency='first-write' needs etag=: which version is to be deleted?")
        if not plan.strong and etag is None and operation_id is None:
            answer = await mutations.write(self._cluster, name, plan.w, b"", 0, timeout_s, exactly_once=exactly_once)
            self._seen.note(name, Version(answer[2]))
            return
        check = CHECK_NONE if etag is None else check_of(plan, etag, create=False)
        change = Change(name, DELETE, check, etag_on_wire(etag), b"", 0, plan.strong_w)
        answer, _ = await mutations.mutate(self._cluster, change, timeout_s, operation_id)
        results.version_applied(self._seen, key, change, answer)

    async def update(
        self,
        key: str,
        function: Callable[[Any], Any],
        *,
        default: Any = None,
        r: int | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        operation_id: str | OperationId | None = None,
    ) -> Item:
        """Replace the value of `key` by `function(value)`, and return the new item.

        Reads strongly, applies, writes only over what was read, and begins again when another writer was faster, with
        jitter until the deadline.  So `function` may run several times and must do nothing but compute.  An absent key
        passes a copy of `default`.  The new value has the expiry of `ttl` or the store's default, not the old one's.
        `r` is for the read.

        `operation_id` (from OutcomeUnknown, with the same function) settles that write first: if it was applied, the
        item as it stands now is returned.  Raises DeadlineExceeded when every race was lost.
        """
        ttl_ms = self._ttl_ms if ttl is None else ttl_ms_of(ttl)
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        update = Update(key, self._row_name(key), function, default, self._encode, ttl_ms)
        self._check_r(r)

        async def read(left_s: float) -> Item | None:
            return await self.get(key, consistency="strong", r=r, timeout=left_s)

        return await updating.run(self._cluster, update, read, timeout_s, operation_id)

    async def transact(
        self,
        key: str,
        operations: Sequence[transactions.Put | transactions.Delete],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        operation_id: str | OperationId | None = None,
    ) -> Item | None:
        """Run several operations on one key as one change, all or nothing, and return the item that stands after it.

        `operations` are `kvclient.Put` and `kvclient.Delete`, in order, each on the result of the one before.  Always
        strong.  None: the last one was a Delete.  EtagMismatch: a check failed, and nothing happened.
        """
        name = self._row_name(key)
        timeout_s = self._timeout_s if timeout is None else self._checked_timeout(timeout)
        most, is_first_write = self._table.value_bytes_max, self._write_plan.first_write
        packed = transactions.pack(operations, self._ttl_ms, most, is_first_write=is_first_write)
        change = Change(name, TRANSACT, CHECK_NONE, "", packed.content, 0)
        answer, issued_at_ms = await mutations.mutate(self._cluster, change, timeout_s, operation_id)
        last = change._replace(content=packed.last, ttl_ms=packed.ttl_ms)
        item = results.item_applied(self._seen, key, last, answer, issued_at_ms)
        return item if packed.last else None

    # -- arguments

    def _row_name(self, key: str) -> bytes:
        if self._table is not self._router.table:
            self._refresh()
        if type(key) is str and key.isascii() and 0 < len(key) <= KEY_BYTES_MAX:
            return self._prefix + key.encode()
        return self._prefix + key_bytes(key)

    def _checked_timeout(self, timeout: float) -> float:
        return timeout_s_of(timeout, self._table.timeout_s_max)

    def _encode(self, value: Any) -> bytes:
        content = contents.encode(value)
        size, most = len(content) - 1, self._table.value_bytes_max
        if size > most:
            raise InvalidRequest(f"the value has {size} bytes, more than the {most} that the cluster takes")
        return content

    def _check_r(self, r: int | None) -> None:
        if r is not None:
            plan_read(self._settings, Options(r=r))

    def _plan_read(self, consistency: Consistency | None, r: int | None) -> ReadPlan:
        if r is not None or not isinstance(consistency, str):
            return plan_read(self._settings, Options(consistency=consistency, r=r).over(self._options))
        plan = self._read_plans.get(consistency)  # no more than there are words for a consistency
        if plan is None:
            plan = plan_read(self._settings, Options(consistency=consistency).over(self._options))
            self._read_plans[consistency] = plan
        return plan

    def _plan_write(
        self, consistency: Consistency | None, concurrency: Concurrency | None, w: Copies | None
    ) -> WritePlan:
        if consistency is None and concurrency is None and w is None:
            return self._write_plan
        if concurrency is not None or w is not None or not isinstance(consistency, str):
            said = Options(consistency=consistency, concurrency=concurrency, w=w)
            return plan_write(self._settings, said.over(self._options))
        plan = self._write_plans.get(consistency)
        if plan is None:
            plan = plan_write(self._settings, Options(consistency=consistency).over(self._options))
            self._write_plans[consistency] = plan
        return plan
