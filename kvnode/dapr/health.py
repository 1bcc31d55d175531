"""Is there a quorum for every key?  Asked of the cluster at most once a second, however often callers ask.

Decides: how long an answer counts.  Leaves to others: what a quorum is (`kvclient.health`), and the words of the health
routes (`http`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import kvclient

FRESH_S = 1.0
"""Health checks come every few seconds from every sidecar and balancer; a second is as fresh as the nodes' own view."""


class Quorums:
    """The latest answer of `kvclient.Kv.health` for the stores that are served."""

    def __init__(self, kv: kvclient.Kv, stores: Iterable[str]) -> None:
        self._kv = kv
        self._stores = sorted(set(stores))
        self._asking = asyncio.Lock()
        self._reason = ""
        self._known_until_s = float("-inf")

    async def missing(self) -> str:
        """Return "" if every key can be read and written with a quorum, else why not."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._known_until_s:
            async with self._asking:
                if loop.time() >= self._known_until_s:  # nobody has asked while this one waited
                    self._reason = await self._ask()
                    self._known_until_s = loop.time() + FRESH_S
        return self._reason

    async def _ask(self) -> str:
        try:
            return (await self._kv.health(self._stores)).reason
        except kvclient.KvError as error:
            return str(error)
