"""The keys that chaos clients use, and when another takes the place of one.

Decides: how long a key lives, and how much is asked of it at once.  Leaves to others: what is asked (`workload`).

A key lives for some operations and few unknown outcomes: a checker has to consider every order of what is unknown.
What nobody uses any more is quiet: no read repairs it, so it shows whether replicas heal by themselves.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["register", "counter", "mixed", "eventual"]
KINDS: Final[tuple[Kind, ...]] = ("register", "counter", "mixed", "eventual")
KEYS_PER_KIND: Final = 8
IN_FLIGHT_MAX: Final = 6
"""Operations on one key: all their outcomes may stay unknown, and a checker considers every order of these."""
OPERATIONS_MAX: Final = 150
UNKNOWN_MAX: Final = 6


@dataclass
class Key:
    """A key while it is used."""

    name: str
    kind: Kind
    operations: int = 0
    unknown: int = 0
    in_flight: int = 0

    @property
    def is_worn(self) -> bool:
        """True if another should take its place."""
        return self.operations >= OPERATIONS_MAX or self.unknown >= UNKNOWN_MAX


class Keys:
    """The keys that are in use, and the names of all that ever were."""

    def __init__(self) -> None:
        self.names: dict[str, Kind] = {}
        self._in_use: dict[Kind, list[Key]] = {kind: [] for kind in KINDS}
        self._worn: list[Key] = []
        self._in_flight = 0
        self.idle = asyncio.Event()
        """Set while no operation is under way."""
        self.idle.set()
        for kind in KINDS:
            for _ in range(KEYS_PER_KIND):
                self._add(kind)

    def draw(self, kind: Kind, rng: random.Random) -> Key | None:
        """Return a key of a kind for the next operation, which must be released; None if all are busy."""
        keys = self._in_use[kind]
        key = rng.choice(keys)
        if key.is_worn:
            keys.remove(key)
            self._worn.append(key)
            key = self._add(kind)
        if key.in_flight >= IN_FLIGHT_MAX:
            return None
        key.operations += 1
        key.in_flight += 1
        self._in_flight += 1
        self.idle.clear()
        return key

    def release(self, key: Key) -> None:
        """An operation on a key has ended."""
        key.in_flight -= 1
        self._in_flight -= 1
        if not self._in_flight:
            self.idle.set()

    def take_quiet(self) -> list[str]:
        """Return the keys that nobody uses any more and that were not returned before."""
        quiet = [key for key in self._worn if not key.in_flight]
        self._worn = [key for key in self._worn if key.in_flight]
        return [key.name for key in quiet]

    def _add(self, kind: Kind) -> Key:
        key = Key(f"{kind}-{len(self.names)}", kind)
        self.names[key.name] = kind
        self._in_use[kind].append(key)
        return key
