"""kvclient: the client of a kvnode cluster.

A complete program::

    import asyncio
    import kvclient

    async def main() -> None:
        async with kvclient.connect("127.0.0.1:7401") as kv:
            users = kv.store("users", consistency="strong")
            ada = await users.put("ada", {"born": 1815})
            try:
                await users.put("ada", {"born": 1815, "died": 1852}, etag=ada.etag)
            except kvclient.EtagMismatch as lost:
                print("somebody was faster:", lost.current)
            try:
                await users.put("new", 1, create=True)
            except kvclient.EtagMismatch:
                print("it exists already")
            await users.update("visits", lambda count: count + 1, default=0)
            item = await users.get("ada")
            print(item.value if item else "absent")
            async for item in users.scan(prefix="a"):
                print(item.key, item.value)

    asyncio.run(main())

Values are `bytes`, or whatever JSON gives back equal (`kvclient.content`); keys are `str` of 1 to 1,024 bytes in UTF-8.
Every error is a `KvError` that says whether the operation was applied (`outcome`) and whether the same call may succeed
later (`retryable`).  The client repeats by itself only what that makes safe, under the same operation id, until the
deadline. `kvclient.sync` is the same interface without async.
"""

from kvclient.client import Connecting, Kv, connect
from kvclient.content import RawJson
from kvclient.errors import (
    ClockSkew,
    ConfigError,
    DeadlineExceeded,
    EtagMismatch,
    InvalidRequest,
    KvError,
    NotConnected,
    OutcomeUnknown,
    Overloaded,
    QuorumUnreachable,
)
from kvclient.health import Health
from kvclient.item import Item
from kvclient.options import Concurrency, Consistency, Copies, Ttl
from kvclient.session import OperationId
from kvclient.store import Store
from kvclient.transaction import Delete, Put

__all__ = [
    "ClockSkew",
    "Concurrency",
    "ConfigError",
    "Connecting",
    "Consistency",
    "Copies",
    "DeadlineExceeded",
    "Delete",
    "EtagMismatch",
    "Health",
    "InvalidRequest",
    "Item",
    "Kv",
    "KvError",
    "NotConnected",
    "OperationId",
    "OutcomeUnknown",
    "Overloaded",
    "Put",
    "QuorumUnreachable",
    "RawJson",
    "Store",
    "Ttl",
    "connect",
]
