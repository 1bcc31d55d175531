"""What every nemesis is made of: a name, what it needs, what must hold under it, and one run of it.

Decides: how a nemesis enters the catalogue, and what it is given.  Leaves to others: the nemeses themselves (`nemeses`,
`nemeses_of_disks`; `catalogue` has all of them).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

from scripts.havoc.cluster import Cluster
from scripts.havoc.probes import Probe

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
    show: Callable[[Probe], None]
    """Takes what a question to a node has shown."""
    is_alone: bool = True
    """No other nemesis is at work: then nodes can be asked whether they do what this one's promise says."""

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
