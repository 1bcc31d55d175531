"""The nemeses: what is done to a cluster, each with what must hold all the same (docs/testing.md, section 5).

Decides: whom a nemesis hurts, how, and for how long within its time; each mends what it has broken before it ends.
Leaves to others: what is done to disks (`nemeses_of_disks`), which run together (`schedule`), and whether the promise
was kept (`verdict`).

Two nemeses that use the same means would undo each other's work; others run in pairs.
"""

from __future__ import annotations

from kvnode.local.partition import cuts_of
from scripts.havoc.attack import CLOCK_FREE, MAJORITY_SERVES, NOTHING_LOST, Attack, nemesis

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
