"""How much the servers of one process hold at once: requests under way, and the bytes that they brought or ask for.

Decides: when a request is too many, and what its caller is told.  Leaves to others: when something is held and let go
(`http`, `guard`, `rpc`), and what the bounds are (`settings`).

Bytes count when they are there, not when they are announced: a thousand clients that announce large bodies and send
nothing keep nobody out.  A refused request was not begun, so nothing was applied.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvnode.dapr.errors import RETRY_AFTER_S, Call, Kind, StateError
from kvnode.dapr.settings import Bounds


@dataclass(slots=True)
class Admission:
    """What is held now, by all servers of the process together."""

    bounds: Bounds
    calls: int = 0
    bytes_held: int = 0

    def refusal(self, size: int) -> str:
        """Return why a request that brings `size` bytes is not let in, or ""."""
        if self.calls >= self.bounds.requests_in_flight_max:
            return f"{self.calls} requests are under way, as many as this process takes: try again later"
        return self.lack(size)

    def lack(self, size: int) -> str:
        """Return why a request that is under way cannot have `size` bytes more, or ""."""
        if self.bytes_held + size > self.bounds.bodies_bytes_max:
            return (
                f"the requests under way hold {self.bytes_held} bytes, as many as this process takes: try again later,"
                " or ask for less at once"
            )
        return ""


def overloaded(why: str, call: Call | None) -> StateError:
    """What the caller of a refused request is told."""
    return StateError(Kind.UNAVAILABLE, why, call=call, retry_after_s=RETRY_AFTER_S)


class Held:
    """The bytes that one request holds, until it lets go of them."""

    __slots__ = ("_admission", "_size")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._size = 0

    def add(self, size: int, call: Call | None) -> None:
        """Hold so many bytes more.  Raises StateError, for the caller of `call`, if there is no room."""
        if why := self._admission.lack(size):
            raise overloaded(why, call)
        self._admission.bytes_held += size
        self._size += size

    def let_go(self) -> None:
        """Let go of all of them."""
        self._admission.bytes_held -= self._size
        self._size = 0
