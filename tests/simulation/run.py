"""Runs one scenario to its verdict: what goes wrong goes wrong, then all is mended and the cluster must come to rest.

Decides: the two phases, and what must hold after each.  Leaves to others: the world, the faults, the clients, and what
their history must satisfy.

*Safety*: clients work while faults come and go; the oracle checks every row and every answer.  *Liveness*: all faults
have ended.  Every call ends; each key is read once strongly and once from all its replicas; then the replicas show the
same, within bounded virtual time, and what the clients saw is judged as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from checkers.history import Operation
from checkers.judge import judge
from simulation.loop import SimDefect, SimStuck
from simulation.nemesis import Nemesis, client_name
from simulation.oracle import Oracle, Violation, broken
from simulation.scenario import Act, Cluster, Scenario
from simulation.witness import witness
from simulation.workload import Watch, Worker
from simulation.world import SimHost, SimWorld

import kvclient
from kvclient.errors import KvError
from kvclient.wire.values import body_version
from kvnode.config import Config, Limits, NodeConfig, StoreConfig, local
from kvnode.core.register import InvariantViolation, visible_body
from kvnode.core.version import version_text

PARTITIONS: Final = 8
READ_TIMEOUT_S: Final = 10.0
"""Within which a read must succeed once all faults have ended."""
REST_S: Final = 10.0
"""Within which replicas must agree after the reads that repair them."""
_POLL_S: Final = 0.25
_STEPS_MAX: Final = 3_000_000

OnEvent = Callable[..., None]


@dataclass(frozen=True)
class Problem:
    """What was broken.  `check` is the same for the same mistake, whatever the keys and times; the text says how."""

    check: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """How a run ended: `problem` is None if everything held."""

    scenario: Scenario
    problem: Problem | None
    digest: str
    steps: int
    virtual_s: float
    history: list[Operation] = field(repr=False)

    def count(self, status: str) -> int:
        """Return how many operations ended so: ok, fail, info."""
        return sum(operation.status == status for operation in self.history)


def run(scenario: Scenario, on_event: OnEvent | None = None) -> Verdict:
    """Run a scenario.  `on_event` hears what happens, for people; it changes nothing."""
    trial = Trial(scenario, on_event)
    problem = None
    try:
        with problems():
            trial.go()
    except Violation as violation:
        problem = Problem(violation.check, str(violation))
    verdict = Verdict(
        scenario,
        problem,
        trial.world.digest,
        trial.world.loop.steps,
        trial.world.now_ms / 1000,
        trial.watch.recorder.operations,
    )
    trial.world.close()
    return verdict


@contextmanager
def problems() -> Iterator[None]:
    """Turn whatever a broken cluster does into a Violation; what is wrong with the simulator itself passes."""
    try:
        yield
    except SimStuck as stuck:
        raise Violation("the run does not end", str(stuck)) from stuck
    except SimDefect as defect:
        cause = defect.__cause__
        if isinstance(cause, Violation):
            raise cause from defect
        if isinstance(cause, InvariantViolation):
            raise Violation("an invariant", str(cause)) from defect
        raise Violation(f"an exception: {type(cause).__name__}", f"{defect}: {cause!r}") from defect
    except InvariantViolation as violation:
        raise Violation("an invariant", str(violation)) from violation


def config_of(cluster: Cluster) -> Config:
    """Return the configuration of a scenario's cluster.  Its limits may lie beyond what a cluster file may say."""
    store = StoreConfig(
        replicas=cluster.replicas, q1=cluster.q1, q2=cluster.q2, durability=cluster.durability, mix=cluster.mix
    )
    nodes = tuple(NodeConfig(node.id, node.host, node.port) for node in local(cluster.nodes).nodes)
    limits: dict[str, Any] = dict(cluster.limits)
    return Config("sim", nodes, Path("nowhere"), PARTITIONS, {"default": store}, Limits(**limits))


class Trial:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, on_event: OnEvent | None = None) -> None:
        self.scenario = scenario
        cluster = scenario.cluster
        self.world = SimWorld(scenario.seed, config_of(cluster), fifo=cluster.is_fifo)
        self.world.on_event = on_event
        self.world.loop.step_max = _STEPS_MAX
        self.oracle = Oracle(cluster.q2)
        if cluster.durability == "os":
            self.world.watch(on_written=self.oracle.on_durable)
        else:
            self.world.watch(on_durable=self.oracle.on_durable, on_written=self.oracle.on_written)
        self.watch = Watch(self.world, self.oracle, scenario.value_bytes)
        self.nemesis = Nemesis(self.world, scenario, lambda host: witness(host, self.oracle))
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def go(self) -> None:
        """Run it.  Raises Violation."""
        self.world.run(self._main())
        self._judge()

    async def _main(self) -> None:
        for index in range(self.scenario.cluster.nodes):
            self.nemesis.start(index)
        await self.world.serving()
        self.nemesis.begin()
        faults = asyncio.create_task(self.nemesis.run())
        for number, acts in enumerate(self.scenario.clients):
            name = client_name(number)
            self._tasks[name] = self.world.spawn(name, Worker(self.watch, name, acts).main)
        while self._working() and not faults.done():
            await asyncio.wait([*self._working(), faults], timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
        faults.cancel()
        self.world.tell("heal")
        await self.nemesis.heal()
        await self._clients_end()
        await self._come_to_rest()
        await asyncio.sleep(max([act.ttl_ms for acts in self.scenario.clients for act in acts], default=0) / 1000)
        await self._spawned("judge", self._read_finally)

    def _working(self) -> list[asyncio.Task[None]]:
        """Return the clients that live and are not done; raises what one of them found."""
        for task in self._tasks.values():
            if task.done():
                task.result()
        names = [name for name in self._tasks if name not in self.nemesis.dead_clients]
        return [self._tasks[name] for name in names if not self._tasks[name].done()]

    async def _clients_end(self) -> None:
        """Every call of every client ends."""
        acts = [act for acts in self.scenario.clients for act in acts]
        bound_s = 30.0 + sum(_longest_s(act) for act in acts)
        end_s = self.world.loop.now_s + bound_s
        while working := self._working():
            if self.world.loop.now_s > end_s:
                names = ", ".join(task.get_name() for task in working)
                broken("a client never ends", f"{names} {bound_s:.0f} s after all faults have ended")
            await asyncio.wait(working, timeout=1.0)

    async def _come_to_rest(self) -> None:
        """Each key is read once strongly, and once from all its replicas, which repairs them: then they agree.

        An eventual write stamped by a clock that was ahead is refused by the others until their time has come (R2); so
        then it takes that much longer.
        """
        await self._spawned("reader", self._read_all)
        differing = await self._disagreement()
        if differing and (ahead_s := _clock_ahead_s(self.scenario)):
            await asyncio.sleep(ahead_s)
            await self._spawned("second reader", self._read_all)
            differing = await self._disagreement()
        if differing:
            broken("replicas do not agree", differing)
        for host in self.world.hosts:
            if host.is_serving:
                for register in host.node.registers._cache.values():
                    register.invariants()

    async def _disagreement(self) -> str:
        """Wait until all replicas show the same of every key; return what still differs after `REST_S`."""
        end_s = self.world.loop.now_s + REST_S
        while (differing := self._differing()) and self.world.loop.now_s < end_s:
            await asyncio.sleep(_POLL_S)
        return differing

    async def _spawned(self, name: str, client: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a client as a host of its own to its end."""
        task = self.world.spawn(name, client)
        await asyncio.wait((task,))
        task.result()

    async def _read_all(self) -> None:
        async with kvclient.connect(self.world.addresses) as kv:
            for key in self.scenario.keys:
                await self._read_one(kv, key, "strong", lambda: 0)
                await self._read_one(kv, key, "eventual", partial(self._live, key))

    async def _read_one(
        self, kv: kvclient.Kv, key: str, consistency: Any, r: Callable[[], int], *, is_final: bool = False
    ) -> None:
        """Read one key until it can be read, which must soon be so.

        Not as soon where clocks were ahead: promises were given in their time, and acceptors that did not meet these
        refuse ballots above them until their own time has come (R5).
        """
        recorder = self.watch.recorder
        end_s = self.world.loop.now_s + READ_TIMEOUT_S + _clock_ahead_s(self.scenario)
        while True:
            index = recorder.invoke("reader", "read", key, mode=consistency, is_final=is_final)
            try:
                item = await kv.get(key, consistency=consistency, r=r() or None, timeout=READ_TIMEOUT_S)
            except KvError as error:
                recorder.fail(index, error.code)
                if not error.retryable or self.world.loop.now_s > end_s:
                    broken("no read after all faults have ended", f"{consistency} read of {key}, r={r()}: {error}")
            else:
                self.watch.check_shown(key, item, is_strong=consistency == "strong")
                recorder.ok(index, self.watch.shown(item), item.etag if item else None)
                return
            await asyncio.sleep(_POLL_S)

    # -- rest

    async def _read_finally(self) -> None:
        async with kvclient.connect(self.world.addresses) as kv:
            for key in self.scenario.keys:
                await self._read_one(kv, key, "strong", lambda: 0, is_final=True)
                await self._read_one(kv, key, "eventual", lambda: 1, is_final=True)

    def _live(self, key: str) -> int:
        return len(self._live_owners(key))

    def _live_owners(self, key: str) -> list[SimHost]:
        owners = self.world.hosts[0].node.placements.of(b"default\0" + key.encode()).owners
        return [self.world.hosts[index] for index in owners if self.world.hosts[index].is_serving]

    def _differing(self) -> str:
        """Return the keys of which live owners show different versions, for a person; empty if there are none."""
        texts = []
        for key in self.scenario.keys:
            shown = {}
            for host in self._live_owners(key):
                body = visible_body(host.node.registers.get(self.watch.row_key(key)).shown)
                shown[host.name] = version_text(body_version(body))
            if len(set(shown.values())) > 1:
                texts.append(f"{key}: {', '.join(f'{name} {version}' for name, version in shown.items())}")
        return "; ".join(texts)

    def _judge(self) -> None:
        """Judge what clients saw."""
        for finding in judge(self.watch.recorder.operations).findings:
            broken(finding.checker, f"{finding.key}: {finding.message}")


def _longest_s(act: Act) -> float:
    return (act.timeout_ms / 1000 + 1.0) * (len(act.keys) + 9) + act.pause_ms / 1000


def _clock_ahead_s(scenario: Scenario) -> float:
    """Return how far ahead a clock may have been at the most."""
    ahead_ms = max([0, *scenario.cluster.offsets_ms])
    for fault in scenario.faults:
        if fault.kind == "clock":
            ahead_ms += max(0, int(fault.amount))
        elif fault.kind == "drift":
            ahead_ms += int(max(0.0, fault.amount) * fault.for_ms)
    return ahead_ms / 1000
