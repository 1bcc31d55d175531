"""The proposals that this node has accepted and does not know to be chosen.

Decides: nothing; `healing.resolver` asks it which are old.  One dictionary operation per accept and one per commit is
all that requests pay for it.

Bound: `keys_max` keys; beyond that an accept is not noted, and the scan of all rows finds it if it stays undecided.
"""

from __future__ import annotations

from itertools import islice


class Undecided:
    """Row key -> since when its latest proposal is here; in the order in which the keys came."""

    __slots__ = ("_keys_max", "_since_s", "now_s", "overflowed")

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._since_s: dict[bytes, float] = {}
        self.now_s = 0.0
        """The monotonic clock as of the last sweep: precise enough, and costs requests nothing."""
        self.overflowed = 0
        """Accepts that were not noted."""

    def __len__(self) -> int:
        return len(self._since_s)

    def note(self, key: bytes) -> None:
        """Note that a proposal was accepted."""
        if len(self._since_s) < self._keys_max:
            self._since_s[key] = self.now_s
        else:
            self.overflowed += 1

    def forget(self, key: bytes) -> None:
        """Note that the key's proposal is decided."""
        self._since_s.pop(key, None)

    def oldest(self, before_s: float, count: int) -> list[bytes]:
        """Take out and return the keys, of the `count` noted first, whose proposal was accepted before `before_s`."""
        first = list(islice(self._since_s.items(), count))
        old = [key for key, since_s in first if since_s < before_s]
        for key in old:
            del self._since_s[key]
        return old
