"""A client's request while this node works on it, and the statistics of all of them.

Decides: that every admitted request is answered exactly once, and what its outcome is called on the wire (R21).  Leaves
to others: the work (`consensus`, `reads`, `eventual`).
"""

from __future__ import annotations

from collections.abc import Callable

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvnode.core import operation as op
from kvnode.core.operation import Result
from kvnode.runtime import Clock
from kvnode.service.exchange import Link

_SAMPLES = 1024
_SAMPLE_EVERY = 8
STATUS = "status"
"""The kind of request that is no operation: who watches a node must not see the watching."""
_LARGE_BYTES = 64 * 1024

TEXTS = {
    "deadline-exceeded": "the time was up before anything was sent; nothing was applied",
    "overloaded": "a queue, the key's request window or a replica's disk is full; try again later",
    "quorum-unreachable": "too few replicas of the key are connected, so nothing was sent; try again when more are up",
    "answered": "this operation was answered before, so it is not run again",
    "too late to tell": "the operation's deadline passed too long ago for its outcome to be known",
    "in doubt": "the change was sent and not acknowledged by enough replicas; ask again with the same operation id",
    "clock-skew": "this node's clock is too far from the others'; ask another node",
}


class Statistics:
    """Counters since start and a sample of recent latencies; reading them changes nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.in_flight = 0
        self.value_bytes_in_flight = 0
        """Bytes of the large values among them: each goes to every owner, so they must fit into the outboxes."""
        self.done: dict[str, int] = {}
        self.repairs = 0
        self.on_idle: Callable[[], object] = lambda: None
        """Called whenever no request is left in flight."""
        self._latencies_s: list[float] = []
        self._answered = 0
        self._observed = 0
        self._rate = (clock.monotonic_s(), 0, 0.0)

    def on_answer(self, kind: str, started_s: float) -> None:
        """Count an operation's answer; every few of them, time it."""
        self.in_flight -= 1
        if not self.in_flight:
            self.on_idle()
        if kind == STATUS:
            return
        self.done[kind] = self.done.get(kind, 0) + 1
        self._answered = count = self._answered + 1
        if count % _SAMPLE_EVERY:
            return
        latency_s = self._clock.monotonic_s() - started_s
        if len(self._latencies_s) < _SAMPLES:
            self._latencies_s.append(latency_s)
        else:
            self._latencies_s[(count // _SAMPLE_EVERY) % _SAMPLES] = latency_s

    @property
    def answered(self) -> int:
        """Operations answered since start."""
        return self._answered

    @property
    def samples(self) -> int:
        """Samples since the last call of `recent_p99_ms`."""
        return self._answered // _SAMPLE_EVERY - self._observed

    def recent_p99_ms(self) -> tuple[float, int]:
        """Return p99 of the samples since the last call, and how many those are."""
        newest, oldest = self._answered // _SAMPLE_EVERY, self._observed
        self._observed = newest
        held = self._latencies_s
        count = min(newest - oldest, len(held))
        if not count:
            return 0.0, 0
        is_ring = len(held) == _SAMPLES
        recent = sorted([held[(newest - back) % _SAMPLES] for back in range(count)] if is_ring else held[-count:])
        return recent[int(len(recent) * 0.99)] * 1e3, count

    def ops_per_s(self) -> float:
        """Return the rate since the last call, or that call's answer if it was just now."""
        now_s = self._clock.monotonic_s()
        then_s, answered, rate = self._rate
        if now_s - then_s >= 0.5:
            rate = round((self._answered - answered) / (now_s - then_s), 1)
            self._rate = (now_s, self._answered, rate)
        return rate

    def latency_ms(self) -> dict[str, float]:
        """Return p50 and p99 of the sampled latencies in milliseconds; zeros before the first."""
        ordered = sorted(self._latencies_s) or [0.0]
        return {
            "p50": round(ordered[len(ordered) // 2] * 1e3, 3),
            "p99": round(ordered[int(len(ordered) * 0.99)] * 1e3, 3),
        }


class Request:
    """One admitted request: whom to answer, under which number."""

    __slots__ = (
        "_value_bytes",
        "is_explained",
        "is_forwarded",
        "is_open",
        "kind",
        "link",
        "number",
        "started_s",
        "statistics",
    )

    def __init__(
        self, link: Link, number: int, kind: str, started_s: float, statistics: Statistics, is_forwarded: bool
    ) -> None:
        self.link = link
        self.number = number
        self.kind = kind
        self.started_s = started_s
        self.statistics = statistics
        self.is_forwarded = is_forwarded
        self.is_explained = False
        self._value_bytes = 0
        self.is_open = True

    def weigh(self, content: bytes) -> None:
        """Count a large value in; small ones are bounded by the number of requests."""
        if len(content) > _LARGE_BYTES:
            self._value_bytes = len(content)
            self.statistics.value_bytes_in_flight += len(content)

    def answer(self, message: Message) -> None:
        """Send the answer; a second one is dropped (the deadline sweep may have been first)."""
        if not self.is_open:
            return
        self.is_open = False
        self.link.requests -= 1
        self.statistics.value_bytes_in_flight -= self._value_bytes
        self.statistics.on_answer(self.kind, self.started_s)
        self.link.send(message)

    def fail(self, code: str, text: str = "", *, is_settled: bool = False) -> None:
        """Answer that nothing was applied, by this attempt or, if settled, by any attempt of the operation."""
        self.answer((m.FAILED, self.number, code, "not applied", int(is_settled), text or TEXTS[code]))

    def leave_unknown(self, why: str = "in doubt") -> None:
        """Answer that the outcome is unknown; for ever, if asking again cannot find it out."""
        is_final = why != "in doubt"
        self.answer((m.FAILED, self.number, "outcome-unknown", "unknown", int(is_final), TEXTS[why]))

    def answer_result(self, result: Result) -> None:
        """Answer with what a round or a read found."""
        kind = result.kind
        if kind is op.APPLIED:
            self.answer((m.APPLIED, self.number, result.version, 0))
        elif kind is op.VALUE:
            self.answer((m.ITEM, self.number, result.body, result.explanation or {}))
        elif kind is op.CONFLICT:
            self.answer((m.CONFLICT, self.number, result.body))
        elif kind is op.NOT_APPLIED:
            self.fail(result.code, is_settled=result.is_settled)
        else:
            self.leave_unknown(result.code)


class ForwardLink:
    """Stands in for the link of a request that another node forwarded: wraps the answer for the way back."""

    __slots__ = ("_number", "_peer", "index", "requests")

    def __init__(self, peer: Link, number: int) -> None:
        self._peer = peer
        self._number = number
        self.index = -1
        self.requests = 0

    def send(self, message: Message) -> bool:
        """Send the answer back to the node that forwarded the request."""
        return self._peer.send((m.FORWARDED, self._number, list(message)))
