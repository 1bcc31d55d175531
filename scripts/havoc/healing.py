"""What heals a cluster while it is hurt: counted from what nodes say of themselves, over their restarts.

Decides: what is counted.  Leaves to others: whether all is well in the end (`agreement`).

A node counts from its start, so what it did in the moment before it was killed is not seen: up to `POLL_S` of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from kvnode.cli import probe
from kvnode.cli.probe import ProbeError

POLL_S: Final = 0.5


class Counts(NamedTuple):
    """What has healed replicas, in all."""

    hints: int = 0
    """Delivered."""
    comparisons: int = 0
    """Records that a comparison of hash trees has brought."""
    reads: int = 0
    """Replicas that a read has repaired."""
    settled: int = 0
    """Proposals that the resolver has settled."""
    purged: int = 0
    """Rows of deleted keys that were removed."""

    def since(self, before: Counts) -> Counts:
        """Return what came after `before`."""
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))

    def __str__(self) -> str:
        told = ((self.hints, "hints"), (self.comparisons, "records by comparisons"), (self.reads, "by reads"),
                (self.settled, "proposals settled"), (self.purged, "rows purged"))  # fmt: skip
        return ", ".join(f"{count} {what}" for count, what in told)


def counts_of(facts: dict[str, Any]) -> Counts:
    """Return what a node's STATUS counts since its start."""
    compared = facts["anti_entropy"]["repaired"]
    return Counts(
        hints=facts["hints_delivered"],
        comparisons=compared,
        reads=facts["repairs"] - compared,
        settled=facts["proposals"]["settled"],
        purged=facts["tombstones"]["purged"],
    )


class Tally:
    """Adds up what all nodes count."""

    def __init__(self, nodes: Sequence[tuple[str, int]]) -> None:
        self._nodes = nodes
        self._last: dict[tuple[str, int], Counts] = {}
        """By node and incarnation."""

    @property
    def counts(self) -> Counts:
        """Everything so far."""
        return Counts(*map(sum, zip(*self._last.values(), strict=True))) if self._last else Counts()

    def look(self, statuses: Iterable[dict[str, Any] | ProbeError]) -> None:
        """Take what nodes say of themselves."""
        for facts in statuses:
            if not isinstance(facts, ProbeError):
                self._last[facts["node"], facts["incarnation"]] = counts_of(facts)

    async def run(self, stop: asyncio.Event) -> None:
        """Look every moment until told to stop."""
        while not stop.is_set():
            self.look(await probe.statuses(self._nodes))
            await asyncio.sleep(POLL_S)
