"""Who asks: operation ids, and what this client still holds open on each key (R22-R24).

Decides: how an operation is named, and which *mark* (first incomplete sequence) a strong mutation carries.  A node
drops what it remembers of a session's operations below the mark and refuses them from then on, so one rule is absolute
here: **a mark never passes an operation whose outcome somebody may still ask for.**

- An operation is *open* on its name from the moment it gets its sequence until its outcome is definite.  The mark is
  the least open sequence of that session on that name, which is never above the operation's own.
- An operation that ends without a definite outcome (OutcomeUnknown, or a cancelled call that may have been sent) stays
  open for ever, and its session is *retired*: later operations belong to a new session, so that one lost answer does
  not make a busy key's window grow.  A retired session lives as long as its operations in flight, which keep its marks
  honest.
- An operation id that the caller names carries mark 0, "no news": the caller may name older ones later.

And which attempt a call may claim to be.  A *first* attempt's refusals need no record and are believed (R17, R23), so
"first" may be said only if nobody ever sent this id.  That is known of an id which this client issued and did not send
(`IssuedIds`), as long as its caller keeps to `new_operation_id`'s rule; every other id is taken to have been sent.

Memory: one entry for each key with an operation in flight, which the links bound, and what `IssuedIds` bounds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from kvclient import chance
from kvclient.errors import InvalidRequest
from kvclient.wire.values import Version

SESSION_BYTES = 8
SEEN_KEYS_MAX = 1024
ISSUED_MAX = 1024
SENT_MAX = 4096
REFUSED_MAX = 4096
_NUMBER_MAX = (1 << 63) - 1
_TIME_MS_MAX = 1 << 47


class OperationId(NamedTuple):
    """The name of one strong mutation, self-contained: any client, in any process, can ask for its outcome with it.

    `session` (8 bytes) and `sequence` (1 to 2**63 - 1) say which operation; the times are server time in milliseconds,
    part of the name, and decide until when it may run.  `str(id)` is `"<session hex>/<sequence>/<issued>/<deadline>"`,
    and every `operation_id=` takes either form.

    One id names one operation with one set of arguments.  Deterministic ids, for work that resumes: keep
    `kv.new_operation_id(timeout=3600)` with the work, and name its n-th write `id.with_sequence(n)`.
    """

    session: bytes
    sequence: int
    issued_at_ms: int
    deadline_ms: int

    def __str__(self) -> str:
        return f"{self.session.hex()}/{self.sequence}/{self.issued_at_ms}/{self.deadline_ms}"

    def with_sequence(self, sequence: int) -> OperationId:
        """Return the id of another operation of the same session and times.  Raises InvalidRequest if out of range."""
        return operation_id_check(self._replace(sequence=sequence))


def operation_id_of(given: str | OperationId) -> OperationId:
    """Return the operation id that a caller gave in either form.  Raises InvalidRequest if it is none."""
    if isinstance(given, OperationId):
        return operation_id_check(given)
    try:
        session, sequence, issued_at, deadline = given.split("/")
        return operation_id_check(OperationId(bytes.fromhex(session), int(sequence), int(issued_at), int(deadline)))
    except (AttributeError, ValueError) as error:
        raise InvalidRequest(
            f"{given!r:.100} is not an operation id: take it from new_operation_id() or an error"
        ) from error


def operation_id_check(operation: OperationId) -> OperationId:
    """Return `operation` if each of its parts is within bounds.  Raises InvalidRequest otherwise."""
    session, *numbers = operation
    if type(session) is not bytes or len(session) != SESSION_BYTES:
        raise InvalidRequest(f"the session {session!r:.80} of an operation id must be {SESSION_BYTES} bytes")
    if any(type(number) is not int for number in numbers):
        raise InvalidRequest(f"sequence and times of an operation id must be int, not {numbers!r:.80}")
    if not 1 <= operation.sequence <= _NUMBER_MAX:
        raise InvalidRequest(f"the sequence {operation.sequence} of an operation id must be 1 to {_NUMBER_MAX}")
    if not 0 < operation.issued_at_ms < operation.deadline_ms < _TIME_MS_MAX:
        raise InvalidRequest(
            f"the times of the operation id {operation} must be milliseconds since 1970, deadline last"
        )
    return operation


class Session:
    """A series of operations of one client, and what is open of it on each name."""

    __slots__ = ("_open", "_sequence", "id")

    def __init__(self) -> None:
        self.id = chance.some_bytes(SESSION_BYTES)
        self._sequence = 0
        # name -> its only open sequence, or several in rising order.  OrderedDict: its first key is found in O(1)
        # however many were removed in front of it, which is not so for dict.
        self._open: dict[bytes, int | OrderedDict[int, None]] = {}

    def begin(self, name: bytes) -> int:
        """Open the next operation on `name` and return its sequence."""
        self._sequence = sequence = self._sequence + 1
        held = self._open.setdefault(name, sequence)
        if held is not sequence:  # identity: setdefault gave back what it was given, or what stood there
            if isinstance(held, int):
                self._open[name] = held = OrderedDict({held: None})
            held[sequence] = None
        return sequence

    def mark(self, name: bytes) -> int:
        """Return the least open sequence on `name`; 0 if none is."""
        held = self._open.get(name, 0)
        return held if isinstance(held, int) else next(iter(held))

    def end(self, name: bytes, sequence: int) -> None:
        """Close an operation whose outcome is definite."""
        held = self._open[name]
        if isinstance(held, int):
            del self._open[name]
            return
        del held[sequence]
        if not held:
            del self._open[name]


class _Series:
    """What was sent of one issued id and those that `with_sequence` derives from it."""

    __slots__ = ("refused", "sent", "sent_up_to", "times")

    def __init__(self, times: tuple[int, int]) -> None:
        self.times = times
        self.sent_up_to = 0
        """Each sequence up to this one counts as sent."""
        self.sent: set[int] = set()
        self.refused: dict[int, int] = {}  # sequence -> its next attempt, if every one so far was refused for certain

    def begin(self, sequence: int) -> int:
        attempt = self.refused.pop(sequence, 0)
        if not attempt and sequence > self.sent_up_to and sequence not in self.sent:
            attempt = 1
        self.note_sent(sequence)
        return attempt

    def note_sent(self, sequence: int) -> None:
        sent = self.sent
        if sequence > self.sent_up_to:
            sent.add(sequence)
        if len(sent) > SENT_MAX:  # forget which: what is not known to be unsent counts as sent
            self.sent_up_to = sorted(sent)[SENT_MAX // 2]
            self.sent = sent = {one for one in sent if one > self.sent_up_to}
        while self.sent_up_to + 1 in sent:
            self.sent_up_to += 1
            sent.remove(self.sent_up_to)


class IssuedIds:
    """The operation ids that this client issued, and what it sent of them.

    A call begins with attempt 1 if nobody sent its id, and goes on counting if every attempt so far was refused for
    certain; anything else is 0, "others may have sent it".  Forgetting is safe: what is not known counts as sent.
    """

    __slots__ = ("_in_flight", "_series")

    def __init__(self) -> None:
        self._series: dict[bytes, _Series] = {}
        self._in_flight: dict[tuple[bytes, int], asyncio.Future[None]] = {}

    def note_issued(self, operation: OperationId) -> None:
        """Remember a fresh id; the one that was not used for the longest time makes room."""
        if len(self._series) >= ISSUED_MAX:
            del self._series[next(iter(self._series))]
        self._series[operation.session] = _Series((operation.issued_at_ms, operation.deadline_ms))

    def in_flight(self, operation: OperationId) -> asyncio.Future[None] | None:
        """Return what ends with the call that is the only one to have sent this id, if one is under way.

        Wait for it: a second attempt beside it would make its refusals untrue.
        """
        return self._in_flight.get(operation[:2])

    def begin(self, operation: OperationId, *, is_text: bool) -> int:
        """Return the attempt that a call starts with, or 0 if others may have sent this id.  It counts as sent now.

        `is_text`: the id went through a text, which others may have read as well.
        """
        series = self._series.pop(operation.session, None)
        if series is None:
            return 0
        self._series[operation.session] = series  # now the last one to make room
        if is_text or series.times != operation[2:]:
            series.refused.pop(operation.sequence, None)
            series.note_sent(operation.sequence)
            return 0
        attempt = series.begin(operation.sequence)
        if attempt:
            self._in_flight[operation[:2]] = asyncio.get_running_loop().create_future()
        return attempt

    def end(self, operation: OperationId, next_attempt: int) -> None:
        """End a call that began with an attempt; `next_attempt` if all were refused for certain, else 0."""
        self._in_flight.pop(operation[:2]).set_result(None)
        series = self._series.get(operation.session)
        if next_attempt and series is not None:
            if len(series.refused) >= REFUSED_MAX:
                del series.refused[next(iter(series.refused))]
            series.refused[operation.sequence] = next_attempt


class Seen:
    """The greatest version that this client saw of each of the last `SEEN_KEYS_MAX` keys (section 4a of the protocol).

    An eventual write carries it, so that it never loses to a value that its client had seen, whatever the clocks say.
    """

    __slots__ = ("_versions",)

    def __init__(self) -> None:
        self._versions: dict[bytes, Version] = {}

    def note(self, name: bytes, version: Version) -> None:
        """Remember that `version` was seen; the key that was not seen for the longest time makes room."""
        versions = self._versions
        held = versions.pop(name, None)
        if held is None:
            if len(versions) >= SEEN_KEYS_MAX:
                del versions[next(iter(versions))]
        elif held > version:
            version = held
        versions[name] = version

    def token(self, name: bytes) -> bytes:
        """Return the greatest version seen of `name`, or nothing."""
        return self._versions.get(name, b"")
