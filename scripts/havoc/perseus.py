"""Availability measured as Perseus did: one of three nodes is cut off from the others, and joins them again.

Decides: what is measured.  Three clients, one beside each node and knowing only that, each with three closed loops:
strong reads, strong writes, and first-writes over the version that it wrote last.  Their keys have every node as
primary.  A full outage is the time in which nothing succeeds at any node; held against it, more strictly, is the
longest time in which one kind of operation did not succeed at one of the nodes that were not cut off.

Source: github.com/rystsov/perseus, whose figures for others are shown beside ours.  There every client repeats
read-modify-write, and packets are dropped by the kernel's filter; here a proxy holds them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, pairwise, permutations
from pathlib import Path
from typing import Final, NamedTuple

from kvclient import Kv, KvError
from kvnode.cli import show
from scripts.havoc import cluster as clusters
from scripts.havoc.cluster import Cluster
from scripts.havoc.workload import connect_to

KINDS: Final = ("read", "write", "first-write")
KEYS: Final = 12
TIMEOUT_S: Final = 1.0
OUTAGE_S: Final = 1.0
"""What Perseus counts as an outage."""
PAUSE_S: Final = 0.002
PUBLISHED: Final = (
    ("Gryadka", "0 s", "0 s"),
    ("etcd", "1 s", "1 s"),
    ("Riak, strong", "8 s", "1 s"),
    ("Consul", "14 s", "8 s"),
)
"""Full outage on isolation and on rejoin, as its page has them; of a leader, where there is one."""


class Success(NamedTuple):
    """One operation that succeeded."""

    at_s: float
    node: str
    kind: str


@dataclass
class Measurement:
    """What the clients saw; times are seconds since the beginning."""

    nodes: list[str]
    victim: str
    isolated_s: float = 0.0
    rejoined_s: float = 0.0
    end_s: float = 0.0
    successes: list[Success] = field(default_factory=list)

    def outage_s(self, begin_s: float, end_s: float) -> float:
        """Return the longest time within a span in which nothing succeeded anywhere."""
        return _gap_s((success.at_s for success in self.successes), begin_s, end_s)

    def gap_s(self, node: str, kind: str, begin_s: float, end_s: float) -> float:
        """Return the longest time within a span in which one kind of operation did not succeed at one node."""
        return _gap_s(
            (success.at_s for success in self.successes if (success.node, success.kind) == (node, kind)), begin_s, end_s
        )

    def longest_s(self) -> float:
        """Return the longest time in which one kind of operation did not succeed at one of the nodes that were not cut
        off, at isolation or at rejoin."""
        nodes = [node for node in self.nodes if node != self.victim]
        return max(self.gap_s(node, kind, *span) for node in nodes for kind in KINDS for span in _spans(self))


def _gap_s(moments: Iterable[float], begin_s: float, end_s: float) -> float:
    within = sorted(at_s for at_s in moments if begin_s <= at_s < end_s)
    return max(later - earlier for earlier, later in pairwise([begin_s, *within, end_s]))


def main(directory: Path, seconds: float, victim: str = "n1") -> bool:
    """Measure for `seconds`, print the table, and return whether every kind of operation went on at every node that was
    not cut off, without a second's pause."""
    with clusters.running(directory, 3, small_disk=False) as cluster:
        measured = asyncio.run(_measure(cluster, victim, seconds))
    print(show.table(*_table(measured)))
    print(show.table(("longest time without a success", "at isolation", "at rejoin"), _gaps(measured)))
    print("Published by Perseus, full outage at isolation and at rejoin: ", end="")
    print("; ".join(f"{name} {isolated} / {rejoined}" for name, isolated, rejoined in PUBLISHED))
    return measured.longest_s() < OUTAGE_S


def _spans(measured: Measurement) -> tuple[tuple[float, float], tuple[float, float]]:
    return (measured.isolated_s, measured.rejoined_s), (measured.rejoined_s, measured.end_s)


async def _measure(cluster: Cluster, victim: str, seconds: float) -> Measurement:
    """A quarter of the time calm, half of it with `victim` cut off, a quarter after that."""
    measured = Measurement(cluster.names, victim)
    began_s = time.monotonic()
    now_s: Callable[[], float] = lambda: time.monotonic() - began_s  # noqa: E731
    async with asyncio.TaskGroup() as group:
        loops = [
            group.create_task(_loop(await connect_to(cluster.address(name)), name, kind, measured, now_s))
            for name in cluster.names
            for kind in KINDS
        ]
        await asyncio.sleep(seconds / 4)
        measured.isolated_s = now_s()
        await cluster.cut(pair for pair in permutations(cluster.names, 2) if victim in pair)
        await asyncio.sleep(seconds / 2)
        measured.rejoined_s = now_s()
        await cluster.cut(())
        await asyncio.sleep(seconds / 4)
        measured.end_s = now_s()
        for loop in loops:
            loop.cancel()
    return measured


async def _loop(kv: Kv, node: str, kind: str, measured: Measurement, now_s: Callable[[], float]) -> None:
    """Do one kind of operation again and again, as fast as it goes."""
    async with kv:
        operation = _operation(kv, node, kind)
        for number in count():
            try:
                await operation(number)
                measured.successes.append(Success(now_s(), node, kind))
            except KvError:
                pass
            await asyncio.sleep(PAUSE_S)


def _operation(kv: Kv, node: str, kind: str) -> Callable[[int], Awaitable[object]]:
    etags: dict[str, str] = {}
    key: Callable[[int], str] = lambda number: f"{node}-{kind}-{number % KEYS}"  # noqa: E731

    async def first_write(number: int) -> None:
        name = key(number)
        etag = etags.pop(name, None)
        if etag is None:  # at first, and after an outcome that is not known
            item = await kv.get(name, consistency="strong", timeout=TIMEOUT_S)
            etag = item.etag if item else None
        item = await kv.put(name, number, etag=etag, create=etag is None, timeout=TIMEOUT_S)
        etags[name] = item.etag

    match kind:
        case "read":
            return lambda number: kv.get(key(number), consistency="strong", timeout=TIMEOUT_S)
        case "write":
            return lambda number: kv.put(key(number), number, consistency="strong", timeout=TIMEOUT_S)
        case _:
            return first_write


def _table(measured: Measurement) -> tuple[list[str], list[list[object]]]:
    """Return operations in each second, by node and kind."""
    columns = [(node, kind) for node in measured.nodes for kind in KINDS]
    counted = Counter((int(success.at_s), success.node, success.kind) for success in measured.successes)
    events = {
        int(measured.isolated_s): f"{measured.victim} is cut off",
        int(measured.rejoined_s): f"{measured.victim} is back",
    }
    rows: list[list[object]] = [
        [second, *(counted[second, *column] for column in columns), events.get(second, "")]
        for second in range(int(measured.end_s))
    ]
    return ["second", *(f"{node} {kind}" for node, kind in columns), "event"], rows


def _gaps(measured: Measurement) -> list[tuple[str, str, str]]:
    """Return the longest times without a success, at isolation and at rejoin."""
    spans = _spans(measured)
    rows = [("anything, anywhere (full outage)", *(f"{measured.outage_s(*span):.3f} s" for span in spans))]
    for node in measured.nodes:
        for kind in KINDS:
            gaps = (f"{measured.gap_s(node, kind, *span):.3f} s" for span in spans)
            note = " (cut off)" if node == measured.victim else ""
            rows.append((f"{kind} at {node}{note}", *gaps))
    return [(name, isolated, rejoined) for name, isolated, rejoined in rows]
