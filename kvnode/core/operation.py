"""An operation on one key as a coordinator holds it, and the result that it gets.

Decides: nothing; it is the vocabulary between a client's request and a round (`change`, `proposer`).

The inputs of a change function are fixed here before its first attempt, and stay the same in every retry: version
checks, content, absolute expiry (R16, R63).  The function may then run several times, in several rounds, with one
effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kvclient.wire.messages import CHECK_ABSENT, CHECK_ETAG, CHECK_NONE
from kvclient.wire.values import NO_BALLOT, NO_VERSION, Ballot, Version

__all__ = ["CHECK_ABSENT", "CHECK_ETAG", "CHECK_NONE", "Operation", "Result", "Step"]


class Step(NamedTuple):
    """One change of an operation.  A transaction on one key has several; all of them hold, or none is done."""

    check: int
    """CHECK_NONE, CHECK_ETAG (the current version must be `version`), or CHECK_ABSENT (the key must not exist)."""
    version: Version
    """For CHECK_ETAG; empty if the ETag could not be parsed, which no version equals."""
    content: bytes
    """The new content; empty deletes."""
    expires_at_ms: int
    """0: never."""


class Operation:
    """A strong operation that waits for a key at its coordinator: a read (no steps) or a mutation.

    `session`, `sequence`, `attempt` and `mark` identify a mutation (R23).  `was_proposed`: it was in an accept of this
    coordinator.  `is_in_doubt`: such an accept may still be chosen, so "not applied" can no longer be said. `is_read`:
    it has no steps, so it needs no window.  `is_explained`: a read whose result should say how it came about.
    `context` is the service's: takes the result.  `identity`: it is a read that nobody asked for, run for its round.
    """

    __slots__ = (
        "attempt",
        "context",
        "copies",
        "created_at_ms",
        "deadline_ms",
        "identity",
        "is_explained",
        "is_in_doubt",
        "is_read",
        "mark",
        "sequence",
        "session",
        "steps",
        "was_proposed",
    )

    def __init__(
        self,
        steps: tuple[Step, ...],
        session: bytes,
        sequence: int,
        attempt: int,
        mark: int,
        created_at_ms: int,
        deadline_ms: int,
        context: Callable[[Result], None] | None = None,
    ) -> None:
        self.steps = steps
        self.is_read = not steps
        self.session = session
        self.sequence = sequence
        self.attempt = attempt
        self.mark = mark
        self.created_at_ms = created_at_ms
        self.deadline_ms = deadline_ms
        self.context = context
        self.was_proposed = False
        self.is_in_doubt = False
        self.is_explained = False
        self.identity = 0
        self.copies = 0
        """Replies or acknowledgements asked for beyond the quorum's (R27); 0: the quorum's."""

    def answer(self, result: Result) -> None:
        """Tell whoever waits for the operation, once."""
        tell, self.context = self.context, None
        if tell is not None:
            tell(result)

    @property
    def is_first_try(self) -> bool:
        """True while no attempt of this operation, here or elsewhere, can have been in an accept."""
        return self.attempt == 1 and not self.was_proposed


# Kinds of identity rounds
SETTLE = 1
"""What was found becomes known as chosen, by whatever proves it (R32)."""
ACCEPT = 2
"""It is accepted again, at the round's own ballot, by a quorum (R12)."""
ANCHOR = 3
"""A tombstone is accepted at the round's own ballot by all N; anything else is left as it is (R35)."""


def identity_read(kind: int, copies: int, now_ms: int, timeout_s: float, then: Callable[[Result], None]) -> Operation:
    """Return the operation of an identity round: a read that nobody asked for.  `copies`: how many must accept (0: a
    quorum)."""
    operation = Operation((), b"", 0, 1, 0, now_ms, now_ms + 1000 * round(timeout_s), then)
    operation.identity, operation.copies = kind, copies
    return operation


# Kinds of results
VALUE = "value"
APPLIED = "applied"
CONFLICT = "conflict"
NOT_APPLIED = "not applied"
UNKNOWN = "unknown"


class Result(NamedTuple):
    """What a round says to one operation; it may be told only when the round's evidence is in.

    VALUE and CONFLICT carry the current `body` (without content: absent), APPLIED the new `version` (empty: nothing to
    change), NOT_APPLIED an error `code`; `is_settled` then says that no other attempt of the operation took effect.
    """

    kind: str
    version: Version = NO_VERSION
    body: bytes = b""
    code: str = ""
    is_settled: bool = False
    explanation: dict[str, Any] | None = None
    anchor: Ballot = NO_BALLOT
    """Of an ANCHOR: the one ballot at which all N have accepted the tombstone; none if it was no such thing."""
