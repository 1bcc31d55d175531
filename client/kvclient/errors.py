"""The whole error tree on one page: what a caller may catch, and whether the operation took effect.

Each class has a wire `code`, an `outcome` ("applied", "not applied" or "unknown": R21) and `retryable` (the same call
may succeed later without a change by the caller).  When in doubt the outcome is "unknown": a timeout is never called a
failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from kvclient.item import Item

Outcome = Literal["applied", "not applied", "unknown"]


class KvError(Exception):
    """Base of every error of this package.  `str(error)` is one sentence: what, with which value, what to do."""

    code: ClassVar[str] = "error"
    outcome: Outcome = "not applied"
    retryable: bool = False


class EtagMismatch(KvError):
    """A first-write lost: the key's current version is not the ETag's, or the key to be created exists.

    `current` is the item that stands there now, or None if the key is absent.  Not applied.
    """

    code = "etag-mismatch"

    def __init__(self, message: str, current: Item | None = None) -> None:
        super().__init__(message)
        self.current = current


class OutcomeUnknown(KvError):
    """The operation may have been applied, or may still be, until a later one settles it.

    Ask again with `operation_id=error.operation_id`: the same operation is never applied twice.  `operation_id` is
    empty for an eventual write, which is not sent again by itself (R25).  `retryable` is False if it is too late: no
    node can tell any more, and asking again changes nothing.
    """

    code = "outcome-unknown"
    outcome = "unknown"
    retryable = True

    def __init__(self, message: str, operation_id: str = "", *, retryable: bool = True) -> None:
        super().__init__(message)
        self.operation_id = operation_id
        self.retryable = retryable


class QuorumUnreachable(KvError):
    """Too few replicas of the key are connected; nothing was sent.  Not applied."""

    code = "quorum-unreachable"
    retryable = True


class Overloaded(KvError):
    """A queue, a window or a disk is at its bound, so the request was refused at once.  Not applied."""

    code = "overloaded"
    retryable = True


class DeadlineExceeded(KvError):
    """The time was up before anything that could take effect was sent.  Not applied."""

    code = "deadline-exceeded"
    retryable = True


class ClockSkew(KvError):
    """The node's clock is too far from the others', so it takes no eventual write (R2-R4).  Not applied."""

    code = "clock-skew"
    retryable = True


class InvalidRequest(KvError, ValueError):
    """An argument is outside its bounds; the message names it and the bound.  Not applied."""

    code = "invalid-request"


class NotConnected(KvError):
    """No node could be reached, or what was reached is not a node of this cluster.  Not applied."""

    code = "not-connected"
    retryable = True


class ConfigError(KvError, ValueError):
    """A configuration value is wrong; the message names the key, the value and the mend.  Nothing was started."""

    code = "config"


BY_CODE: dict[str, type[KvError]] = {
    error.code: error
    for error in (
        EtagMismatch,
        OutcomeUnknown,
        QuorumUnreachable,
        Overloaded,
        DeadlineExceeded,
        ClockSkew,
        InvalidRequest,
        NotConnected,
    )
}
"""Wire code -> class, for the errors that a node can answer."""
