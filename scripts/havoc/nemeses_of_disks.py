"""The nemeses of disks: full, slow, failing, torn, or with a bit turned over.

Decides and leaves to others what `nemeses` does.  What a full disk promises is asked of the nodes themselves
(`probes`), for a history does not show who was asked to write it.
"""

from __future__ import annotations

from pathlib import Path

from kvnode.storage.engine import LEAVE_DOWN
from scripts.havoc import disks, probes
from scripts.havoc.attack import MAJORITY_SERVES, NOTHING_LOST, Attack, nemesis
from scripts.havoc.cluster import LocalError


def _fill(attack: Attack, name: str) -> None:
    """Leave a disk less room than its reserve; one that a node does not have for itself only counts as full."""
    disk = attack.cluster.small_disk
    if disk is not None and name == attack.cluster.names[0]:
        attack.say(f"the disk of {name} is filled up to its reserve")
        disk.fill(attack.cluster.config.limits.disk_reserve_bytes // 2)
    else:
        attack.say(f"the disk of {name} counts as full (injected)")
        attack.cluster.set_disk(name, is_full=True)


def _free(attack: Attack, names: list[str]) -> None:
    if attack.cluster.small_disk is not None:
        attack.cluster.small_disk.free()
    for name in names:
        attack.cluster.set_disk(name)
    attack.say(f"{', '.join(names)} {'have' if len(names) > 1 else 'has'} room again")


@nemesis(MAJORITY_SERVES + " Below its reserve a node refuses writes, reads go on; with room again it resumes.", "disk")
async def disk_full(attack: Attack) -> None:
    """Leave one node's disk with less room than its reserve."""
    victim = attack.cluster.names[0] if attack.cluster.small_disk is not None else attack.victim()
    keys = await probes.prepare(attack.cluster, [victim] if attack.is_alone else [])
    _fill(attack, victim)
    try:
        await attack.wait(0.3)
        await probes.read(attack.cluster, keys, attack.show)
        await attack.wait(0.3)
    finally:
        _free(attack, [victim])
    await probes.write(attack.cluster, keys, attack.show)


@nemesis(NOTHING_LOST + " Every write is refused as not applied, reads go on; with room again writes succeed.", "disk")
async def disks_full(attack: Attack) -> None:
    """Leave every node's disk with less room than its reserve."""
    names = attack.cluster.names
    keys = await probes.prepare(attack.cluster, names if attack.is_alone else [])
    for name in names:
        _fill(attack, name)
    try:
        await attack.wait(0.3)
        await probes.read(attack.cluster, keys, attack.show)
        await probes.be_refused(attack.cluster, keys, attack.show)
        await attack.wait(0.1)
    finally:
        _free(attack, names)
    await probes.write(attack.cluster, keys, attack.show)


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
