"""What people ask of a node: its status, a page of its keys, the state of one key at every replica.

Decides: which facts are shown, and how a page of keys is put together.  Leaves to others: the tables that people see
(`cli`). Nothing here changes anything.  A page and an explanation show what replicas have now: eventual views.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from itertools import islice
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_BALLOT, Ballot, body_content, body_times, etag_of
from kvnode.core.proposer import Promise
from kvnode.core.reading import FastRead, Reading
from kvnode.core.record import EMPTY_IMAGE, Image, entry_version
from kvnode.core.register import digest_of, visible_body
from kvnode.core.version import ballot_text, version_text
from kvnode.runtime import Runtime
from kvnode.service.exchange import Exchanges
from kvnode.service.placement import Placement
from kvnode.service.registers import Registers
from kvnode.service.requests import Request
from kvnode.service.states import promise_of
from kvnode.storage.engine import Engine

_EXPLAIN_S = 1.0
"""How long an explanation waits for a silent replica."""
_PAGE_BYTES = 1 << 20
"""A page with values ends after this much, so that a page always fits into a frame."""


class _Explanation:
    """Whole states of one key, gathered from every owner."""

    __slots__ = ("deadline_s", "inspection", "key", "number", "placement", "promises", "request", "silent", "states")

    def __init__(
        self, inspection: Inspection, request: Request, key: bytes, placement: Placement, deadline_s: float
    ) -> None:
        self.inspection = inspection
        self.request = request
        self.key = key
        self.placement = placement
        self.deadline_s = deadline_s
        self.number = 0
        self.states: dict[int, Promise] = {}
        self.promises: dict[int, str] = {}
        self.silent: dict[int, str] = {}

    def on_reply(self, index: int, message: Message) -> None:
        if message[0] == m.PROMISE:
            self.states[index] = promise_of(message)
            self.promises[index] = ballot_text(message[11])
        else:
            self.silent[index] = "refused to answer"
        self._check()

    def on_lost(self, index: int) -> None:
        if index in self.placement.owners:
            self.silent[index] = "not connected"
            self._check()

    def _check(self) -> None:
        if len(self.states) + len(self.silent) >= len(self.placement.owners):
            self.inspection.finish(self)


class Inspection:
    """Answers STATUS, SCAN and EXPLAIN."""

    def __init__(
        self,
        names: list[str],
        exchanges: Exchanges,
        registers: Registers,
        engine: Engine,
        runtime: Runtime,
        epoch: int,
        partitions: int,
        page_max: int,
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        self._names = names
        self._exchanges = exchanges
        self._registers = registers
        self._engine = engine
        self._runtime = runtime
        self._epoch = epoch
        self._partitions = partitions
        self._page_max = page_max
        self._facts = facts
        self._open: dict[int, _Explanation] = {}

    # -- status

    def status(self, request: Request) -> None:
        """Answer with this node's facts."""
        request.answer((m.RESULT, request.number, self._facts()))

    # -- scan

    def scan(self, request: Request, message: Message) -> None:
        """Answer with one page of keys, in order, over the partitions asked for."""
        _, _, store, prefix, partitions, after, limit, with_values = message
        if any(type(number) is not int or not 0 <= number < self._partitions for number in partitions):
            request.fail("invalid-request", f"partitions are numbers from 0 to {self._partitions - 1}")
            return
        if not 0 < limit <= self._page_max:
            request.fail("invalid-request", f"the limit is {limit}; allowed: 1 to {self._page_max} (scan_page_max)")
            return
        head = store.encode() + b"\0"
        streams = [self._keys(number, head, prefix.encode(), after.encode()) for number in sorted(set(partitions))]
        page: list[list[Any]] = []
        size = more = 0
        for key, body in heapq.merge(*streams, key=lambda row: row[0]):
            if len(page) == limit or size > _PAGE_BYTES:
                more = 1
                break
            page.append([key.decode(), body if with_values else b""])
            size += len(key) + (len(body) if with_values else 0)
        for stream in streams:
            stream.close()
        request.answer((m.PAGE, request.number, page, more))

    def _keys(
        self, partition: int, head: bytes, prefix: bytes, after: bytes
    ) -> Generator[tuple[bytes, bytes], None, None]:
        """Yield (key, body) of what one partition shows from `after` on; memory is ahead of the rows on disk."""
        base = partition.to_bytes(2, "big") + head
        start = base + (after + b"\0" if after >= prefix and after else prefix)
        now_ms = self._runtime.clock.wall_ms()
        rows = self._engine.scan(start, base + prefix + b"\xff" * 8)
        try:
            for row_key, image in rows:
                register = self._registers.peek(row_key)
                body = visible_body(register.shown if register is not None else image)
                if body and body_content(body) and not 0 < body_times(body)[0] <= now_ms:
                    yield row_key[len(base) :], body
        finally:
            rows.close()

    # -- explain

    def explain(self, request: Request, placement: Placement, name: bytes) -> None:
        """Ask every owner for its whole state of a key; answered when all did, or after a second."""
        key = placement.prefix + name
        explanation = _Explanation(self, request, key, placement, self._runtime.clock.monotonic_s() + _EXPLAIN_S)
        explanation.number = number = self._exchanges.begin(explanation)
        self._open[number] = explanation
        reached = self._exchanges.send(placement.owners, (m.READ, number, self._epoch, key, 1))
        for index in placement.owners:
            if not reached >> index & 1 and number in self._open:
                explanation.on_lost(index)

    def finish(self, explanation: _Explanation) -> None:
        """Answer an explanation with what has come in."""
        self._exchanges.end(explanation.number)
        self._open.pop(explanation.number, None)
        placement = explanation.placement
        store, _, key = explanation.key[2:].partition(b"\0")
        differ = _differ(explanation)
        facts = {
            "key": key.decode(),
            "store": store.decode(),
            "partition": int.from_bytes(placement.prefix, "big"),
            "preference": [self._names[index] for index in placement.preference],
            "replicas": [self._replica_facts(explanation, index) for index in placement.owners],
            "agree": not differ and len(explanation.states) == len(placement.owners),
            "differ": differ,
            "strong_read": _strong_read(explanation),
        }
        explanation.request.answer((m.RESULT, explanation.request.number, facts))

    def _replica_facts(self, explanation: _Explanation, index: int) -> dict[str, Any]:
        name = self._names[index]
        state = explanation.states.get(index)
        if state is None:
            return {"node": name, "error": explanation.silent.get(index, "no answer in time")}
        return {
            "node": name,
            "accepted": _part(state.accepted_ballot, state.accepted.body),
            "committed": _part(state.committed_ballot, state.committed.body),
            "overlay": _part(NO_BALLOT, state.overlay[1:]),
            "settled": state.settled,
            "promised": explanation.promises[index],
        }

    # -- time

    def sweep(self, now_s: float) -> None:
        """Answer explanations that have waited long enough."""
        for explanation in [open_ for open_ in self._open.values() if open_.deadline_s < now_s]:
            self.finish(explanation)


def _part(ballot: bytes, body: bytes) -> dict[str, Any] | None:
    if not body:
        return None
    version = body[:44]
    size = len(body_content(body)) - 1
    what = "deleted" if size < 0 else f"{size} byte{'' if size == 1 else 's'}"
    facts: dict[str, Any] = {"version": version_text(version), "etag": etag_of(version), "value": what}  # type: ignore[arg-type]
    expires_ms = body_times(body)[0]
    if size >= 0 and expires_ms:
        facts["expires_ms"] = expires_ms
    return {"ballot": ballot_text(ballot), **facts} if ballot else facts  # type: ignore[arg-type]


def _image(state: Promise) -> Image:
    return EMPTY_IMAGE._replace(
        accepted_ballot=state.accepted_ballot,
        accepted=state.accepted,
        committed_ballot=state.committed_ballot,
        committed=state.committed,
        overlay=state.overlay,
        settled=state.settled,
    )


def _differ(explanation: _Explanation) -> bool:
    """Return whether some of those that answered show something else than others."""
    shown = {
        (
            NO_BALLOT if state.settled else max(state.accepted_ballot, state.committed_ballot),
            entry_version(state.overlay),
        )
        for state in explanation.states.values()
    }
    return len(shown) > 1


def _strong_read(explanation: _Explanation) -> str:
    """Say what a strong read that got these answers would do."""
    if len(explanation.states) < explanation.placement.quorums.read:
        return "is refused: too few replicas answer"
    read = FastRead(explanation.placement.quorums)
    reading = Reading.PENDING
    for index, state in islice(explanation.states.items(), explanation.placement.quorums.n):
        reading = read.on_digest(index, digest_of(_image(state), state.floor))
        if reading is Reading.SETTLED:
            return _at_once([_image(answer) for answer in explanation.states.values()], read.ballot)
        if reading is Reading.ROUND:
            return "runs a round to absorb the overlay"
    return "runs a round, because no record is proved to be chosen"


def _at_once(images: list[Image], ballot: Ballot) -> str:
    """Say what one round trip shows."""
    if not ballot:
        return "answers at once: absent"
    words = f"answers at once with ballot {ballot_text(ballot)}"
    for image in images:
        for held, record in ((image.accepted_ballot, image.accepted), (image.committed_ballot, image.committed)):
            if held == ballot:
                return f"{words}: deleted" if record.is_tombstone else words
    return words
