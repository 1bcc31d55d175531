"""The repair budget: how fast a node may heal, so that nobody who uses it notices.

Decides: when a repair may be sent (a token bucket of bytes and of operations), and how much of the configured rate is
allowed just now (the *share*).  Leaves to others: what is repaired, and clocks.

One budget serves everything that heals: read repair, hints, anti-entropy, resolver, purge.  The receiving side counts
what it gets as well (`charge`): a node that takes repairs from six others has little left for sending its own.

The share follows the latency of the node's clients by additive increase, multiplicative decrease: halved when p99 is
half as high again as it was without repair, a little more otherwise.  What p99 is without repair is learnt while
nothing is repaired; while something is, it falls at once with what is seen, and rises only slowly, so that a load that
has become heavier by itself does not stop repair for ever.  The share never falls below `SHARE_MIN`: a cluster that
never heals is worse than a slow one.

Sources: Chiu & Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance" (1989).
Invariant: a cost larger than the whole bucket is allowed when the bucket is not in debt, and leaves it in debt.
"""

from __future__ import annotations

SHARE_MIN = 1 / 16
_INCREASE = 0.1
_HURT = 1.5
"""p99 above so many times its level without repair halves the share: well before it has doubled."""
_LEVEL_MS_MIN = 7.0
"""Below this p99 is noise of the machine (a garbage collection, a turn of the scheduler): 1.5 times it is little."""
SAMPLES_MIN = 20
"""With fewer in an observation nobody is there to be hurt."""
_LEARN = 0.3
_DRIFT = 1.01
_DRIFT_AT_MIN = 1.15
"""With next to no repair a high p99 has another cause, and is soon taken as the level of now."""
DEBT_S = 10.0
"""So many seconds of the whole rates is what a node can owe for what others sent it, and how long they wait for it."""
_BUCKET_S = 0.1
"""A bucket holds what is allowed in so long: more in one burst would be felt."""


class Budget:
    """A token bucket of bytes and operations, and the share of the rates that is allowed."""

    __slots__ = (
        "_bytes",
        "_bytes_per_s",
        "_operations",
        "_operations_per_s",
        "_then_s",
        "_was_used",
        "level_ms",
        "share",
        "used_bytes",
        "used_operations",
    )

    def __init__(self, bytes_per_s: float, operations_per_s: float, now_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._operations_per_s = operations_per_s
        self._bytes = bytes_per_s * _BUCKET_S
        self._operations = operations_per_s * _BUCKET_S
        self._then_s = now_s
        self._was_used = False
        self.share = 1.0
        self.level_ms = 0.0
        """p99 of the clients' requests without repair, as far as it is known; 0: not yet."""
        self.used_bytes = 0
        self.used_operations = 0

    def take(self, now_s: float, size_bytes: int, operations: int = 1) -> bool:
        """Take the cost of a repair out of the bucket, or return False: ask again a little later."""
        self._fill(now_s)
        if self._bytes <= 0.0 or self._operations <= 0.0:
            self._was_used = True  # there is repair, even if it has to wait
            return False
        self._spend(size_bytes, operations)
        return True

    def charge(self, now_s: float, size_bytes: int, operations: int = 1) -> None:
        """Count what another node has sent; the bucket may fall into debt, and `wait_s` says for how long.

        At most into that of `DEBT_S`: others wait no longer than that before they send more, so their debts would pile
        up, and what this node has to send would wait for all of them.
        """
        self._fill(now_s)
        floors = min(self._bytes, -DEBT_S * self._bytes_per_s), min(self._operations, -DEBT_S * self._operations_per_s)
        self._spend(size_bytes, operations)
        self._bytes, self._operations = max(self._bytes, floors[0]), max(self._operations, floors[1])

    def wait_s(self, now_s: float) -> float:
        """Return after how long `take` is allowed again; 0: now."""
        self._fill(now_s)
        bytes_s = -self._bytes / (self._bytes_per_s * self.share) if self._bytes <= 0.0 else -1.0
        operations_s = -self._operations / (self._operations_per_s * self.share) if self._operations <= 0.0 else -1.0
        debt_s = max(bytes_s, operations_s)
        if debt_s < 0.0:
            return 0.0
        self._was_used = True  # there is repair, even if it has to wait
        return debt_s + 0.001

    def _fill(self, now_s: float) -> None:
        elapsed_s = (now_s - self._then_s) * self.share
        if elapsed_s > 0.0:
            bytes_max, operations_max = self._bytes_per_s * _BUCKET_S, self._operations_per_s * _BUCKET_S
            self._bytes = min(bytes_max, self._bytes + elapsed_s * self._bytes_per_s)
            self._operations = min(operations_max, self._operations + elapsed_s * self._operations_per_s)
        self._then_s = max(self._then_s, now_s)

    def _spend(self, size_bytes: int, operations: int) -> None:
        self._bytes -= size_bytes
        self._operations -= operations
        self.used_bytes += size_bytes
        self.used_operations += operations
        self._was_used = True

    def on_latency(self, p99_ms: float, samples: int) -> None:
        """Take p99 of the clients' requests since the last call, over `samples` of them; call it as often as there
        are `SAMPLES_MIN`, but at most some times a second, and at least once."""
        was_used, self._was_used = self._was_used, False
        if samples < SAMPLES_MIN:
            self.share = min(1.0, self.share + _INCREASE)
            return
        if not self.level_ms:
            self.level_ms = p99_ms
        elif not was_used:
            self.level_ms += (p99_ms - self.level_ms) * _LEARN
        is_hurt = was_used and p99_ms > max(self.level_ms, _LEVEL_MS_MIN) * _HURT
        if was_used:
            drift = _DRIFT_AT_MIN if self.share <= SHARE_MIN else _DRIFT
            self.level_ms = min(p99_ms, self.level_ms * drift)
        self.share = max(SHARE_MIN, self.share / 2) if is_hurt else min(1.0, self.share + _INCREASE)

    def invariants(self) -> None:
        """Raise AssertionError if the share or a bucket is out of its bounds."""
        assert SHARE_MIN <= self.share <= 1.0
        assert self._bytes <= self._bytes_per_s * _BUCKET_S
        assert self._operations <= self._operations_per_s * _BUCKET_S
