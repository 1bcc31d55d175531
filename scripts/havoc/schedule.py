"""When which nemeses run: calm at first, then one window after the other, each with one nemesis or a pair, then rest.

Decides: the order, from the seed alone, and how long a window lasts in a run of a given length.  Leaves to others: the
nemeses themselves.

Every nemesis comes alone first; then pairs, of which those that have found most elsewhere come before the others: a
kill under a partition, a pause under a wrong clock, a restart over slow links.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import NamedTuple

from scripts.havoc.attack import Nemesis
from scripts.havoc.catalogue import NEMESES

FAMOUS_PAIRS = (
    ("kill-one", "partition"),
    ("pause", "clock-jump"),
    ("rolling-restart", "slow-links"),
    ("kill-all", "one-way"),
    ("slow-sync", "partition"),
)


class Plan(NamedTuple):
    """A whole run."""

    seed: int
    asked_s: float
    faults: tuple[str, ...]
    """Those that were asked for; none: all."""
    calm_s: float
    window_s: float
    """How long nemeses run."""
    mend_s: float
    """How long nothing is wrong after each window."""
    quiesce_s: float
    windows: tuple[tuple[Nemesis, ...], ...]

    @property
    def seconds(self) -> float:
        """How long it all takes, but for starting and judging."""
        return self.calm_s + len(self.windows) * (self.window_s + self.mend_s) + self.quiesce_s


def make(seconds: float, seed: int, faults: tuple[str, ...] = ()) -> Plan:
    """Return the plan of a run of about `seconds`, with these faults only, or with all of them.

    A fault is a name, or names joined by "+" for those that shall run together.  Raises ValueError.
    """
    calm_s, window_s, mend_s, quiesce_s = (10.0, 10.0, 6.0, 30.0) if seconds >= 300 else (4.0, 5.0, 3.0, 6.0)
    count = max(1, int((seconds - calm_s - quiesce_s) / (window_s + mend_s)))
    windows = _windows(count, random.Random(seed), [_together(fault) for fault in faults or NEMESES])
    return Plan(seed, seconds, faults, calm_s, window_s, mend_s, quiesce_s, tuple(windows))


def _together(fault: str) -> tuple[Nemesis, ...]:
    names = fault.split("+")
    for name in names:
        if name not in NEMESES:
            raise ValueError(f'there is no fault "{name}"; there are {", ".join(NEMESES)}')
    nemeses = tuple(NEMESES[name] for name in names)
    for one, other in combinations(nemeses, 2):
        if both := one.means & other.means:
            raise ValueError(f"{one.name} and {other.name} cannot run together: both need the {min(both)}")
    return nemeses


def _windows(count: int, rng: random.Random, faults: list[tuple[Nemesis, ...]]) -> list[tuple[Nemesis, ...]]:
    """Every one as it was asked for, then pairs; once more from the beginning if there is still time."""
    windows: list[tuple[Nemesis, ...]] = []
    alone = [fault[0] for fault in faults if len(fault) == 1]
    while len(windows) < count:
        rng.shuffle(faults)
        windows += faults
        windows += _pairs(rng, alone)[: len(faults) // 2]
    return windows[:count]


def _pairs(rng: random.Random, nemeses: list[Nemesis]) -> list[tuple[Nemesis, ...]]:
    possible = [pair for pair in combinations(nemeses, 2) if not pair[0].means & pair[1].means]
    rng.shuffle(possible)
    return sorted(possible, key=lambda pair: not _is_famous(pair))


def _is_famous(pair: tuple[Nemesis, ...]) -> bool:
    names = {nemesis.name for nemesis in pair}
    return any(names == set(famous) for famous in FAMOUS_PAIRS)
