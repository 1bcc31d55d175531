"""What to do when the first attempt did not succeed (R21-R25): where to go next, when to stop, what to call the end.

Decides, beyond the protocol page:
- **Where next**: the reachable owner of the partition that refused least often, the better placed first; without a
  reachable owner any node that serves; without one, wait for a connection until the deadline.  The first visit to a
  node is immediate, a second one waits a jittered moment (50 to 100 ms).
- **Giving up early**: once every reachable owner has refused `REFUSALS_MAX` times, the last reason is raised, long
  before the deadline: a cluster that says "too few replicas" from all sides is believed.
- **Overloaded** is repeated at the same node, which is the best place for the key, `OVERLOADS_MAX` times with growing
  pauses, and then raised.  At this side's own bounds it is raised at once.
- **An operation that may have been applied** is asked for with the same id until it is settled or the deadline is
  there, whatever the nodes refuse meanwhile; then it is OutcomeUnknown, never a failure.  A node that says that nobody
  can tell any more (settled, unknown) is asked no further.

There is one attempt at a time: when the next is sent, the link of the one before is gone, suspected, or has answered,
and what it may still answer is dropped.  So every answer taken here is the latest attempt's (R23).
"""

from __future__ import annotations

import asyncio
from typing import Final

from kvclient import chance
from kvclient.cluster import Cluster
from kvclient.connection import EXPIRED, UNSENT, Answer, Link
from kvclient.errors import (
    BY_CODE,
    DeadlineExceeded,
    InvalidRequest,
    KvError,
    NotConnected,
    OutcomeUnknown,
    Overloaded,
)
from kvclient.session import Session
from kvclient.wire.messages import FAILED, GET, MUTATE, STAMP, WRITE

REFUSALS_MAX = 2
OVERLOADS_MAX = 3
PAUSE_S = 0.1
OVERLOAD_PAUSE_S = 0.02

_TIMEOUT_AT: Final = {GET: 5, WRITE: 4, STAMP: 3}
_CONTENT_AT: Final = {MUTATE: 12, WRITE: 5}
_ATTEMPT_AT, _MARK_AT = 5, 6


def error_of(link: Link | None, answer: Answer) -> KvError:
    """Return what an answer that is no success says."""
    if answer[0] == FAILED:
        _, _, code, outcome, _, text = answer
        error = BY_CODE.get(code, KvError)(text)
        if outcome in ("applied", "not applied", "unknown"):
            error.outcome = outcome
        return error
    if link is None:
        return NotConnected("no node of the cluster is connected: are the nodes up?")
    if answer is EXPIRED:
        return DeadlineExceeded(f"{link.name} did not answer in time")
    when = "before the request left" if answer is UNSENT else "while the request waited for its answer"
    return NotConnected(f"the connection to {link.name} was lost {when}")


class Tour:
    """The way of one request through the nodes."""

    __slots__ = ("_again", "_cluster", "_deadline_s", "_last", "_name", "_overloads", "_refusals", "is_stubborn")

    def __init__(self, cluster: Cluster, name: bytes, deadline_s: float) -> None:
        self._cluster = cluster
        self._name = name
        self._deadline_s = deadline_s
        self._refusals: dict[str, int] = {}
        self._overloads = 0
        self._again: Link | None = None
        self._last: KvError | None = None
        self.is_stubborn = False
        """True: go on until the deadline, whatever is refused."""

    def note(self, link: Link | None, answer: Answer) -> KvError:
        """Remember a refusal and return it as an error."""
        self._last = error = error_of(link, answer)
        self._again = None
        if link is not None:
            if isinstance(error, Overloaded):
                self._overloads += 1
                self._again = link
            else:
                self._refusals[link.name] = self._refusals.get(link.name, 0) + 1
            if answer[0] == FAILED and isinstance(error, NotConnected):
                link.stop_serving()
            if answer[0] == FAILED and isinstance(error, DeadlineExceeded):
                link.ask_time()  # for us there is time left: its clock, which deadlines are said in, may have been set
        return error

    async def next(self) -> Link:
        """Return where to go now.  Raises the reason why there is nowhere to go, or no time."""
        cluster = self._cluster
        paused = False
        while True:
            left_s = self._deadline_s - cluster.loop.time()
            if cluster.is_closed:
                raise NotConnected("the client is closed: connect again")
            if left_s <= 0:
                raise self._late()
            if (again := self._overloaded()) is not None:
                await asyncio.sleep(
                    min(left_s, OVERLOAD_PAUSE_S * 2 ** min(self._overloads, OVERLOADS_MAX) * (0.5 + chance.fraction()))
                )
                self._again = None
                if again.is_usable:
                    return again
                continue
            link, refusals = self._best()
            if link is None:
                await cluster.wait_for_change(left_s)
            elif refusals == 0 or paused:
                return link
            elif refusals >= REFUSALS_MAX and not self.is_stubborn and self._last is not None:
                raise self._last
            else:
                await asyncio.sleep(min(left_s, PAUSE_S * (0.5 + chance.fraction() / 2)))
                paused = True

    def _overloaded(self) -> Link | None:
        if self._again is not None and self._overloads > OVERLOADS_MAX and not self.is_stubborn and self._last:
            raise self._last
        return self._again

    def _best(self) -> tuple[Link | None, int]:
        router = self._cluster.router
        if router is None:
            return None, 0
        links = router.owners(router.table.partition(self._name)) or router.others()
        if not links:
            return None, 0
        link = min(links, key=lambda link: self._refusals.get(link.name, 0))
        return link, self._refusals.get(link.name, 0)

    def _late(self) -> KvError:
        if isinstance(self._last, NotConnected):
            return self._last
        if self._last is None:
            return NotConnected("no node of the cluster is connected: are the nodes up?")
        if isinstance(self._last, DeadlineExceeded):
            return self._last
        error = DeadlineExceeded(f"the time was up; the last refusal was: {self._last}")
        error.__cause__ = self._last
        return error


async def read(
    cluster: Cluster, name: bytes, message: Answer, wanted: int, deadline_s: float, link: Link | None, answer: Answer
) -> Answer:
    """Repeat a request without effect, on other nodes if need be, until one answers with a message of kind `wanted`."""
    tour = Tour(cluster, name, deadline_s)
    while answer[0] != wanted:
        error = tour.note(link, answer)
        if isinstance(error, InvalidRequest):
            raise error
        link = await tour.next()
        message = again(message, cluster, deadline_s)
        answer = await link.ask(message, deadline_s)
    return answer


def again(message: Answer, cluster: Cluster, deadline_s: float) -> Answer:
    """Return a copy of a request to be sent once more: the first may still wait to be written."""
    message = message.copy()
    at = _TIMEOUT_AT.get(message[0])
    if at is not None:
        message[at] = max(1, int((deadline_s - cluster.loop.time()) * 1000))
    return message


class Settlement:
    """The further attempts of one request with an effect, until its outcome is definite or the time is up."""

    __slots__ = (
        "_cluster",
        "_deadline_s",
        "_is_named",
        "_may_repeat",
        "_maybe",
        "_message",
        "_operation_id",
        "_session",
    )

    def __init__(
        self,
        cluster: Cluster,
        message: Answer,
        deadline_s: float,
        *,
        may_repeat: bool,
        operation_id: str = "",
        session: Session | None = None,
        is_named: bool = False,
    ) -> None:
        """`may_repeat`: the request has an id or a stamp.  `is_named`: earlier calls may have sent it as well."""
        self._cluster = cluster
        self._message = message
        self._deadline_s = deadline_s
        self._may_repeat = may_repeat
        self._operation_id = operation_id
        self._session = session
        self._is_named = is_named
        self._maybe = False

    async def run(self, link: Link | None, answer: Answer, *wanted: int) -> Answer:
        """Return an answer of a wanted kind.  Raises OutcomeUnknown, or what says that nothing was applied."""
        tour = Tour(self._cluster, self._message[2], self._deadline_s)
        while answer[0] not in wanted:
            error = tour.note(link, answer)
            self._judge(answer, error)
            tour.is_stubborn = self._maybe
            try:
                if answer[0] == FAILED and self._maybe:
                    await asyncio.sleep(PAUSE_S / 5 * chance.fraction())
                link = await tour.next()
                message = self._next_attempt()
                answer = await link.ask(message, self._deadline_s, len(message[_CONTENT_AT[message[0]]]))
            except KvError as error:
                if self._maybe or self._is_named:
                    raise self.unknown(error) from error
                raise
        return answer

    def _judge(self, answer: Answer, error: KvError) -> None:
        """Raise what ends the matter; otherwise remember whether this attempt may have been applied."""
        is_failed = answer[0] == FAILED
        is_unknown = error.outcome != "not applied" if is_failed else answer is not UNSENT
        is_invalid = isinstance(error, InvalidRequest)
        # A node judges the form by its own limits: that does not speak for what another has applied.
        is_settled = is_failed and answer[4] and not (is_invalid and (self._maybe or self._is_named))
        if is_settled:  # it holds for every attempt
            if is_unknown:
                raise self._unknown_for_ever(error) from error
            raise error
        self._maybe = self._maybe or is_unknown
        if self._maybe and not self._may_repeat:
            raise self.unknown(error) from error
        if is_invalid and not self._maybe:
            if self._is_named:
                raise self.unknown(error) from error
            raise error

    def _next_attempt(self) -> Answer:
        self._message = message = again(self._message, self._cluster, self._deadline_s)
        if message[0] == MUTATE:
            message[_ATTEMPT_AT] += 1
            if self._session is not None:
                message[_MARK_AT] = self._session.mark(message[2])
        return message

    @property
    def attempt(self) -> int:
        """The number of the latest attempt of a mutation."""
        return int(self._message[_ATTEMPT_AT])

    def _unknown_for_ever(self, error: KvError) -> OutcomeUnknown:
        text = f"the write may or may not have taken effect, and no node can tell any more ({error})"
        return OutcomeUnknown(f"{text}: read the key to see what stands there", self._operation_id, retryable=False)

    def unknown(self, error: KvError) -> OutcomeUnknown:
        """Return what is to be raised when `error` ends a request that may have been applied."""
        mend = "ask again with its operation id" if self._operation_id else "read the key to see what stands there"
        return OutcomeUnknown(f"the write may or may not take effect ({error}): {mend}", self._operation_id)
