"""Read, apply, write only over what was read: the loop behind `Store.update` (section 4a of the protocol).

Decides: what happens after a lost race or an unknown outcome.
- A lost race brings the current item with it; the function is applied to that at once, without another read.
- The pause before it *shrinks* with every race lost.  Growing pauses starve: whoever just won comes back at once while
  the loser sleeps.  The round trip bounds the rate, and nodes serve all writers of a key that wait together in one
  round.
- An unknown outcome is asked for under the same operation id (`retries`) until it is settled, never applied again.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from kvclient import chance, mutations, results
from kvclient.cluster import Cluster
from kvclient.errors import DeadlineExceeded, EtagMismatch
from kvclient.item import Item
from kvclient.mutations import Change
from kvclient.session import OperationId
from kvclient.wire.messages import APPLIED, CHECK_ABSENT, CHECK_ETAG, PUT

RACE_PAUSE_S = 0.008


class Update(NamedTuple):
    """What one call of `update` does."""

    key: str
    name: bytes
    function: Callable[[Any], Any]
    default: Any
    encode: Callable[[Any], bytes]
    ttl_ms: int

    def change(self, item: Item | None) -> Change:
        """Apply the function and return the first-write of its result.  Raises InvalidRequest, and what it raises."""
        value = copy.deepcopy(self.default) if item is None else item.value
        content = self.encode(self.function(value))
        check, etag = (CHECK_ABSENT, "") if item is None else (CHECK_ETAG, item.etag)
        return Change(self.name, PUT, check, etag, content, self.ttl_ms)


async def run(
    cluster: Cluster,
    update: Update,
    read: Callable[[float], Awaitable[Item | None]],
    timeout_s: float,
    operation_id: str | OperationId | None,
) -> Item:
    """Update until a race is won or the time is up.  `read` is a strong read of the key, given its timeout."""
    deadline_s = cluster.loop.time() + timeout_s
    item = await read(timeout_s)
    lost: EtagMismatch | None = None
    races = 0
    while (left_s := deadline_s - cluster.loop.time()) > 0:
        change = update.change(item)
        try:
            answer, issued_at_ms = await mutations.mutate(cluster, change, left_s, operation_id)
        except DeadlineExceeded:
            if operation_id is None:
                raise
            operation_id = None  # settled: that write was never applied and never will be
            continue
        if answer[0] == APPLIED:
            item = results.item_applied(cluster.seen, update.key, change, answer, issued_at_ms)
            if operation_id is None:
                return item
            # An earlier call may have made it, from what it read then: look, do not guess.
            return await read(max(0.001, deadline_s - cluster.loop.time())) or item
        lost = results.mismatch(cluster.seen, update.key, change, answer)
        item, operation_id, races = lost.current, None, races + 1
        await asyncio.sleep(chance.fraction() * RACE_PAUSE_S / races)
    raise DeadlineExceeded(f"{update.key!r:.80} was changed by others {races} times within {timeout_s:g} s") from lost
