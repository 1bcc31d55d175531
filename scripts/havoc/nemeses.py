"""The nemeses: what is done to a cluster, each with what must hold all the same (docs/testing.md, section 5).

Decides: whom a nemesis hurts, how, and for how long within its time; each mends what it has broken before it ends.
Leaves to others: which run together (`schedule`), and whether the promise was kept (`verdict`).

Two nemeses that use the same means would undo each other's work; others run in pairs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Literal, NamedTuple

from kvnode.local.partition import cuts_of
from kvnode.storage.engine import LEAVE_DOWN
from scripts.havoc import disks
from scripts.havoc.cluster import Cluster, LocalError

Means = Literal["process", "cut", "pace", "clock", "disk"]
MAJORITY_SERVES = "A majority serves: no acknowledged write is lost, no strong read is stale, nothing happens twice."
NOTHING_LOST = "Nothing that was acknowledged is lost; what was unknown is settled one way for ever."
CLOCK_FREE = "No effect on safety: strong operations do not trust clocks, and no stamp is used twice."


@dataclass(frozen=True)
class Attack:
    """One run of a nemesis."""

    cluster: Cluster
    rng: random.Random
    seconds: float
    say: Callable[[str], None]

    async def wait(self, part: float) -> None:
        """Let a part of the time pass."""
        await asyncio.sleep(self.seconds * part)

    def victim(self) -> str:
        """Draw a node."""
        return self.rng.choice(self.cluster.names)

    def victims(self, count: int) -> list[str]:
        """Draw some nodes."""
        return self.rng.sample(self.cluster.names, count)

    def everyone(self) -> set[tuple[str, str]]:
        """Every link."""
        return set(permutations(self.cluster.names, 2))


class Nemesis(NamedTuple):
    """One way to hurt a cluster."""

    name: str
    means: frozenset[Means]
    what: str
    promise: str
    run: Callable[[Attack], Awaitable[None]]


NEMESES: dict[str, Nemesis] = {}
Run = Callable[[Attack], Awaitable[None]]


def nemesis(promise: str, *means: Means) -> Callable[[Run], Run]:
    """Enter a function into the catalogue, under its own name and with its own words."""

    def enter(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        NEMESES[name] = Nemesis(name, frozenset(means), (run.__doc__ or "").strip(), promise, run)
        return run

    return enter


# -- processes


async def _kill(attack: Attack, victims: list[str]) -> None:
    attack.say(f"SIGKILL to {', '.join(victims)}")
    await attack.cluster.kill(*victims)
    await attack.wait(0.5)
    attack.say(f"{', '.join(victims)} started again")
    await attack.cluster.restart(*victims)


@nemesis(MAJORITY_SERVES, "process")
async def kill_one(attack: Attack) -> None:
    """Kill a node with SIGKILL, and start it again."""
    await _kill(attack, attack.victims(1))


@nemesis(NOTHING_LOST + " Without a majority strong operations are refused.", "process")
async def kill_majority(attack: Attack) -> None:
    """Kill more than half of the nodes at once."""
    await _kill(attack, attack.victims(attack.cluster.majority))


@nemesis(NOTHING_LOST, "process")
async def kill_all(attack: Attack) -> None:
    """Kill every node at once."""
    await _kill(attack, attack.victims(len(attack.cluster.names)))


@nemesis(MAJORITY_SERVES + " What the paused node says late does no harm: it trusts no lease.", "process")
async def pause(attack: Attack) -> None:
    """Stop a node in its tracks (SIGSTOP); it goes on later as if nothing had happened."""
    victim = attack.victim()
    attack.say(f"SIGSTOP to {victim}")
    await attack.cluster.pause(victim)
    try:
        await attack.wait(0.6)
    finally:
        await attack.cluster.resume(victim)
        attack.say(f"{victim} goes on")


@nemesis(MAJORITY_SERVES + " Draining leaves no outcome unknown.", "process")
async def restart(attack: Attack) -> None:
    """Drain a node (SIGTERM) and start it again."""
    victim = attack.victim()
    attack.say(f"{victim} is drained and started again")
    await attack.cluster.restart(victim)


@nemesis(MAJORITY_SERVES + " Draining leaves no outcome unknown.", "process")
async def rolling_restart(attack: Attack) -> None:
    """Drain and start every node, one after the other."""
    for name in attack.victims(len(attack.cluster.names)):
        attack.say(f"{name} is drained and started again")
        await attack.cluster.restart(name)
        await attack.wait(0.1)


# -- the network: cuts


async def _cut(attack: Attack, pairs: set[tuple[str, str]], words: str, part: float = 0.75) -> None:
    attack.say(words)
    await attack.cluster.cut(pairs)
    try:
        await attack.wait(part)
    finally:
        await attack.cluster.cut(())
        attack.say("the network is whole")


@nemesis(MAJORITY_SERVES + " The minority refuses quickly, and shows nothing stale as strong.", "cut")
async def partition(attack: Attack) -> None:
    """Cut the network into a majority and a minority."""
    side = set(attack.victims(attack.cluster.majority))
    rest = set(attack.cluster.names) - side
    await _cut(attack, cuts_of([side, rest]), f"cut: {', '.join(sorted(side))} | {', '.join(sorted(rest))}")


@nemesis("Progress wherever a coordinator reaches a quorum: no stable leader is needed.", "cut")
async def bridge(attack: Attack) -> None:
    """Cut the network so that one node sees both sides, which do not see each other."""
    names = attack.victims(len(attack.cluster.names))
    middle = len(names) // 2
    sides = [set(names[: middle + 1]), set(names[middle:])]
    await _cut(attack, cuts_of(sides), f"cut: {names[middle]} bridges the others")


@nemesis(
    "Progress wherever a coordinator reaches a quorum and hears it; of three nodes none does, until it ends.", "cut"
)
async def ring(attack: Attack) -> None:
    """Let every node hear only its neighbours in a ring; of three nodes, let each be deaf to the one before it."""
    names = attack.victims(len(attack.cluster.names))
    count = len(names)
    if count == 3:
        pairs = {(names[i], names[(i + 1) % 3]) for i in range(3)}
        words = "nothing passes " + ", ".join(f"{one} > {other}" for one, other in sorted(pairs))
    else:
        pairs = cuts_of([{names[i], names[(i + 1) % count]} for i in range(count)])
        words = "ring: " + " - ".join(names)
    await _cut(attack, pairs, words)


@nemesis(MAJORITY_SERVES, "cut")
async def one_way(attack: Attack) -> None:
    """Lose everything that one node says, or everything that it is told."""
    victim, is_mute = attack.victim(), attack.rng.random() < 0.5
    pairs = {pair for pair in attack.everyone() if pair[0 if is_mute else 1] == victim}
    await _cut(attack, pairs, f"{victim} is {'not heard by' if is_mute else 'deaf to'} the others")


@nemesis("No livelock: reconnecting backs off, and every operation ends.", "cut")
async def flapping(attack: Attack) -> None:
    """Cut one node off and mend it, again and again."""
    victim = attack.victim()
    pairs = {pair for pair in attack.everyone() if victim in pair}
    for _ in range(5):
        await _cut(attack, pairs, f"{victim} is cut off", 0.08)
        await attack.wait(0.08)


@nemesis("Every operation ends: refused at once, or unknown and settled afterwards.", "cut")
async def everyone_alone(attack: Attack) -> None:
    """Cut every link."""
    await _cut(attack, attack.everyone(), "every link is cut", 0.6)


# -- the network: pace


@nemesis("A slow minority does not set the pace: reads are hedged, quorums do not wait for it.", "pace")
async def slow_node(attack: Attack) -> None:
    """Delay everything to and from one node by up to a second."""
    victim = attack.victim()
    delay_ms = attack.rng.choice([50, 200, 1000])
    attack.say(f"links of {victim}: {delay_ms} ms more, each way")
    await attack.cluster.slow({pair for pair in attack.everyone() if victim in pair}, delay_ms, delay_ms // 2)
    await _quicken(attack)


@nemesis("Slower, and nothing else.", "pace")
async def slow_links(attack: Attack) -> None:
    """Delay every link, each read by another time."""
    attack.say("every link: 20 ms more, and up to 80 ms of jitter")
    await attack.cluster.slow(attack.everyone(), 20, 80)
    await _quicken(attack)


@nemesis("Slower, and nothing else: half a frame is waited for, not misread.", "pace")
async def drip(attack: Attack) -> None:
    """Let 100 kB a second through to and from one node, in small pieces."""
    victim = attack.victim()
    attack.say(f"links of {victim}: 100 kB a second")
    await attack.cluster.slow({pair for pair in attack.everyone() if victim in pair}, 0, 0, 100_000)
    await _quicken(attack)


async def _quicken(attack: Attack) -> None:
    try:
        await attack.wait(0.8)
    finally:
        await attack.cluster.slow((), 0)
        attack.say("the network is fast again")


@nemesis("No double effect: whoever asks again asks with the same operation id or stamp.", "pace")
async def resets(attack: Attack) -> None:
    """Reset connections between nodes, a few at a time."""
    attack.say("connections between nodes are reset, some every moment")
    for _ in range(12):
        await attack.cluster.reset(attack.rng.sample(sorted(attack.everyone()), 2))
        await attack.wait(0.06)


# -- clocks


async def _jumps(attack: Attack, offsets_ms: list[int]) -> None:
    victim = attack.victim()
    try:
        for _ in range(4):
            offset_ms = attack.rng.choice(offsets_ms)
            attack.say(f"the clock of {victim} is off by {offset_ms / 1000:+g} s")
            attack.cluster.set_clock(victim, offset_ms)
            await attack.wait(0.2)
    finally:
        attack.cluster.set_clock(victim)
        attack.say(f"the clock of {victim} is right")


@nemesis(CLOCK_FREE, "clock")
async def clock_jump(attack: Attack) -> None:
    """Let the clock of one node jump: back by up to five minutes, or ahead by as much as nodes tolerate."""
    await _jumps(attack, [-300_000, -5_000, -450, -200, 200, 450])


@nemesis(CLOCK_FREE + " It costs nobody but the node itself, and leaves nothing behind.", "clock")
async def clock_ahead(attack: Attack) -> None:
    """Let the clock of one node jump ahead, by up to five minutes, and be set right again."""
    await _jumps(attack, [5_000, 60_000, 300_000])


@nemesis(CLOCK_FREE, "clock")
async def clock_skew(attack: Attack) -> None:
    """Set every clock wrong, each in its way, within what nodes tolerate of each other."""
    for name in attack.cluster.names:
        attack.cluster.set_clock(name, attack.rng.randrange(-200, 200))
    attack.say("every clock is off by up to 0.2 s")
    await attack.wait(0.8)
    for name in attack.cluster.names:
        attack.cluster.set_clock(name)
    attack.say("every clock is right")


@nemesis(CLOCK_FREE + " The durable ceiling stands for the time before the restart.", "clock", "process")
async def clock_back_restart(attack: Attack) -> None:
    """Kill a node and start it again with its clock a minute behind."""
    victim = attack.victim()
    attack.say(f"SIGKILL to {victim}, and its clock goes back a minute")
    await attack.cluster.kill(victim)
    attack.cluster.set_clock(victim, -60_000)
    try:
        await attack.cluster.restart(victim)
        await attack.wait(0.5)
    finally:
        attack.cluster.set_clock(victim)
        attack.say(f"the clock of {victim} is right")


# -- disks


@nemesis(MAJORITY_SERVES + " Below its reserve a node refuses writes, reads go on; with room again it resumes.", "disk")
async def disk_full(attack: Attack) -> None:
    """Leave one node's disk with less room than its reserve."""
    disk = attack.cluster.small_disk
    if disk is None:
        victim = attack.victim()
        attack.say(f"the disk of {victim} counts as full (injected)")
        attack.cluster.set_disk(victim, is_full=True)
    else:
        victim = attack.cluster.names[0]
        attack.say(f"the disk of {victim} is filled up to its reserve")
        disk.fill(attack.cluster.config.limits.disk_reserve_bytes // 2)
    try:
        await attack.wait(0.75)
    finally:
        attack.cluster.set_disk(victim)
        if disk is not None:
            disk.free()
        attack.say(f"{victim} has room again")


@nemesis(
    MAJORITY_SERVES + " A node that cannot write stops, and serves again from what it had synced.", "disk", "process"
)
async def disk_no_room(attack: Attack) -> None:
    """Leave one node's disk without any room at all; only where it has one of its own, otherwise a sync fails."""
    disk = attack.cluster.small_disk
    if disk is None:
        await failing_sync(attack)
        return
    victim = attack.cluster.names[0]
    attack.cluster.excuse(victim, "No space left on device")
    attack.say(f"the disk of {victim} is filled to the last byte")
    disk.fill(0)
    try:
        await attack.wait(0.5)
    finally:
        disk.free()
        attack.say(f"{victim} has room again")
        if await attack.cluster.status(victim) != "serving":
            await attack.cluster.restart(victim)


@nemesis("Latency of that node only: a quorum does not wait for its disk.", "disk")
async def slow_sync(attack: Attack) -> None:
    """Let every sync of one node take up to a second more."""
    victim, delay_s = attack.victim(), attack.rng.choice([0.05, 0.3, 1.0])
    attack.say(f"every sync of {victim} takes {delay_s:g} s more")
    attack.cluster.set_disk(victim, sync_delay_s=delay_s)
    try:
        await attack.wait(0.8)
    finally:
        attack.cluster.set_disk(victim)
        attack.say(f"{victim} syncs as before")


@nemesis(MAJORITY_SERVES + " The node stops at once: a failed sync is never retried.", "disk", "process")
async def failing_sync(attack: Attack) -> None:
    """Let one sync of one node fail, its rows lost or, unknown to everybody, kept."""
    victim, failure = attack.victim(), attack.rng.choice(["lost", "kept"])
    attack.cluster.excuse(victim, "made on purpose")
    attack.say(f"the next sync of {victim} fails, its rows are {failure}")
    attack.cluster.set_disk(victim, sync_failure=failure)
    try:
        await attack.wait(0.5)
    finally:
        attack.cluster.set_disk(victim)
        attack.say(f"{victim} is started again")
        await attack.cluster.restart(victim)


@nemesis(NOTHING_LOST + " A record that was never acknowledged is cut off at recovery.", "disk", "process")
async def torn_tail(attack: Attack) -> None:
    """Kill a node in the middle of a write: its log ends in half a record."""
    victim = attack.victim()
    await attack.cluster.kill(victim)
    attack.say(f"SIGKILL to {victim}: {disks.tear_tail(attack.cluster.rows(victim), attack.rng)}")
    await attack.wait(0.3)
    await attack.cluster.restart(victim)


@nemesis(
    "Never served, never passed on: the node stops or refuses to start, and says which file is damaged.",
    "disk",
    "process",
)
async def bit_flip(attack: Attack) -> None:
    """Turn over one bit of one node's files, and turn it back afterwards."""
    victim = attack.victim()
    attack.cluster.excuse(victim, LEAVE_DOWN)
    await attack.cluster.kill(victim)
    flip = disks.Flip.draw(attack.cluster.rows(victim), attack.rng)
    flip.turn()
    attack.say(f"{victim}: {flip} is turned over")
    try:
        await attack.cluster.restart(victim)
        await attack.wait(0.4)
        noticed = await attack.cluster.status(victim) != "serving"
        attack.say(f"{victim} {'stopped when it read it' if noticed else 'has not read it, or need not'}")
    except LocalError as refusal:
        if LEAVE_DOWN not in str(refusal):
            raise
        attack.say(f"{victim} refuses to start: {_damage(str(refusal), attack.cluster.rows(victim))}")
        await attack.wait(0.3)
    finally:
        await attack.cluster.kill(victim)
        flip.turn()
        await attack.cluster.restart(victim)
        attack.say(f"{victim}: the bit is turned back")


def _damage(words: str, rows: Path) -> str:
    """Return what a node says is damaged, without what to do about it."""
    line = next((line for line in words.splitlines() if LEAVE_DOWN in line), words)
    return line.partition("; this node")[0].rpartition("kvnode: ")[2].replace(str(rows), "rows")
