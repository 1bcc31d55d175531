"""Reaching the cluster, for a process that serves before its cluster does.

Decides: that it is tried until it succeeds.  Leaves to others: what callers are told meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

import kvclient

CONNECT_TIMEOUT_S = 2.0
RECONNECT_S = 0.5

_log = logging.getLogger("kvnode.dapr")


async def connected(seeds: Iterable[str], cluster: str, stopped: asyncio.Event) -> kvclient.Kv | None:
    """Connect, again and again until it succeeds or `stopped` is set (None)."""
    told = ""
    while not stopped.is_set():
        try:
            return await kvclient.connect(seeds, cluster=cluster, connect_timeout=CONNECT_TIMEOUT_S)
        except kvclient.NotConnected as error:
            if str(error) != told:
                told = str(error)
                _log.warning("the cluster cannot be reached yet: %s", told)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), RECONNECT_S)
    return None
