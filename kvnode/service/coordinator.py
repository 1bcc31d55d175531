"""The coordinator: takes a client's request, checks it, and gives it to those who carry it out.

Decides: admission (bounds, validity, the store's policy), which path a request takes (protocol section 2), and
forwarding.  Leaves to others: strong operations (`consensus`, `reads`), eventual ones (`eventual`), the replica's own
work, facts (`inspection`).

A request for a key of which this node is no replica goes to the first owner that can be reached, one hop; an answer
that is lost after sending is an unknown outcome (4a).  Overload is answered at once, before anything was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvclient.wire.values import NO_VERSION, TTL_MS_MAX, VERSION_BYTES, Version, etag_parse
from kvnode.config import Limits
from kvnode.core.operation import CHECK_ABSENT, CHECK_ETAG, CHECK_NONE, Operation, Step
from kvnode.runtime import Runtime
from kvnode.service.consensus import Consensus
from kvnode.service.drafts import Draft
from kvnode.service.eventual import Eventual
from kvnode.service.exchange import Exchanges, Link
from kvnode.service.fallback import Fallback
from kvnode.service.inspection import Inspection
from kvnode.service.placement import BadName, Placement, Placements
from kvnode.service.requests import STATUS, ForwardLink, Request, Statistics

_TRANSACTION_STEPS_MAX = 128
_FORWARD_GRACE_S = 0.25


class Comparisons(Protocol):
    """What compares this node's copies with those of others, when somebody asks for it."""

    def repair(self, store: str) -> None:
        """Begin to compare one store, or all (empty), unless that is under way."""

    def demand_facts(self) -> dict[str, Any]:
        """Return how far that is."""


class InvalidRequest(ValueError):
    """A field of a request is outside its bounds; the text names it, its value and the bound."""


class SkewedRequest(Exception):
    """A request of a time that is not this node's: its clock, or that of the node which told the client, is wrong."""


class _Forwarded:
    """A request that another node works on."""

    __slots__ = ("coordinator", "deadline_s", "has_effect", "number", "request", "target")

    def __init__(
        self, coordinator: Coordinator, request: Request, target: int, deadline_s: float, *, has_effect: bool
    ) -> None:
        self.coordinator = coordinator
        self.request = request
        self.target = target
        self.deadline_s = deadline_s
        self.has_effect = has_effect
        self.number = 0

    def on_reply(self, index: int, message: Message) -> None:
        if index != self.target or message[0] != m.FORWARDED:
            return
        answer = message[2]
        m.check(answer)
        if answer[0] not in m.CLIENT_ANSWERS:
            raise m.MessageError(f"a forwarded answer of kind {answer[0]}")
        answer[1] = self.request.number
        self.coordinator.close_forwarded(self.number)
        self.request.answer(tuple(answer))

    def on_lost(self, index: int) -> None:
        if index == self.target:
            self.give_up("quorum-unreachable")

    def give_up(self, code: str) -> None:
        self.coordinator.close_forwarded(self.number)
        if self.has_effect:
            self.request.leave_unknown()
        else:
            self.request.fail(code)


class Coordinator:
    """The requests of all clients of this node."""

    def __init__(
        self,
        placements: Placements,
        exchanges: Exchanges,
        consensus: Consensus,
        eventual: Eventual,
        fallback: Fallback,
        inspection: Inspection,
        anti_entropy: Comparisons,
        statistics: Statistics,
        runtime: Runtime,
        limits: Limits,
    ) -> None:
        self._placements = placements
        self._exchanges = exchanges
        self._consensus = consensus
        self._eventual = eventual
        self._fallback = fallback
        self._inspection = inspection
        self._anti_entropy = anti_entropy
        self._statistics = statistics
        self._runtime = runtime
        self._limits = limits
        self._forwarded: dict[int, _Forwarded] = {}
        self.is_serving = False

    def handlers(self) -> dict[int, Callable[[Link, Message], None]]:
        """Return the handler of each message kind that a client may send."""
        return dict.fromkeys(m.CLIENT_REQUESTS, self.on_request)

    # -- admission

    def on_request(self, link: Link, message: Message) -> None:
        """Take a client's request."""
        self._admit(link, message, is_forwarded=False)

    def on_forward(self, link: Link, message: Message) -> None:
        """Take a request that another node forwards; it is answered to that node, and never forwarded again."""
        request = message[2]
        m.check(request)
        if request[0] not in m.FORWARDABLE:
            raise m.MessageError(f"a forwarded request of kind {request[0]}")
        self._admit(ForwardLink(link, message[1]), request, is_forwarded=True)

    def _admit(self, link: Link, message: Message, *, is_forwarded: bool) -> None:
        statistics = self._statistics
        statistics.in_flight += 1
        link.requests += 1
        kind = message[0]
        request = Request(link, message[1], _KINDS[kind], self._runtime.clock.monotonic_s(), statistics, is_forwarded)
        if not self.is_serving:
            request.fail("not-connected", "this node does not serve yet, or is shutting down; ask another one")
        elif statistics.in_flight > self._limits.requests_in_flight_max:
            request.fail("overloaded", f"this node works on {self._limits.requests_in_flight_max} requests already")
        elif statistics.value_bytes_in_flight > self._limits.outbox_bytes_max // 4:
            request.fail(
                "overloaded", f"{statistics.value_bytes_in_flight} bytes of large values are in flight already"
            )
        elif link.requests > self._limits.link_requests_max:
            request.fail(
                "overloaded", f"this connection has {self._limits.link_requests_max} requests in flight already"
            )
        else:
            try:
                self._dispatch(kind, request, message)
            except SkewedRequest as skewed:
                request.fail("clock-skew", str(skewed))
            except (BadName, InvalidRequest) as error:
                is_settled = _is_only_attempt(message)
                request.fail("invalid-request", str(error), is_settled=is_settled)

    def _dispatch(self, kind: int, request: Request, message: Message) -> None:
        if kind == m.STATUS:
            self._inspection.status(request)
        elif kind == m.SCAN:
            self._inspection.scan(request, message)
        elif kind == m.COMPARE:
            if message[2]:
                self._anti_entropy.repair(message[3])
            request.answer((m.RESULT, request.number, self._anti_entropy.demand_facts()))
        else:
            placement = self._placements.of(message[2])
            if placement.is_home:
                _PATHS[kind](self, request, placement, message)
            else:
                self._forward(request, placement, message)

    # -- paths

    def _get(self, request: Request, placement: Placement, message: Message) -> None:
        _, _, name, strong, r, timeout_ms, explain = message
        key = placement.prefix + name
        request.is_explained = bool(explain)
        self._check_timeout(timeout_ms)
        if not 0 <= r <= placement.quorums.n:
            raise InvalidRequest(f"r is {r}; this store has {placement.quorums.n} replicas")
        if strong:
            request.kind = "strong get"
            now_ms = self._runtime.clock.wall_ms()
            operation = Operation((), b"", 0, 1, 0, now_ms, now_ms + timeout_ms, request.answer_result)
            operation.is_explained = request.is_explained
            operation.copies = r if r > placement.quorums.read else 0
            self._consensus.submit(key, placement, operation)
            return
        self._eventual.read(request, key, placement, r, request.started_s + timeout_ms / 1000)

    def _mutate(self, request: Request, placement: Placement, message: Message) -> None:
        _, _, name, session, sequence, attempt, mark, issued_at_ms, deadline_ms, action, check, etag = message[:12]
        content, ttl_ms, w = message[12:]
        self._check_operation(session, sequence, attempt, mark, issued_at_ms, deadline_ms)
        request.kind = "strong put" if action == m.PUT and check == CHECK_NONE else _ACTIONS.get(action, "first-write")
        if action == m.TRANSACT:
            steps = self._transaction(content, issued_at_ms)
        else:
            steps = (self._step(action, check, etag, content, ttl_ms, issued_at_ms),)
        if not 0 <= w <= placement.quorums.n:
            raise InvalidRequest(f"w is {w}; this store has {placement.quorums.n} replicas")
        operation = Operation(steps, session, sequence, attempt, mark, issued_at_ms, deadline_ms, request.answer_result)
        operation.copies = w if w > placement.quorums.q2 else 0
        request.weigh(content)
        self._consensus.submit(placement.prefix + name, placement, operation)

    def _check_operation(
        self, session: bytes, sequence: int, attempt: int, mark: int, issued_at_ms: int, deadline_ms: int
    ) -> None:
        if len(session) != 8 or not 0 < sequence < 1 << 63 or not 0 <= mark <= sequence or attempt < 1:
            raise InvalidRequest(
                "the operation id is malformed: session of 8 bytes, sequence, mark and attempt in order"
            )
        lives_ms, longest_s = deadline_ms - issued_at_ms, self._limits.timeout_s_max
        if not 0 < lives_ms <= longest_s * 1000 or not 0 < issued_at_ms < 1 << 47:
            raise InvalidRequest(f"the deadline is {lives_ms} ms after the issue; allowed: 1 ms to {longest_s:g} s")
        if issued_at_ms > self._runtime.clock.wall_ms() + _FUTURE_MS:
            raise SkewedRequest("the operation was issued over an hour ahead of this node's clock; ask another node")

    def _step(self, action: int, check: int, etag: str, content: bytes, ttl_ms: int, issued_at_ms: int) -> Step:
        if action not in (m.PUT, m.DELETE) or check not in (CHECK_NONE, CHECK_ETAG, CHECK_ABSENT):
            raise InvalidRequest(f"unknown action {action} or check {check}")
        if action == m.PUT and not content:
            raise InvalidRequest("a put without content; deleting is an action of its own")
        self._check_content(content, ttl_ms)
        version = (etag_parse(etag) or NO_VERSION) if check == CHECK_ETAG else NO_VERSION
        if action == m.DELETE:
            return Step(check, version, b"", 0)
        return Step(check, version, content, issued_at_ms + ttl_ms if ttl_ms else 0)

    def _transaction(self, packed: bytes, issued_at_ms: int) -> tuple[Step, ...]:
        try:
            steps = msgpack.unpackb(packed, max_array_len=_TRANSACTION_STEPS_MAX)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise InvalidRequest(
                f"a transaction of at most {_TRANSACTION_STEPS_MAX} steps was expected: {error}"
            ) from None
        fields = (int, int, str, bytes, int)
        if type(steps) is not list or not steps:
            raise InvalidRequest("a transaction needs at least one step")
        if any(type(step) is not list or tuple(map(type, step)) != fields for step in steps):
            raise InvalidRequest("a step of a transaction is action, check, etag, content, ttl in milliseconds")
        return tuple(
            self._step(action, check, etag, content, ttl_ms, issued_at_ms)
            for action, check, etag, content, ttl_ms in steps
        )

    def _write(self, request: Request, placement: Placement, message: Message) -> None:
        _, _, name, w, timeout_ms, content, ttl_ms, token, stamp = message
        draft = self._draft(request, placement, name, w, timeout_ms, token)
        self._check_content(content, ttl_ms)
        draft.content, draft.ttl_ms = content, ttl_ms
        request.weigh(content)
        if not placement.is_home:
            self._fallback.write(draft)
        elif not stamp:
            self._eventual.write(draft)
        elif len(stamp) == VERSION_BYTES + 1:
            self._eventual.send_stamped(draft, stamp)
        else:
            raise InvalidRequest(f"a stamp has {VERSION_BYTES + 1} bytes, not {len(stamp)}")

    def _stamp(self, request: Request, placement: Placement, message: Message) -> None:
        _, _, name, timeout_ms, token = message
        draft = self._draft(request, placement, name, 1, timeout_ms, token)
        draft.stamp_only = True
        self._eventual.write(draft)

    def _draft(
        self, request: Request, placement: Placement, name: bytes, w: int, timeout_ms: int, token: bytes
    ) -> Draft:
        self._check_timeout(timeout_ms)
        if placement.store.mix == "strong-only":
            raise InvalidRequest(f'store {placement.store.name!r} takes strong writes only (mix = "strong-only")')
        if not 0 <= w <= placement.quorums.n:
            raise InvalidRequest(f"w is {w}; this store has {placement.quorums.n} replicas")
        if len(token) not in (0, VERSION_BYTES):
            raise InvalidRequest(f"a token has {VERSION_BYTES} bytes, not {len(token)}")
        draft = Draft(request, placement.prefix + name, placement, w, b"", 0, Version(token))
        draft.deadline_s = request.started_s + timeout_ms / 1000
        return draft

    def _explain(self, request: Request, placement: Placement, message: Message) -> None:
        self._inspection.explain(request, placement, message[2])

    # -- checks

    def _check_timeout(self, timeout_ms: int) -> None:
        if not 0 < timeout_ms <= self._limits.timeout_s_max * 1000:
            raise InvalidRequest(f"the timeout is {timeout_ms} ms; allowed: 1 ms to {self._limits.timeout_s_max:g} s")

    def _check_content(self, content: bytes, ttl_ms: int) -> None:
        if len(content) > self._limits.value_bytes_max + 1:
            raise InvalidRequest(f"the value has {len(content) - 1} bytes; allowed: {self._limits.value_bytes_max}")
        if content and content[0] > 1:
            raise InvalidRequest(f"content tag {content[0]} is unknown; 0 is bytes, 1 is JSON")
        if not 0 <= ttl_ms <= TTL_MS_MAX:
            raise InvalidRequest(f"the ttl is {ttl_ms} ms; allowed: 0 (never expires) to {TTL_MS_MAX} ms")

    # -- forwarding

    def _forward(self, request: Request, placement: Placement, message: Message) -> None:
        if request.is_forwarded:
            request.fail(
                "not-connected", "this node holds no copy of the key, and forwards only once; the rings differ"
            )
            return
        timeout_s = _timeout_s(message, self._runtime.clock.wall_ms())
        owners = self._exchanges.by_trust(placement.owners)
        if message[0] == m.WRITE and message[3] == 0 and not message[8]:
            owners = self._exchanges.trusted(placement.owners)  # with w="any" a hint is enough
            if not owners:
                self._write(request, placement, message)
                return
        for target in owners:
            link = self._exchanges.links[target]
            if link is None:
                continue
            has_effect = message[0] in (m.MUTATE, m.WRITE)
            forwarded = _Forwarded(
                self, request, target, request.started_s + timeout_s + _FORWARD_GRACE_S, has_effect=has_effect
            )
            forwarded.number = number = self._exchanges.begin(forwarded)
            if link.send((m.FORWARD, number, message)):
                self._forwarded[number] = forwarded
                return
            self._exchanges.end(number)
        request.fail("quorum-unreachable")

    def close_forwarded(self, number: int) -> None:
        """Forget a forwarded request."""
        self._exchanges.end(number)
        self._forwarded.pop(number, None)

    # -- time

    def sweep(self, now_s: float) -> None:
        """Answer what is past its deadline."""
        for forwarded in [forwarded for forwarded in self._forwarded.values() if forwarded.deadline_s < now_s]:
            forwarded.give_up("deadline-exceeded")


def _timeout_s(message: Message, now_ms: int) -> float:
    kind = message[0]
    if kind == m.MUTATE:
        remaining_ms: int = message[8] - now_ms
    elif kind == m.GET:
        remaining_ms = message[5]
    elif kind == m.WRITE:
        remaining_ms = message[4]
    else:
        remaining_ms = 5000 if kind == m.EXPLAIN else message[3]
    return min(max(remaining_ms, 0), 3_600_000) / 1000


def _is_only_attempt(message: Message) -> bool:
    """Return whether a refusal of this request speaks for every attempt.  Limits may differ between nodes, and in time:
    an earlier attempt of the operation, or a write with the same stamp, may have been applied (R21)."""
    kind = message[0]
    return bool(message[5] == 1) if kind == m.MUTATE else kind != m.WRITE


_FUTURE_MS = 3_600_000
"""Times are server time, but of another server perhaps: clocks may differ, strong operations go on (R4)."""
_KINDS = {
    m.GET: "eventual get",
    m.MUTATE: "strong put",
    m.WRITE: "eventual put",
    m.STAMP: "stamp",
    m.SCAN: "scan",
    m.STATUS: STATUS,
    m.EXPLAIN: "explain",
    m.COMPARE: STATUS,
}
_ACTIONS = {m.DELETE: "strong delete", m.TRANSACT: "transact"}
_PATHS: dict[int, Callable[[Coordinator, Request, Placement, Message], None]] = {
    m.GET: Coordinator._get,
    m.MUTATE: Coordinator._mutate,
    m.WRITE: Coordinator._write,
    m.STAMP: Coordinator._stamp,
    m.EXPLAIN: Coordinator._explain,
}
