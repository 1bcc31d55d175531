"""One run of chaos: a cluster, its clients, one window of nemeses after the other, rest, healing, and the last reads.

Decides: the order of these, and what counts as a nemesis that failed by itself.  Leaves to others: the plan, the
nemeses, the clients, and the verdict.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from checkers.history import Recorder
from checkers.operation import Operation

import kvclient
from kvclient import Kv
from kvnode.cli import probe
from scripts.havoc.agreement import HEAL_S, RESOLVER_S, Healed, until_agreed
from scripts.havoc.attack import Attack, Nemesis
from scripts.havoc.cluster import Cluster, Death
from scripts.havoc.healing import Counts, Tally
from scripts.havoc.probes import Probe
from scripts.havoc.schedule import Plan
from scripts.havoc.workload import Load, Unread

Say = Callable[[str], None]
AFTER_FAULTS: Final = "after the last fault"
AT_REST: Final = "at rest"


@dataclass
class Window:
    """A time in which nemeses ran, and what they said that they did."""

    nemeses: tuple[Nemesis, ...]
    begin_ns: int
    end_ns: int = 0
    """When everything was as it should be again."""
    events: list[tuple[int, str]] = field(default_factory=list)
    healed: Healed | None = None
    """What became, before the next window, of the keys that nobody used any more."""
    repairs: Counts = field(default_factory=Counts)
    """What healed replicas meanwhile."""

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
    heal_s: float = field(default=HEAL_S, kw_only=True)
    """Within which replicas must come to agree."""
    begin_ns: int = 0
    hold_ns: int = 0
    """When, after the last fault, all clients were told to wait until replicas agree."""
    rest_ns: int = 0
    """When they went on."""
    end_ns: int = 0
    windows: list[Window] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    ahead_until_ns: dict[str, int] = field(default_factory=dict)
    """Until when nodes may refuse writes also at rest (see `Cluster.ahead_until_s`)."""
    healed: dict[str, Healed] = field(default_factory=dict)
    """What became of all keys, by the moment, while no client did anything."""
    repairs: Counts = field(default_factory=Counts)
    """What healed replicas, from the beginning until then."""
    probes: list[Probe] = field(default_factory=list)
    """What nodes with full disks answered."""
    troubles: list[str] = field(default_factory=list)
    """Nodes that did not come back, and nemeses that could not do their work."""


async def run(cluster: Cluster, course: Course, recorder: Recorder, clients: int, say: Say) -> None:
    """Run the plan of `course`, and enter into it what happened."""
    rng = random.Random(course.plan.seed)
    load = Load(cluster, recorder, random.Random(rng.getrandbits(64)))
    tally = Tally(cluster.hosts)
    course.begin_ns = time.monotonic_ns()
    async with asyncio.TaskGroup() as group, await kvclient.connect(cluster.addresses) as kv:
        group.create_task(load.run(clients))
        group.create_task(tally.run(load.stop))
        await asyncio.sleep(course.plan.calm_s)
        quiet: list[str] = []
        for number, nemeses in enumerate(course.plan.windows, 1):
            before = tally.counts
            window = await _window(cluster, course, nemeses, random.Random(rng.getrandbits(64)), say)
            left_s = course.plan.window_s - (window.end_ns - window.begin_ns) / 1e9
            if number < len(course.plan.windows):
                quiet = await _mend(kv, window, quiet + load.keys.take_quiet(), course.plan.mend_s + max(0.0, left_s))
            else:
                course.hold_ns = time.monotonic_ns()
                await _come_to_agree(cluster, course, load, AFTER_FAULTS, say)
            window.repairs = tally.counts.since(before)
            cluster.end_excuses()
        course.rest_ns = time.monotonic_ns()
        say("everything is mended; the cluster comes to rest")
        load.go.set()
        await asyncio.sleep(course.plan.quiesce_s)
        load.stop.set()
    course.end_ns = time.monotonic_ns()
    await _come_to_agree(cluster, course, load, AT_REST, say)
    tally.look(await probe.statuses(cluster.hosts))
    course.repairs = tally.counts
    say(f"reading all {len(load.keys.names)} keys from every node")
    await load.read_quietly()
    await load.read_finally()
    course.operations = recorder.operations
    course.unread = load.unread
    course.ahead_until_ns = {name: int(until_s * 1e9) for name, until_s in cluster.ahead_until_s.items()}
    course.deaths = cluster.deaths()


async def _mend(kv: Kv, window: Window, keys: list[str], seconds: float) -> list[str]:
    """Let nothing be wrong for some time, and see how soon the replicas of some unused keys agree; return the others.

    Clients go on with other keys meanwhile, so nobody reads these.
    """
    began_s = time.monotonic()
    window.healed = await until_agreed(kv, keys, seconds)
    await asyncio.sleep(max(0.0, began_s + seconds - time.monotonic()))
    return [state.key for state in window.healed.differing]


async def _come_to_agree(cluster: Cluster, course: Course, load: Load, moment: str, say: Say) -> None:
    """Wait until all replicas of every key hold the same; nobody reads meanwhile, and nobody writes."""
    await load.hold()
    names = list(load.keys.names)
    say(f"{moment}: nobody asks; the replicas of {len(names)} keys must come to agree within {course.heal_s:g} s")
    async with await kvclient.connect(cluster.addresses) as kv:
        healed = await until_agreed(kv, names, course.heal_s + cluster.ahead_s(RESOLVER_S), cluster.hosts)
    course.healed[moment] = healed
    say("  they do not" if healed.after_s is None else f"  they do after {healed.after_s:.1f} s")


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

    def attack() -> Attack:
        own = random.Random(rng.getrandbits(64))
        return Attack(cluster, own, course.plan.window_s, note, course.probes.append, len(nemeses) == 1)

    attacks = [nemesis.run(attack()) for nemesis in nemeses]
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
