"""What was sent to replicas and may not have arrived: the keys of the last seconds, until heartbeats vouch for them.

Decides: from when on something that was sent counts as arrived.  Leaves to others: what is done about the rest
(`handoff`).

Entries and marks are sent without waiting for an answer.  A link delivers in order, so an answered heartbeat says that
everything sent before it was received; a second more, and the disk has it too (a disk that takes longer is left to
anti-entropy).  Keys are therefore noted in generations of about a second; a request costs one dict operation.

Bound: `keys_max` keys in all generations; beyond it the oldest generation is forgotten early, and counted.
"""

from __future__ import annotations

from collections import deque

GENERATION_S = 1.0
_SYNC_S = 1.0
"""What a replica's disk may take before what it has received counts as kept."""


class Recent:
    """The keys that were sent of late, with the nodes that own them as bits."""

    def __init__(self, nodes: int, keys_max: int) -> None:
        self.keys: dict[bytes, int] = {}
        """The present generation; whoever sends something notes it here."""
        self.forgotten = 0
        """Keys forgotten before all nodes had vouched for them."""
        self._keys_max = keys_max
        self._since_s = 0.0
        self._closed: deque[tuple[float, dict[bytes, int]]] = deque()
        """Earlier generations, each with the time at which it was closed."""
        self._vouched_s = [0.0] * nodes

    def vouch(self, index: int, sent_s: float) -> None:
        """Note that node `index` has answered a heartbeat that was sent at that time."""
        self._vouched_s[index] = max(self._vouched_s[index], sent_s - _SYNC_S)

    def sweep(self, now_s: float, up: int) -> None:
        """Close the present generation if it is time, and forget those for which all vouch that are up.

        `up` are the other nodes with a link, as bits: nobody else can vouch.
        """
        if now_s - self._since_s >= GENERATION_S:
            self.close(now_s)
        closed = self._closed
        vouched_s = min([at_s for index, at_s in enumerate(self._vouched_s) if up >> index & 1], default=now_s)
        while closed and closed[0][0] < vouched_s:
            closed.popleft()
        held = self.held
        while closed and held > self._keys_max:
            early = len(closed.popleft()[1])
            held -= early
            self.forgotten += early
        if held > self._keys_max:
            self.forgotten += len(self.keys)
            self.keys = {}

    def close(self, now_s: float) -> None:
        """Begin a new generation."""
        self._since_s = now_s
        if self.keys:
            self._closed.append((now_s, self.keys))
            self.keys = {}

    @property
    def held(self) -> int:
        """Keys in all generations."""
        return len(self.keys) + sum(len(keys) for _, keys in self._closed)

    def unvouched(self, index: int) -> list[dict[bytes, int]]:
        """Return the closed generations for which node `index` has not vouched; they do not change any more."""
        since_s = self._vouched_s[index]
        return [keys for closed_s, keys in self._closed if closed_s >= since_s]
