"""What one run is: a cluster, its clients and every operation of theirs, and the faults, as plain data.

Decides: nothing; it is the vocabulary of `swarm` (which draws scenarios from seeds), `faults`, `workload` and `run`.  A
scenario is data, so it can be written down, cut smaller (`shrink`) and run again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cluster:
    """The nodes, and the settings that all of them have."""

    nodes: int = 3
    replicas: int = 3
    q1: int = 2
    q2: int = 2
    durability: str = "fsync"
    mix: str = "allow"
    limits: dict[str, float] = field(default_factory=dict)
    offsets_ms: tuple[int, ...] = ()
    """How wrong each node's wall clock is from the start; empty: not at all."""
    delay_ms: tuple[float, float] = (0.1, 1.0)
    """Between which bounds the links delay what they carry when nothing is wrong."""
    sync_ms: float = 0.0
    """What a healthy disk needs for a sync."""
    is_fifo: bool = False
    """True: callbacks of one host run in the order of their making, as a real loop runs them."""
    compares: bool = True
    """False: no node compares its trees with another's before all faults have ended; hints must do (`hints_only`)."""
    gc_grace_s: int = 0
    """How long deletes are kept; 0: longer than any run.  If not, waiting is cut short all over the purge (`haste`)."""


@dataclass(frozen=True)
class Act:
    """One call of a client.  `copies` is R or W (0: the default, -1: "any"); what a call has no use for is ignored."""

    f: str
    keys: tuple[str, ...]
    strong: bool = True
    copies: int = 0
    ttl_ms: int = 0
    timeout_ms: int = 1000
    pause_ms: float = 0.0
    """How long the client waits before the call."""
    option: str = ""
    """"once": exactly_once;  "named": under an operation id of its own;  "settle": ask until the outcome is known."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong from `at_ms` for `for_ms`; `nodes` and `amount` mean what `faults` says for `kind`."""

    kind: str
    at_ms: float
    for_ms: float
    nodes: tuple[int, ...] = ()
    amount: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One run.  `seed` also seeds the scheduler and every delay, so the same scenario runs the same way."""

    seed: int
    cluster: Cluster
    clients: tuple[tuple[Act, ...], ...]
    faults: tuple[Fault, ...] = ()
    value_bytes: int = 0
    """Length to which values are padded."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that some operation names, in order."""
        return tuple(sorted({key for acts in self.clients for act in acts for key in act.keys}))

    @property
    def operations(self) -> int:
        """The number of calls."""
        return sum(map(len, self.clients))

    def to_json(self) -> str:
        """Return the scenario as text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Scenario:
        """Return the scenario that `to_json` wrote.  Raises ValueError or TypeError for anything else."""
        raw: dict[str, Any] = json.loads(text)
        cluster = raw["cluster"] | {
            "offsets_ms": tuple(raw["cluster"]["offsets_ms"]),
            "delay_ms": tuple(raw["cluster"]["delay_ms"]),
        }
        return Scenario(
            seed=raw["seed"],
            cluster=Cluster(**cluster),
            clients=tuple(tuple(Act(**act | {"keys": tuple(act["keys"])}) for act in acts) for acts in raw["clients"]),
            faults=tuple(Fault(**fault | {"nodes": tuple(fault["nodes"])}) for fault in raw["faults"]),
            value_bytes=raw["value_bytes"],
        )
