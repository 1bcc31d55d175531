"""Runs one scenario to its verdict: what goes wrong goes wrong, then all is mended and the cluster must come to rest.

Decides: the two phases, and that every call ends in the second.  Leaves to others: the world, the faults, the clients,
what rest is (`rest`), and what the clients' history must satisfy (`checkers`).

*Safety*: clients work while faults come and go; the oracle checks every row and every answer.  *Liveness*: all faults
have ended; every call ends, replicas come to agree, and what the clients saw is judged as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from checkers.history import Operation
from checkers.judge import judge
from checkers.operation import describe
from simulation.haste import hastened, kept_ms
from simulation.hints_only import stop_comparing
from simulation.loop import EPOCH_S, SimDefect, SimStuck
from simulation.nemesis import Nemesis, client_name
from simulation.oracle import Oracle
from simulation.rest import POLL_S, Rest, clocks_are_right
from simulation.scenario import Act, Cluster, Scenario
from simulation.violation import Violation, broken
from simulation.witness import witness
from simulation.workload import Watch, Worker
from simulation.world import SimHost, SimWorld

from kvnode.config import Config, Limits, NodeConfig, StoreConfig, local
from kvnode.core.register import InvariantViolation

PARTITIONS: Final = 8
EXCEPTION: Final = "an exception"
"""How the name of a check begins if what it caught is an exception that nobody expects."""
HEALING: Final[dict[str, Any]] = {"repair_interval_s": 3.0, "tree_rebuild_s": 24.0, "tree_leaves_max": 1 << 12}
"""What nodes do in minutes and days they do in seconds here; a scenario's own limits go before."""
_STEPS_MAX: Final = 3_000_000

OnEvent = Callable[..., None]


@dataclass(frozen=True)
class Problem:
    """What was broken.  `check` is the same for the same mistake, whatever the keys and times; the text says how."""

    check: str
    text: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How a run ended: `problem` is None if everything held."""

    scenario: Scenario
    problem: Problem | None
    digest: str
    steps: int
    virtual_s: float
    history: list[Operation] = field(repr=False)
    purged: int = 0
    """Rows of tombstones that were removed."""
    unjudged: int = 0
    """Keys whose history was too hard for a checker: neither good nor bad."""

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
        problem = Problem(violation.check, str(violation), violation.evidence)
    verdict = Verdict(
        scenario,
        problem,
        trial.world.digest,
        trial.world.loop.steps,
        trial.world.now_ms / 1000,
        trial.watch.recorder.operations,
        trial.oracle.graves.count,
        trial.unjudged,
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
        raise Violation(f"{EXCEPTION}: {type(cause).__name__}", f"{defect}: {cause!r}") from defect
    except InvariantViolation as violation:
        raise Violation("an invariant", str(violation)) from violation


def config_of(cluster: Cluster) -> Config:
    """Return the configuration of a scenario's cluster.  Its limits may lie beyond what a cluster file may say."""
    store = StoreConfig(
        replicas=cluster.replicas,
        q1=cluster.q1,
        q2=cluster.q2,
        durability=cluster.durability,
        mix=cluster.mix,
        gc_grace_s=cluster.gc_grace_s or StoreConfig.gc_grace_s,
    )
    nodes = tuple(NodeConfig(node.id, node.host, node.port) for node in local(cluster.nodes).nodes)
    limits: dict[str, Any] = {**HEALING, **dict(cluster.limits)}
    return Config("sim", nodes, Path("nowhere"), PARTITIONS, {"default": store}, Limits(**limits))


class Trial:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, on_event: OnEvent | None = None) -> None:
        self.scenario = scenario
        cluster = scenario.cluster
        self.world = SimWorld(scenario.seed, config_of(cluster), fifo=cluster.is_fifo)
        self.world.on_event = on_event
        self.world.loop.step_max = _STEPS_MAX
        self.oracle = Oracle(
            cluster.q2,
            replicas=cluster.replicas,
            now_ms=lambda: self.world.now_ms,
            kept_ms=kept_ms(is_purged=cluster.gc_grace_s > 0),
            grace_ms=1000 * cluster.gc_grace_s if clocks_are_right(scenario) else 0,
        )
        if cluster.durability == "os":
            self.world.watch(on_written=self.oracle.on_durable)
        else:
            self.world.watch(on_durable=self.oracle.on_durable, on_written=self.oracle.on_written)
        self.watch = Watch(self.world, self.oracle, scenario.value_bytes)
        self.nemesis = Nemesis(self.world, scenario, self._on_start)
        self.unjudged = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def _on_start(self, host: SimHost) -> None:
        """A process was started."""
        witness(host, self.oracle)
        if host.is_up and not self.scenario.cluster.compares and not self.nemesis.is_over:
            stop_comparing(host)

    def go(self) -> None:
        """Run it.  Raises Violation."""
        with hastened(is_purged=self.scenario.cluster.gc_grace_s > 0):
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
            await asyncio.wait([*self._working(), faults], timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        faults.cancel()
        self.world.tell("heal")
        await self.nemesis.heal()
        await self._clients_end()
        await Rest(self.scenario, self.watch, self.nemesis).come()

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

    def _judge(self) -> None:
        """Judge what clients saw."""
        report = judge(self.watch.recorder.operations)
        self.unjudged = len(report.unknown)
        for finding in report.findings:
            broken(finding.checker, f"{finding.key}: {finding.message}", map(_line, finding.evidence))


def _line(operation: Operation) -> str:
    """Return an operation as a line of evidence: when, who, what."""
    asked_ms = operation.call_ns / 1e6 - EPOCH_S * 1000
    until = "?" if operation.return_ns is None else f"{operation.return_ns / 1e6 - EPOCH_S * 1000:.3f}"
    return f"{asked_ms:.3f} to {until} ms  process {operation.process}: {describe(operation)}"


def _longest_s(act: Act) -> float:
    return (act.timeout_ms / 1000 + 1.0) * (len(act.keys) + 9) + act.pause_ms / 1000
