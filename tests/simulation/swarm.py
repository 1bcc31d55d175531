"""Scenarios drawn from seeds.

Decides: what is drawn, and how often.  Leaves to others: what a fault does to the world (`faults`), what an operation
does through the client (`workload`), and the order of everything (the kernel's scheduler, seeded by `Scenario.seed`).

*Swarm*: each seed first draws which kinds of keys, operations and faults it has at all.  A run with everything at once
seldom gets deep into anything; a run without reads, say, lets unread writes pile up.

Sources: Groce et al., "Swarm testing" (2012); FoundationDB's BUGGIFY for the limits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from simulation import faults
from simulation.faults import CLOCK_FAULTS
from simulation.scenario import Act, Cluster, Fault, Scenario

SHAPES: Final = (
    *[(3, 3, 2, 2)] * 6,
    (3, 3, 1, 3),
    (3, 3, 3, 1),
    (4, 4, 2, 3),
    (5, 3, 2, 2),
    (5, 5, 3, 3),
    (5, 5, 2, 4),
    (7, 3, 2, 2),
)
"""(nodes, N, Q1, Q2): the smallest cluster most often, for it runs fastest and shows most."""

LIMITS: Final[dict[str, tuple[float, ...]]] = {
    "registers_max": (1, 2, 65536, 65536),
    "cached_promises_max": (0, 1, 65536, 65536),
    "key_queue_max": (2, 1024, 1024, 1024),
    "requests_in_flight_max": (6, 16384, 16384, 16384),
    "commit_delay_s": (0.0, 0.02, 0.02, 0.3),
    "round_timeout_s": (0.05, 0.2, 1.0),
    "backoff_max_s": (0.02, 0.25),
    "hedge_max_s": (0.004, 0.1),
    "max_offset_ms": (100, 500),
}
"""Bounds that a seed may draw far from their defaults, so that rare paths are walked often."""
STEADY: Final[dict[str, float]] = {"reconnect_min_s": 0.02, "reconnect_max_s": 0.2, "heartbeat_s": 0.3}
"""Bounds that all runs share: links come back and are found dead in the time scale of a run."""

OFFSETS_MS: Final = (0, 0, 60, -60, 400, -3000, 20_000)
"""How wrong a node's clock is, where clocks are wrong at all."""

KEY_KINDS: Final = ("strong", "mixed", "eventual", "ttl", "counter")
"""What is done to a key, told by the first letter of its name."""


@dataclass(frozen=True)
class Bias:
    """What all scenarios of a campaign have in common; what is None or empty is drawn.  For mutants that need more of
    something than the swarm gives them, and for looking at one thing by hand."""

    shapes: tuple[tuple[int, int, int, int], ...] = ()
    key_kinds: tuple[str, ...] = ()
    fs: tuple[str, ...] = ()
    faults: tuple[str, ...] | None = None
    limits: dict[str, float] = field(default_factory=dict)
    fault_count: int | None = None
    operations: int | None = None
    keys: int | None = None
    is_steered: bool | None = None
    sync_ms: float | None = None
    offsets_ms: tuple[int, ...] = ()
    """Among which each node's clock error is drawn."""
    horizon_ms: float | None = None
    compares: bool = True
    """False: replicas are not compared, so that hints must do."""
    copies: tuple[int, ...] = ()
    """Among which W and R of eventual calls are drawn."""
    is_purged: bool = False
    """True: deletes are purged during the run."""


NO_BIAS: Final = Bias()
"""Purges, and hints without comparisons, are drawn as well."""


def draw(seed: int, bias: Bias = NO_BIAS) -> Scenario:
    """Return the scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    cluster = _draw_cluster(rng, bias)
    horizon_ms = rng.choice((30.0, 300.0, 1000.0, 3000.0)) if bias.horizon_ms is None else bias.horizon_ms
    kinds = list(bias.key_kinds) or _some(rng, KEY_KINDS)
    if cluster.mix == "strong-only":
        kinds = [kind for kind in kinds if kind in ("strong", "ttl", "counter")] or ["strong"]
    chance = random.Random(f"purges and hints {seed}")  # a stream of its own: other seeds draw what they always drew
    is_purged, compares = chance.random() < PURGED_PART, chance.random() >= HINTED_PART
    if bias != NO_BIAS:
        is_purged, compares = bias.is_purged, bias.compares
    cluster = replace(cluster, compares=compares)
    if is_purged:
        cluster, bias, kinds, horizon_ms = _with_purges(chance, cluster, bias, kinds, horizon_ms)
    clients = _draw_clients(rng, bias, cluster, kinds, horizon_ms)
    if not compares:
        horizon_ms += (quiet_ms := chance.choice(QUIET_MS))
        clients = (
            *clients,
            (Act("get", clients[0][0].keys[:1], strong=False, pause_ms=horizon_ms if quiet_ms else 0),),
        )
    faults = _draw_faults(rng, bias, cluster, len(clients), horizon_ms)
    if not compares and chance.random() < 0.5:
        faults = (_absence(chance, cluster, horizon_ms), *faults)
    return Scenario(seed, cluster, clients, faults, rng.choice((0, 0, 0, 0, 300, 20_000)))


HINTED_PART: Final = 0.15
"""How many of the scenarios are healed by hints alone."""
QUIET_MS: Final = (0.0, 8000.0, 16_000.0)
"""How long faults go on after most calls, where hints must heal: a process that ends then owes, and has nothing on its
way.  A last reader keeps the run from ending."""
PURGED_PART: Final = 0.15
"""How many of the scenarios last long enough for purges, which takes some seconds."""


def _absence(rng: random.Random, cluster: Cluster, horizon_ms: float) -> Fault:
    """Let one node be out of the others' reach from the first moment on, and for long: hints add up."""
    return Fault("partition", 0.0, round(horizon_ms * rng.uniform(0.5, 1.0), 3), (rng.randrange(cluster.nodes),))


def _with_purges(
    rng: random.Random, cluster: Cluster, bias: Bias, kinds: list[str], horizon_ms: float
) -> tuple[Cluster, Bias, list[str], float]:
    """Let deletes be purged soon, and keys be left alone for long enough.

    With eventual writes clocks must be right: their age is judged by clocks, the one thing of a purge that is (R37).
    And comparisons, whose age nobody judges, must not be on their way for gc_grace: silent links end before.
    """
    is_eventual = bool({"mixed", "eventual"} & set(kinds))
    limits = {
        "scan_pause_s": rng.choice((0.5, 2.0)),
        "link_silence_s": 1.0 if is_eventual and cluster.compares else rng.choice((1.0, 5.0)),
        "max_offset_ms": 100,
    }
    cluster = replace(cluster, gc_grace_s=rng.choice((2, 2, 3)), limits=cluster.limits | limits | bias.limits)
    if not {"strong", "ttl", "mixed", "eventual"} & set(kinds):
        kinds = [*kinds, rng.choice(("strong", "ttl"))]
    if is_eventual:
        drawn = _some(rng, tuple(faults.KINDS)) if bias.faults is None else bias.faults
        bias = replace(bias, faults=tuple(kind for kind in drawn if kind not in CLOCK_FAULTS))
        cluster = replace(cluster, offsets_ms=())
    horizon_ms = rng.choice((4000.0, 8000.0, 12_000.0)) if bias.horizon_ms is None else bias.horizon_ms
    return cluster, replace(bias, keys=bias.keys or rng.choice((2, 3, 5, 8))), kinds, horizon_ms


def _some(rng: random.Random, things: Sequence[str]) -> list[str]:
    """Return a random subset, never empty, in the order given."""
    chosen = [thing for thing in things if rng.random() < 0.5]
    return chosen or [rng.choice(things)]


# -- the cluster


def _draw_cluster(rng: random.Random, bias: Bias) -> Cluster:
    nodes, replicas, q1, q2 = rng.choice(bias.shapes or SHAPES)
    limits: dict[str, float] = {name: rng.choice(values) for name, values in LIMITS.items() if rng.random() < 0.5}
    wrong = rng.random() < 0.3 or bool(bias.offsets_ms)
    return Cluster(
        nodes=nodes,
        replicas=replicas,
        q1=q1,
        q2=q2,
        durability="os" if rng.random() < 0.1 else "fsync",
        mix="strong-only" if rng.random() < 0.1 else "allow",
        limits=STEADY | limits | bias.limits,
        offsets_ms=tuple(rng.choice(bias.offsets_ms or OFFSETS_MS) for _ in range(nodes)) if wrong else (),
        delay_ms=rng.choice(((0.05, 0.2), (0.1, 1.0), (0.1, 10.0), (5.0, 6.0))),
        sync_ms=rng.choice((0.0, 0.0, 1.0, 8.0)) if bias.sync_ms is None else bias.sync_ms,
        is_fifo=rng.random() < 0.5,
    )


# -- what clients do

FS: Final[dict[str, dict[str, float]]] = {
    "strong": {"put": 3, "get": 4, "delete": 1, "cas": 3, "create": 2, "drop": 0.7, "both": 0.5, "weak get": 1},
    "mixed": {"put": 2, "get": 4, "cas": 2, "create": 1, "delete": 0.7, "weak put": 4, "weak get": 3, "weak delete": 1},
    "eventual": {"weak put": 4, "weak get": 4, "weak delete": 1},
    "ttl": {"put": 2, "get": 4, "cas": 1, "create": 1},
    "counter": {"add": 4, "get": 1},
}
"""How often each call is made of a key of each kind.  "drop" deletes over an ETag; "both" is a transaction of two."""
MANY: Final = ("put", "get", "weak put", "weak get")
"""Calls that may be made on several keys at once."""


def _draw_clients(
    rng: random.Random, bias: Bias, cluster: Cluster, kinds: list[str], horizon_ms: float
) -> tuple[tuple[Act, ...], ...]:
    keys = [f"{kinds[n % len(kinds)][0]}{n}" for n in range(bias.keys or rng.choice((1, 2, 3, 5)))]
    total = bias.operations or rng.choice((20, 40, 60, 100))
    count = rng.choice((2, 3, 3, 5, 8))
    weights = {f: rng.choice((0, 1, 1, 3)) for f in sorted({f for kind in FS.values() for f in kind})}
    pause_ms = horizon_ms * count / total * rng.choice((0.2, 0.6, 1.0))
    drawing = _Drawing(rng, bias, cluster, keys, weights, pause_ms, is_batched=rng.random() < 0.2)
    return tuple(tuple(drawing.act() for _ in range(max(1, total // count))) for _ in range(count))


@dataclass
class _Drawing:
    """What the operations of one scenario have in common."""

    rng: random.Random
    bias: Bias
    cluster: Cluster
    keys: list[str]
    weights: dict[str, int]
    pause_ms: float
    is_batched: bool

    def act(self) -> Act:
        """Return one operation."""
        rng = self.rng
        key = rng.choice((self.keys[0], rng.choice(self.keys)))
        kind = next(kind for kind in KEY_KINDS if kind[0] == key[0])
        f = self._call(FS[kind])
        is_strong = not f.startswith("weak")
        keys: tuple[str, ...] = (key,)
        if self.is_batched and f in MANY and kind != "ttl":
            keys = tuple(other for other in self.keys if other[0] == key[0])
        return Act(
            f=f.removeprefix("weak "),
            keys=keys,
            strong=is_strong,
            copies=0 if is_strong else self.rng.choice(self.bias.copies) if self.bias.copies else self._copies(f),
            ttl_ms=rng.choice((20, 200, 1000)) if kind == "ttl" and f in ("put", "cas", "create") else 0,
            timeout_ms=rng.choice(
                (150, 300, 600) if self.cluster.gc_grace_s or not self.cluster.compares else (150, 600, 2000, 5000)
            ),
            pause_ms=round(rng.expovariate(1.0) * self.pause_ms, 3),
            option=self._option(f),
        )

    def _call(self, usual: dict[str, float]) -> str:
        names = [name for name in usual if not self.bias.fs or name in self.bias.fs] or list(usual)
        weighted = [usual[name] * self.weights[name] for name in names]
        return self.rng.choices(names, weighted if any(weighted) else [usual[name] for name in names])[0]

    def _copies(self, f: str) -> int:
        most = self.cluster.replicas
        if f == "weak get":
            return self.rng.choice((1, 1, 2, most))
        return self.rng.choice((1, 1, 2, most, -1))

    def _option(self, f: str) -> str:
        if f in ("weak put", "weak delete"):
            return self.rng.choice(("", "once"))
        if f in ("put", "cas", "create", "delete", "drop"):
            return self.rng.choice(("", "", "named", "settle"))
        return ""


# -- what goes wrong


def _draw_faults(
    rng: random.Random, bias: Bias, cluster: Cluster, clients: int, horizon_ms: float
) -> tuple[Fault, ...]:
    kinds = _some(rng, tuple(faults.KINDS)) if bias.faults is None else list(bias.faults)
    kinds = [kind for kind in kinds if faults.KINDS[kind].fits(cluster)]
    count = rng.choice((0, 1, 3, 6, 10)) if bias.fault_count is None else bias.fault_count
    drawn = _steer(rng, bias, cluster, clients, horizon_ms)
    for _ in range(count if kinds else 0):
        kind = rng.choice(kinds)
        at_ms = round(rng.uniform(0, horizon_ms), 3)
        for_ms = round(rng.expovariate(1.0) * horizon_ms * rng.choice((0.02, 0.2, 1.0)), 3)
        nodes, amount = faults.KINDS[kind].draw(rng, cluster, clients)
        drawn.append(Fault(kind, at_ms, min(for_ms, 8000.0), nodes, amount))
    return tuple(sorted(_with_few_damaged(drawn, cluster), key=lambda fault: fault.at_ms))


def _steer(rng: random.Random, bias: Bias, cluster: Cluster, clients: int, horizon_ms: float) -> list[Fault]:
    """Let each client reach few nodes for most of the run: else they all ask a key's primary, and nobody contends."""
    if rng.random() < (0.65 if bias.is_steered is None else 1.0 - bias.is_steered):
        return []
    steered = []
    for client in range(clients):
        nodes, _ = faults.KINDS["steered"].draw(rng, cluster, clients)
        steered.append(Fault("steered", 0.0, round(horizon_ms * rng.uniform(0.5, 1.0), 3), nodes, client))
    return steered


def _with_few_damaged(drawn: list[Fault], cluster: Cluster) -> list[Fault]:
    """Keep as many nodes whole as every quorum of a key needs: damage beyond that stops the cluster, as it must."""
    spare = cluster.replicas - max(cluster.q1, cluster.q2)
    damaged: set[int] = set()
    kept = []
    for fault in drawn:
        if fault.kind in faults.LASTING:
            if len(damaged | set(fault.nodes)) > spare:
                continue
            damaged |= set(fault.nodes)
        kept.append(fault)
    return kept
