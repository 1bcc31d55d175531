"""One run of chaos: a cluster, its clients, one window of nemeses after the other, rest, and the last reads.

Decides: the order of these, and what counts as a nemesis that failed by itself.  Leaves to others: the plan, the
nemeses, the clients, and the verdict.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from checkers.history import Recorder
from checkers.operation import Operation

from scripts.havoc.cluster import Cluster, Death
from scripts.havoc.nemeses import Attack, Nemesis
from scripts.havoc.schedule import Plan
from scripts.havoc.workload import Load, Unread

Say = Callable[[str], None]


@dataclass
class Window:
    """A time in which nemeses ran, and what they said that they did."""

    nemeses: tuple[Nemesis, ...]
    begin_ns: int
    end_ns: int = 0
    """When everything was as it should be again."""
    events: list[tuple[int, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The nemeses by name."""
        return " + ".join(nemesis.name for nemesis in self.nemeses)


@dataclass
class Course:
    """What happened in a run."""

    plan: Plan
    nodes: int
    disk: str
    """Where the full disk comes from."""
    begin_ns: int = 0
    rest_ns: int = 0
    """When the last fault had been mended."""
    end_ns: int = 0
    windows: list[Window] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    were_ahead: set[str] = field(default_factory=set)
    """Nodes that may refuse writes also at rest (see `Cluster.were_ahead`)."""
    troubles: list[str] = field(default_factory=list)
    """Nodes that did not come back, and nemeses that could not do their work."""


async def run(cluster: Cluster, course: Course, recorder: Recorder, clients: int, say: Say) -> None:
    """Run the plan of `course`, and enter into it what happened."""
    rng = random.Random(course.plan.seed)
    load = Load(cluster, recorder, random.Random(rng.getrandbits(64)))
    course.begin_ns = time.monotonic_ns()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(clients))
        await asyncio.sleep(course.plan.calm_s)
        for nemeses in course.plan.windows:
            window = await _window(cluster, course, nemeses, random.Random(rng.getrandbits(64)), say)
            left_s = course.plan.window_s - (window.end_ns - window.begin_ns) / 1e9
            await asyncio.sleep(course.plan.mend_s + max(0.0, left_s))
        course.rest_ns = time.monotonic_ns()
        say("everything is mended; the cluster comes to rest")
        await asyncio.sleep(course.plan.quiesce_s)
        load.stop.set()
    course.end_ns = time.monotonic_ns()
    say(f"reading all {len(load.keys.names)} keys from every node")
    await load.read_finally()
    course.operations = recorder.operations
    course.unread = load.unread
    course.were_ahead = cluster.were_ahead
    course.deaths = cluster.deaths()


async def _window(
    cluster: Cluster, course: Course, nemeses: tuple[Nemesis, ...], rng: random.Random, say: Say
) -> Window:
    """Let nemeses run together, then mend whatever is still broken."""
    window = Window(nemeses, time.monotonic_ns())
    course.windows.append(window)
    say(f"{window.name}")

    def note(words: str) -> None:
        window.events.append((time.monotonic_ns(), words))
        say(f"  {words}")

    attacks = (
        nemesis.run(Attack(cluster, random.Random(rng.getrandbits(64)), course.plan.window_s, note))
        for nemesis in nemeses
    )
    for nemesis, outcome in zip(nemeses, await asyncio.gather(*attacks, return_exceptions=True), strict=True):
        if isinstance(outcome, BaseException):
            note(f"{nemesis.name} could not go on: {outcome}")
            course.troubles.append(f"{window.name}: {nemesis.name} could not go on: {outcome!r}")
    try:
        await cluster.restore()
    except Exception as error:
        note(f"not everything could be mended: {error}")
        course.troubles.append(f"{window.name}: not everything could be mended: {error}")
    window.end_ns = time.monotonic_ns()
    return window
