"""A real cluster that can be hurt in every way: `kvnode up --proxied`, with faults on purpose.

Decides: how each thing is done to a node, and that everything can be undone.  Leaves to others: what to do when.

Whatever kills a node that nobody meant to kill is a finding: `deaths` returns every death, and `excuse` says beforehand
which one is meant and which words its log must then have, until `end_excuses`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kvnode import config as configuration
from kvnode.config import Config
from kvnode.local import detached, plan, statefile
from kvnode.local.partition import Pair
from kvnode.local.statefile import LocalError, NodeState
from kvnode.process import FAULTS_VARIABLE
from scripts.havoc.agreement import REPAIR_INTERVAL_S
from scripts.havoc.disks import SmallDisk

ASK_TIMEOUT_S = 90.0
AHEAD_GRACE_S = 5.0
"""How long a node that was ahead may still refuse when its time has come: a heartbeat or two, on a busy machine."""
COPIES_MAX = 5
"""Of each key, however many nodes there are."""
GC_GRACE_S = 60
"""The least that a configuration may say."""
_DEATH = re.compile(r"^node (\S+) \(pid \d+\) (?:exited|was killed|did not stop)")


class Death(NamedTuple):
    """A node's process that ended without being told to."""

    node: str
    words: str


@dataclass
class Excuse:
    """A death that is meant: of which node, with which words in its log, and which of all deaths it may be."""

    node: str
    words: str
    first: int
    end: int | None = None
    """None: the excuse still holds."""

    def covers(self, number: int, death: Death) -> bool:
        """Return whether this is such a death; `number` counts all deaths of the run."""
        is_then = number >= self.first and (self.end is None or number < self.end)
        return is_then and self.node == death.node and self.words in death.words


class Cluster:
    """A running cluster and its faults; made by `running`."""

    def __init__(self, config: Config, faults: Path, small_disk: SmallDisk | None) -> None:
        self.config = config
        self.directory = config.data_dir
        self.names = [node.id for node in config.nodes]
        self.small_disk = small_disk
        """The disk of the first node, if it could be given one of its own."""
        self.ahead_until_s: dict[str, float] = {}
        """Nodes that were started while their clock was further ahead than tolerated: they believe it, and then refuse
        what needs a later time than theirs, until that time has come.  One whose clock leaps while it runs is not
        fooled (`service.steady`)."""
        self._faults = faults
        self._offsets_ms = dict.fromkeys(self.names, 0)
        self._disks: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        self._starting: set[str] = set()
        self._believing: set[str] = set()
        self._excuses: list[Excuse] = []

    @property
    def majority(self) -> int:
        """How many nodes are more than half."""
        return len(self.names) // 2 + 1

    @property
    def replicas(self) -> int:
        """How many copies each key has."""
        return self.config.store("default").replicas

    @property
    def addresses(self) -> list[str]:
        """Where all nodes listen."""
        return [node.address for node in self.config.nodes]

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The same as pairs of host and port."""
        return [(node.host, node.port) for node in self.config.nodes]

    def address(self, name: str) -> str:
        """Where a node listens."""
        return self.config.node(name).address

    def rows(self, name: str) -> Path:
        """The folder of a node's rows."""
        return self.directory / name / "rows"

    def state(self, name: str) -> NodeState:
        """What the supervisor says of a node."""
        return next(node for node in statefile.running(self.directory).nodes if node.id == name)

    # -- processes

    async def _ask(self, **request: Any) -> dict[str, Any]:
        return await asyncio.to_thread(statefile.ask, self.directory, ASK_TIMEOUT_S, **request)

    async def kill(self, *names: str) -> None:
        """Kill nodes with SIGKILL, all at once; one that is down already stays down."""
        await asyncio.gather(*(self._ask(do="kill", node=name) for name in names), return_exceptions=True)

    async def pause(self, *names: str) -> None:
        """Stop nodes in their tracks."""
        await asyncio.gather(*(self._ask(do="pause", node=name) for name in names), return_exceptions=True)

    async def resume(self, *names: str) -> None:
        """Let paused nodes go on."""
        await asyncio.gather(*(self._ask(do="resume", node=name) for name in names), return_exceptions=True)

    async def restart(self, *names: str) -> None:
        """Start nodes again, after draining them if they run.  Raises LocalError, with what the node said."""
        self._starting |= set(names)
        for name in names:
            self._believe(name)
        try:
            await asyncio.gather(*(self._ask(do="restart", node=name) for name in names))
        finally:
            self._starting -= set(names)

    async def status(self, name: str) -> str:
        """Return how a node is: serving, down, paused, ..."""
        answer = await self._ask(do="status")
        return str(next(node["state"] for node in answer["nodes"] if node["id"] == name))

    # -- network

    async def cut(self, pairs: Iterable[Pair]) -> None:
        """Cut exactly these links."""
        await self._ask(do="cut", links=sorted(pairs))

    async def slow(self, pairs: Iterable[Pair], delay_ms: int, jitter_ms: int = 0, bytes_per_s: int = 0) -> None:
        """Make exactly these links slow."""
        await self._ask(do="slow", links=sorted(pairs), delay_ms=delay_ms, jitter_ms=jitter_ms, bytes_per_s=bytes_per_s)

    async def reset(self, pairs: Iterable[Pair]) -> None:
        """Break the connections dialled along these links."""
        await self._ask(do="reset", links=sorted(pairs))

    # -- clocks and disks

    def set_clock(self, name: str, offset_ms: int = 0) -> None:
        """Make a node's clock wrong by so much; 0: right."""
        if name in self._believing and offset_ms != self._offsets_ms[name]:
            self._believe(name)  # until now
            self._believing.discard(name)
        self._offsets_ms[name] = offset_ms
        if name in self._starting:
            self._believe(name)
        self._write(name)

    def set_disk(self, name: str, **facts: Any) -> None:
        """Make a node's disk go wrong in exactly this way; without facts it is healthy."""
        self._disks[name] = facts
        self._write(name)

    def _write(self, name: str) -> None:
        facts = {"clock_offset_ms": self._offsets_ms[name], **self._disks[name]}
        statefile.write_atomically(self._faults / f"{name}.json", json.dumps(facts))

    def _believe(self, name: str) -> None:
        """Note until when a node that starts, and so believes its clock, may be ahead of the others."""
        offset_ms = self._offsets_ms[name]
        if offset_ms > self.config.limits.max_offset_ms:
            self._believing.add(name)
            until_s = time.monotonic() + offset_ms / 1000 + AHEAD_GRACE_S
            self.ahead_until_s[name] = max(until_s, self.ahead_until_s.get(name, 0.0))

    def is_excused_ahead(self, name: str) -> bool:
        """Return whether a node may refuse now what needs a later time than its own."""
        return time.monotonic() < self.ahead_until_s.get(name, 0.0)

    def ahead_s(self, grace_s: float = 0.0) -> float:
        """Return for how long, and `grace_s` more, some node may still be ahead of the others; 0: none is."""
        return max([0.0, *(until_s + grace_s - time.monotonic() for until_s in self.ahead_until_s.values())])

    # -- afterwards

    async def restore(self) -> None:
        """Undo everything: every link mended, every disk and clock healthy, every node serving."""
        await self._ask(do="heal")
        if self.small_disk is not None:
            self.small_disk.free()
        for name in self.names:
            self.set_clock(name)
            self.set_disk(name)
        for name in self.names:
            state = await self.status(name)
            if state == "paused":
                await self.resume(name)
            elif state != "serving":
                await self.restart(name)

    def excuse(self, node: str, words: str) -> None:
        """Say that a node may die from now on, if its log then has these words."""
        self._excuses.append(Excuse(node, words, len(self._all_deaths())))

    def end_excuses(self) -> None:
        """Say that no death is meant any more."""
        deaths = len(self._all_deaths())
        for excuse in self._excuses:
            if excuse.end is None:
                excuse.end = deaths

    def deaths(self) -> list[Death]:
        """Return every death that nobody had meant, with the node's last words."""
        return [
            death
            for number, death in enumerate(self._all_deaths())
            if not any(excuse.covers(number, death) for excuse in self._excuses)
        ]

    def _all_deaths(self) -> list[Death]:
        log = self.directory / statefile.LOGS / detached.LOG_NAME
        found: list[Death] = []
        for line in log.read_text("utf-8", "replace").splitlines():
            if match := _DEATH.match(line):
                found.append(Death(match[1], line))
            elif found and line.startswith(f"  {found[-1].node}| "):
                found[-1] = found[-1]._replace(words=f"{found[-1].words}\n{line.strip()}")
        return found


def plan_cluster(directory: Path, nodes: int) -> Config:
    """Return the configuration of a cluster to be hurt.

    Small buffers, so that its disks see every kind of file; trees are compared often, and what is deleted is purged
    within a run that is longer than a minute.
    """
    config = configuration.local(nodes, directory / "cluster")
    store = replace(config.stores["default"], replicas=min(nodes, COPIES_MAX))
    store = replace(store, q1=0, q2=0, gc_grace_s=GC_GRACE_S)
    limits = replace(
        config.limits,
        disk_reserve_bytes=16 << 20,
        write_buffer_bytes=1 << 20,
        repair_interval_s=REPAIR_INTERVAL_S,
        hint_age_s=GC_GRACE_S / 2,
    )
    return plan.on_free_ports(replace(config, stores={"default": store}, limits=limits))


@contextmanager
def running(directory: Path, nodes: int, *, small_disk: bool) -> Iterator[Cluster]:
    """Run a cluster until the block ends.  `small_disk`: give its first node a disk of its own, which can be full."""
    config = plan_cluster(directory, nodes)
    faults = directory / "faults"
    faults.mkdir(parents=True)
    before = os.environ.get(FAULTS_VARIABLE)
    os.environ[FAULTS_VARIABLE] = str(faults)
    disk = SmallDisk.mount(config.data_dir / config.nodes[0].id) if small_disk else None
    try:
        with detached.cluster(config, "--proxied"):
            yield Cluster(config, faults, disk)
    finally:
        if disk is not None:
            disk.unmount()
        if before is None:
            del os.environ[FAULTS_VARIABLE]
        else:
            os.environ[FAULTS_VARIABLE] = before


__all__ = ["Cluster", "Death", "LocalError", "plan_cluster", "running"]
