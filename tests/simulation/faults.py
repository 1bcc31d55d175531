"""The kinds of faults: what each draws, and what it makes of the world while it lasts.

Decides: which links, disks, clocks and processes are wrong while a set of faults is active.  Leaves to others: making
it so (`nemesis`), how often and when (`swarm`).

Faults overlap freely, for a state of the world is a function of the faults that are active and of nothing else: when
one ends, what the others say stands.  A *blow* happens once, when its fault begins.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from simulation.scenario import Cluster, Fault

ALL_GROUPS: Final = 1 << 30
"""Unsynced groups that a crash keeps if only the process ends, and not the power."""

Pair = tuple[int, int]


class Size(NamedTuple):
    """How many nodes and clients there are."""

    nodes: int
    clients: int


Drawn = tuple[tuple[int, ...], float]


@dataclass
class Weather:
    """Everything that is wrong at a moment.  Pairs are directed links; numbers are nodes, and after them clients."""

    down: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)
    """Shut down in order; `down` goes before it."""
    paused: set[int] = field(default_factory=set)
    blocked: set[Pair] = field(default_factory=set)
    """Bytes wait here until the end of the block, or of the connection."""
    refused: set[Pair] = field(default_factory=set)
    delays_ms: dict[Pair, float] = field(default_factory=dict)
    dripping: set[Pair] = field(default_factory=set)
    losses: dict[Pair, float] = field(default_factory=dict)
    """Parts of what is sent that must be sent again, as TCP does."""
    bytes_per_s: dict[Pair, float] = field(default_factory=dict)
    slow_disks_ms: dict[int, float] = field(default_factory=dict)
    held_disks: set[int] = field(default_factory=set)
    full_disks: set[int] = field(default_factory=set)
    unreadable_disks: set[int] = field(default_factory=set)
    offsets_ms: dict[int, int] = field(default_factory=dict)
    drifts: dict[int, float] = field(default_factory=dict)
    """Parts by which a clock runs too fast."""
    frozen: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    what: str
    """Of `nodes` and `amount`, for people."""
    draw: Callable[[random.Random, Cluster, int], Drawn]
    spoil: Callable[[Weather, Fault, Size], None] = lambda weather, fault, size: None
    """Add to the weather what the fault does while it lasts; a blow only (see `nemesis`) adds nothing."""
    fits: Callable[[Cluster], bool] = lambda cluster: True
    """Whether the fault means anything to such a cluster."""


# -- what is drawn


def _one(*amounts: float) -> Callable[[random.Random, Cluster, int], Drawn]:
    """Draw one node."""
    return lambda rng, cluster, clients: ((rng.randrange(cluster.nodes),), rng.choice(amounts or (0,)))


def _pair(*amounts: float) -> Callable[[random.Random, Cluster, int], Drawn]:
    """Draw two different nodes, or a node and a client."""

    def draw(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
        pair = rng.sample(range(cluster.nodes), 2)
        if rng.random() < 0.4:
            pair[rng.randrange(2)] = cluster.nodes + rng.randrange(clients)
        return tuple(pair), rng.choice(amounts or (0,))

    return draw


def _side(*amounts: float) -> Callable[[random.Random, Cluster, int], Drawn]:
    """Draw some nodes, not all."""

    def draw(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
        count = rng.randint(1, cluster.nodes - 1)
        return tuple(sorted(rng.sample(range(cluster.nodes), count))), rng.choice(amounts or (0,))

    return draw


def _sides(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
    """Draw the middle of a bridge and the nodes on one side of it; on the other there is one at least."""
    return tuple(rng.sample(range(cluster.nodes), rng.randint(2, cluster.nodes - 1))), 0


def _unsynced(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
    """Draw one node, and how many unsynced groups survive."""
    return (rng.randrange(cluster.nodes),), rng.choice((0, 0, 1, 3))


def _apart(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
    """Draw some nodes, and which clients are on their side (none: all clients see everybody)."""
    nodes, _ = _side()(rng, cluster, clients)
    return nodes, rng.choice((0, rng.getrandbits(clients)))


def _victims(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
    """Draw one node, several, or all, and how many unsynced groups survive on each."""
    count = rng.choice((1, 1, 1, 2, max(1, cluster.replicas // 2), cluster.nodes))
    kept = ALL_GROUPS if cluster.durability == "os" else rng.choice((0, 0, 1, 3))
    return tuple(sorted(rng.sample(range(cluster.nodes), count))), kept


def _steered(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
    """Draw a client and the one or two nodes that it reaches."""
    count = rng.choice((1, 1, 2))
    return tuple(sorted(rng.sample(range(cluster.nodes), count))), rng.randrange(clients)


def _client(rng: random.Random, cluster: Cluster, clients: int) -> Drawn:
    return (), rng.randrange(clients)


# -- what it does


def _between(one: set[int], other: set[int]) -> set[Pair]:
    return {(a, b) for a in one for b in other if a != b}


def _partition(weather: Weather, fault: Fault, size: Size) -> None:
    side = set(fault.nodes)
    rest = set(range(size.nodes)) - side
    if fault.amount:
        for client in range(size.clients):
            (side if int(fault.amount) >> client & 1 else rest).add(size.nodes + client)
    weather.blocked |= _between(side, rest) | _between(rest, side)


def _steer(weather: Weather, fault: Fault, size: Size) -> None:
    client = size.nodes + int(fault.amount)
    weather.refused |= {(client, node) for node in range(size.nodes) if node not in fault.nodes}


def _bridge(weather: Weather, fault: Fault, size: Size) -> None:
    """The first node sees all; the others of the fault and the rest do not see each other."""
    _, *left = fault.nodes
    right = set(range(size.nodes)) - set(fault.nodes)
    weather.blocked |= _between(set(left), right) | _between(right, set(left))


def _ring(weather: Weather, fault: Fault, size: Size) -> None:
    """Each node sees its neighbours on a ring, which for five nodes are a majority."""
    far = {(a, b) for a in range(size.nodes) for b in range(size.nodes) if 1 < (a - b) % size.nodes < size.nodes - 1}
    weather.blocked |= far


def _slow_links(weather: Weather, fault: Fault, size: Size) -> None:
    for node in fault.nodes:
        for other in range(size.nodes):
            for pair in ((node, other), (other, node)):
                weather.delays_ms[pair] = max(fault.amount, weather.delays_ms.get(pair, 0.0))


def _slow_link(weather: Weather, fault: Fault, size: Size) -> None:
    pair = fault.nodes[0], fault.nodes[1]
    weather.delays_ms[pair] = max(fault.amount, weather.delays_ms.get(pair, 0.0))


def _drip(weather: Weather, fault: Fault, size: Size) -> None:
    weather.dripping |= {(node, other) for node in fault.nodes for other in range(size.nodes)}


def _lossy_link(weather: Weather, fault: Fault, size: Size) -> None:
    pair = fault.nodes[0], fault.nodes[1]
    weather.losses[pair] = max(fault.amount, weather.losses.get(pair, 0.0))


def _narrow_link(weather: Weather, fault: Fault, size: Size) -> None:
    pair = fault.nodes[0], fault.nodes[1]
    weather.bytes_per_s[pair] = min(fault.amount, weather.bytes_per_s.get(pair, inf))


def _slow_disk(weather: Weather, fault: Fault, size: Size) -> None:
    for node in fault.nodes:
        weather.slow_disks_ms[node] = max(fault.amount, weather.slow_disks_ms.get(node, 0.0))


def _wrong_clock(weather: Weather, fault: Fault, size: Size) -> None:
    for node in fault.nodes:
        weather.offsets_ms[node] = weather.offsets_ms.get(node, 0) + int(fault.amount)


def _drift(weather: Weather, fault: Fault, size: Size) -> None:
    for node in fault.nodes:
        weather.drifts[node] = weather.drifts.get(node, 0.0) + fault.amount


KINDS: Final[dict[str, Kind]] = {
    "crash": Kind(
        "kill -9 and power loss of `nodes`; `amount` unsynced groups survive",
        _victims,
        lambda weather, fault, size: weather.down.update(fault.nodes),
    ),
    "stop": Kind(
        "`nodes` are shut down in order, and started again",
        _one(),
        lambda weather, fault, size: weather.stopped.update(fault.nodes),
    ),
    "pause": Kind(
        "the processes `nodes` do not run (SIGSTOP), and go on",
        _side(),
        lambda weather, fault, size: weather.paused.update(fault.nodes),
    ),
    "partition": Kind("`nodes`, and the clients in the bits of `amount`, and the others are apart", _apart, _partition),
    "bridge": Kind("two sides see each other's middle only, the first of `nodes`", _sides, _bridge),
    "ring": Kind("each node sees two neighbours only", _one(), _ring, lambda cluster: cluster.nodes > 3),
    "one-way": Kind(
        "nothing comes through from the first of `nodes` to the second",
        _pair(),
        lambda weather, fault, size: weather.blocked.add((fault.nodes[0], fault.nodes[1])),
    ),
    "reset": Kind("the connections between the two are reset", _pair()),
    "half-open": Kind("what the two send to each other is lost, and neither is told", _pair()),
    "refuse": Kind(
        "the second of `nodes` takes no connections from the first",
        _pair(),
        lambda weather, fault, size: weather.refused.add((fault.nodes[0], fault.nodes[1])),
    ),
    "steered": Kind("client `amount` may connect to `nodes` only", _steered, _steer),
    "slow link": Kind(
        "the way from the first of `nodes` to the second is `amount` ms slower", _pair(5, 60, 400), _slow_link
    ),
    "slow node": Kind("all links of `nodes` are `amount` ms slower", _one(5, 60, 400), _slow_links),
    "drip": Kind("what `nodes` send comes in small pieces", _side(), _drip),
    "lossy link": Kind(
        "the part `amount` of what the first of `nodes` sends to the second is sent again, and again",
        _pair(0.02, 0.1, 0.3),
        _lossy_link,
    ),
    "narrow link": Kind(
        "`amount` bytes a second get through from the first of `nodes` to the second",
        _pair(20_000, 200_000),
        _narrow_link,
    ),
    "slow disk": Kind("a sync of `nodes` takes `amount` ms", _side(5, 60, 400), _slow_disk),
    "held disk": Kind(
        "nothing is written on `nodes`",
        _side(),
        lambda weather, fault, size: weather.held_disks.update(fault.nodes),
    ),
    "full disk": Kind(
        "the disks of `nodes` are full up to the reserve",
        _side(),
        lambda weather, fault, size: weather.full_disks.update(fault.nodes),
    ),
    "failing disk": Kind(
        "the next write of `nodes` fails: the node ends, and is started again",
        _one(),
    ),
    "unreadable disk": Kind(
        "rows of `nodes` cannot be read: the node ends when it tries, and is started again once they can",
        _one(),
        lambda weather, fault, size: weather.unreadable_disks.update(fault.nodes),
    ),
    "power loss": Kind(
        "`nodes` lose power where nothing was synced before it was acknowledged; `amount` groups survive (R48)",
        _unsynced,
        lambda weather, fault, size: weather.down.update(fault.nodes),
        lambda cluster: cluster.durability == "os",
    ),
    "misdirected write": Kind(
        "a row of `nodes` stands where another belongs; with `amount` the process is killed and must read again",
        _one(0, 1),
    ),
    "bit flip": Kind("a bit of a row of `nodes` flips at rest (the `amount`-th part of them)", _one(0.0, 0.5, 0.99)),
    "clock": Kind(
        "the clocks of `nodes` jump by `amount` ms, and back",
        _one(60, -60, 400, -400, 3000, -3000, 70_000, -70_000),
        _wrong_clock,
    ),
    "drift": Kind("the clocks of `nodes` run wrong by the part `amount`", _one(0.2, -0.2, 3.0, -0.9), _drift),
    "frozen clock": Kind(
        "the wall clocks of `nodes` stand still",
        _one(),
        lambda weather, fault, size: weather.frozen.update(fault.nodes),
    ),
    "hang up": Kind("all connections of client `amount` are reset", _client),
    "client": Kind("client `amount` ends at once, in the middle of its call", _client),
}


CLOCK_FAULTS: Final = ("clock", "drift", "frozen clock")
"""Those after which nobody can tell times by a node."""
LASTING: Final = ("bit flip", "misdirected write", "power loss")
"""Those that may put a node out for good (R46-R48)."""


def weather_of(active: list[Fault], cluster: Cluster, clients: int) -> Weather:
    """Return what is wrong while these faults are active."""
    size = Size(cluster.nodes, clients)
    weather = Weather()
    for node, offset_ms in enumerate(cluster.offsets_ms):
        weather.offsets_ms[node] = offset_ms
    for fault in active:
        KINDS[fault.kind].spoil(weather, fault, size)
    return weather
