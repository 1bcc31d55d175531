"""Eventual writes with w="any" at a node that owns no copy, when no owner can be reached (R29, 4a).

Decides: the version of such a write, and that one durable hint acknowledges it.  Leaves to others: when a request comes
here (`coordinator`), the hints (`handoff`).

The base is "no such key", for a fallback knows of no strong change: whoever has a record of one keeps it, and the write
is then superseded.  A token that names a strong change would have to be confirmed by a read, so it is refused.
"""

from __future__ import annotations

from kvclient.wire import messages as m
from kvclient.wire.values import NO_SBALLOT, body_pack
from kvnode.core.clock import stamp_ms
from kvnode.core.record import entry_make
from kvnode.core.version import version_eventual, version_sballot, version_stamp
from kvnode.runtime import Runtime
from kvnode.service.ceilings import Ceilings
from kvnode.service.drafts import Draft, Waiting
from kvnode.service.eventual import Eventual
from kvnode.service.handoff import Handoff


class Fallback:
    """The writes that this node keeps for others."""

    def __init__(
        self, eventual: Eventual, ceilings: Ceilings, handoff: Handoff, runtime: Runtime, node_id: int
    ) -> None:
        self._eventual = eventual
        self._ceilings = ceilings
        self._handoff = handoff
        self._clock = runtime.clock
        self._node_id = node_id
        self._waiting = Waiting(ceilings, runtime.timers, self.write)
        self._kept: dict[Draft, None] = {}
        """Writes whose hints are on their way to the disk."""

    def write(self, draft: Draft) -> None:
        """Stamp a write and keep it for every owner; answered once the hints are on disk."""
        request, now_ms, hybrid = draft.request, self._clock.wall_ms(), self._ceilings.hybrid
        if draft.token and version_sballot(draft.token) > NO_SBALLOT:
            request.fail("quorum-unreachable")
            return
        above = version_stamp(draft.token)
        is_token_ahead = stamp_ms(above) > now_ms + hybrid.max_offset_ms
        if not self._eventual.clock_is_good or hybrid.is_ahead(now_ms) or is_token_ahead:
            request.fail("clock-skew")
            return
        stamp = self._ceilings.stamp(above)
        if stamp is None:
            self._waiting.for_ceiling(draft, above)
            return
        version = version_eventual(NO_SBALLOT, stamp, self._node_id)
        created_ms = stamp_ms(stamp)
        expires_ms = created_ms + draft.ttl_ms if draft.ttl_ms and draft.content else 0
        entry = entry_make(body_pack(version, expires_ms, created_ms, draft.content), absent=True)
        placement = draft.placement
        is_synced = placement.store.durability == "fsync"

        def on_durable() -> None:
            self._kept.pop(draft, None)
            request.answer((m.APPLIED, request.number, version, 0))

        self._kept[draft] = None
        if not self._handoff.keep(draft.key, placement.owners, entry, sync=is_synced, then=on_durable):
            del self._kept[draft]
            request.fail("quorum-unreachable")

    def sweep(self, now_s: float) -> None:
        """Answer what is past its deadline: nothing was done, or nobody knows."""
        self._waiting.sweep(now_s)
        for draft in [draft for draft in self._kept if draft.deadline_s < now_s]:
            del self._kept[draft]
            draft.request.leave_unknown()
