"""Questions to single nodes whose disk is full: are writes refused, do reads go on, do writes come back?

Decides: what is asked, and which answer is right.  Leaves to others: the disks (`disks`), and when to ask
(`nemeses_of_disks`).  Keys are the probes' own, so that no client of the run meets them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

from kvclient import Kv, KvError
from scripts.havoc.cluster import Cluster
from scripts.havoc.workload import connect_to

VALUE: Final = "before"
AFTER: Final = "after"
COME_BACK_S: Final = 5.0
"""Within which writes must succeed once there is room again."""
WRITE_TIMEOUT_S: Final = 1.0


class Probe(NamedTuple):
    """One question to one node, and whether the answer was right."""

    node: str
    words: str
    is_right: bool


Show = Callable[[Probe], None]


async def prepare(cluster: Cluster, names: list[str]) -> dict[str, str]:
    """Write a key for each node of which it is a replica, to all replicas; return these keys by node.

    A node at which that fails is left out: whether it serves at all is judged elsewhere.
    """
    keys = {}
    for name in names:
        async with await connect_to(cluster.address(name)) as kv:
            with suppress(KvError):
                key = await _key_at(kv, name)
                await kv.put(key, VALUE, consistency="strong", w=cluster.replicas)
                keys[name] = key
    return keys


async def _key_at(kv: Kv, name: str) -> str:
    for number in count():
        key = f"probe-{name}-{time.monotonic_ns()}-{number}"
        if any(replica["node"] == name for replica in (await kv.explain(key))["replicas"]):
            return key
    raise AssertionError("unreachable")


async def read(cluster: Cluster, keys: dict[str, str], show: Show) -> None:
    """Reads of every kind go on."""
    for name, key in keys.items():
        async with await connect_to(cluster.address(name)) as kv:
            for consistency in ("strong", "eventual"):
                what = f"{consistency} read below the reserve"
                try:
                    item = await kv.get(key, consistency=consistency)
                except KvError as error:
                    show(Probe(name, f"{what} fails: {error}", is_right=False))
                else:
                    shown = None if item is None else item.value
                    show(Probe(name, f"{what} shows {shown!r}", shown == VALUE))


def _writes(kv: Kv, key: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    return {
        "strong write": lambda: kv.put(key, "no", consistency="strong", timeout=WRITE_TIMEOUT_S),
        "eventual write": lambda: kv.put(key, "no", consistency="eventual", timeout=WRITE_TIMEOUT_S),
        "first-write": lambda: kv.put(f"{key}-new", "no", create=True, timeout=WRITE_TIMEOUT_S),
        "strong delete": lambda: kv.delete(key, consistency="strong", timeout=WRITE_TIMEOUT_S),
        "eventual delete": lambda: kv.delete(key, consistency="eventual", timeout=WRITE_TIMEOUT_S),
    }


async def be_refused(cluster: Cluster, keys: dict[str, str], show: Show) -> None:
    """Where no disk has room every write is refused, as not applied."""
    for name, key in keys.items():
        async with await connect_to(cluster.address(name)) as kv:
            for what, write in _writes(kv, key).items():
                try:
                    await write()
                except KvError as error:
                    words = f"{what} below the reserve: {error.outcome}: {error}"
                    show(Probe(name, words, error.outcome == "not applied"))
                else:
                    show(Probe(name, f"{what} below the reserve is acknowledged", is_right=False))


async def write(cluster: Cluster, keys: dict[str, str], show: Show) -> None:
    """Nothing that was refused shows, and all replicas take writes again."""
    for name, key in keys.items():
        async with await connect_to(cluster.address(name)) as kv:
            show(await _come_back(kv, name, key, cluster.replicas))


async def _come_back(kv: Kv, name: str, key: str, replicas: int) -> Probe:
    until_s = time.monotonic() + COME_BACK_S
    right = {VALUE}
    while True:
        may_write = False
        try:
            item = await kv.get(key, consistency="strong", timeout=WRITE_TIMEOUT_S)
            shown = None if item is None else item.value
            if shown not in right:
                return Probe(name, f"with room again {shown!r} is shown", is_right=False)
            may_write = True
            await kv.put(key, AFTER, w=replicas, timeout=WRITE_TIMEOUT_S)
        except KvError as error:
            if may_write and error.outcome != "not applied":
                right.add(AFTER)  # one replica still without room keeps all of `w` from answering, not the write
            if time.monotonic() > until_s:
                return Probe(name, f"with room again no write for {COME_BACK_S:g} s: {error}", is_right=False)
            await asyncio.sleep(0.1)
        else:
            return Probe(name, f"with room again {shown!r} is shown, and a write succeeds", is_right=True)
