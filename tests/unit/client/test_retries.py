"""Failures: what is sent again, with which id, and what the end is called (R21-R25)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import kvclient
from kvclient.wire import messages as m
from kvclient.wire.values import body_pack

OLD = "0011223344556677/1/1700000000000/1700000005000"


def once(node: Any, kind: int, answer: Any) -> None:
    """Let a node answer its next request of a kind with `answer`, and go on as before."""
    before = node.rule

    def rule(message: list[Any]) -> Any:
        if message[0] != kind:
            return before and before(message)
        node.rule = before
        return answer(message) if callable(answer) else answer

    node.rule = rule


def ids(requests: list[list[Any]]) -> list[list[Any]]:
    """Return session, sequence, attempt, mark, times of each MUTATE."""
    return [request[3:9] for request in requests]


@pytest.mark.parametrize("failure", ["drop", "quorum-unreachable", "not-connected"])
async def test_a_read_goes_to_another_node(cluster: Any, kv: kvclient.Kv, failure: str) -> None:
    await kv.put("k", 1)
    node = cluster.primary("k")
    once(node, m.GET, node.DROP if failure == "drop" else lambda message: node.failed(message, failure))
    assert (await kv.get("k")).value == 1
    assert len(cluster.requests(m.GET)) == 2
    assert len(node.kinds(m.GET)) == 1


@pytest.mark.parametrize("failure", ["drop", "outcome-unknown"])
async def test_an_unknown_strong_write_is_asked_for_with_the_same_id(
    cluster: Any, kv: kvclient.Kv, failure: str
) -> None:
    """R23: the retry has the next attempt number and everything else unchanged; the effect happens once."""
    node = cluster.primary("n")

    def applied_but_lost(message: list[Any]) -> Any:
        cluster.answer(message)
        return node.DROP if failure == "drop" else node.failed(message, "outcome-unknown", "unknown")

    once(node, m.MUTATE, applied_but_lost)
    item = await kv.put("n", 1, consistency="strong")
    first, second = ids(sorted(cluster.requests(m.MUTATE), key=lambda request: request[5]))
    assert (first[2], second[2]) == (1, 2)
    assert first[:2] + first[3:] == second[:2] + second[3:]
    assert cluster.changes == 1
    assert item == await kv.get("n")


async def test_an_eventual_write_with_a_lost_answer_is_unknown_and_not_sent_again(
    cluster: Any, kv: kvclient.Kv
) -> None:
    """R25."""
    node = cluster.primary("k")
    once(node, m.WRITE, node.DROP)
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1)
    assert unknown.value.operation_id == ""
    assert len(cluster.requests(m.WRITE)) == 1


async def test_an_eventual_write_that_was_refused_goes_to_another_node(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    once(node, m.WRITE, lambda message: node.failed(message, "clock-skew"))
    await kv.put("k", 1)
    assert len(cluster.requests(m.WRITE)) == 2


async def test_an_exactly_once_write_repeats_its_stamp(cluster: Any, kv: kvclient.Kv) -> None:
    """R25: same V = same write."""
    node = cluster.primary("k")
    once(node, m.WRITE, node.DROP)
    await kv.put("k", 1, exactly_once=True)
    one, other = cluster.requests(m.WRITE)
    assert one[8] == other[8] != b""
    assert len(cluster.requests(m.STAMP)) == 1


async def test_a_refusal_from_every_owner_is_believed_long_before_the_deadline(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    for call in (
        kv.put("k", 1, consistency="strong", timeout=60),
        kv.put("k", 1, timeout=60),
        kv.get("k", consistency="strong", timeout=60),
    ):
        async with asyncio.timeout(10):
            with pytest.raises(kvclient.QuorumUnreachable) as refused:
                await call
        assert refused.value.outcome == "not applied"
    assert len(cluster.requests(m.MUTATE)) == 6
    assert {request[5] for request in cluster.requests(m.MUTATE)} == {1, 2, 3, 4, 5, 6}


async def test_a_refusal_after_an_unknown_attempt_does_not_say_not_applied(cluster: Any, kv: kvclient.Kv) -> None:
    """R21: definite only if it is so for every attempt."""
    node = cluster.primary("k")
    cluster.everywhere(lambda message: node.failed(message, "quorum-unreachable"))
    once(node, m.MUTATE, node.DROP)
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1, consistency="strong", timeout=0.5)
    cluster.everywhere(None)
    settled = await kv.put("k", 1, operation_id=unknown.value.operation_id)
    assert settled == await kv.get("k")


async def test_a_settled_refusal_holds_for_every_attempt(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    cluster.everywhere(lambda message: node.failed(message, "deadline-exceeded", settled=1))
    once(node, m.MUTATE, lambda message: node.failed(message, "outcome-unknown", "unknown"))
    with pytest.raises(kvclient.DeadlineExceeded) as late:
        await kv.put("k", 1, consistency="strong")
    assert late.value.outcome == "not applied"
    assert len(cluster.requests(m.MUTATE)) == 2


async def test_a_settled_unknown_is_not_asked_for_again(cluster: Any, kv: kvclient.Kv) -> None:
    """R24: later than that nobody can tell."""
    node = cluster.primary("k")
    cluster.everywhere(lambda message: node.failed(message, "outcome-unknown", "unknown", settled=1))
    for options in ({"consistency": "strong"}, {"operation_id": kv.new_operation_id()}, {"operation_id": OLD}):
        before = len(cluster.requests(m.MUTATE))
        with pytest.raises(kvclient.OutcomeUnknown, match="no node can tell any more") as unknown:
            await kv.put("k", 1, timeout=60, **options)
        assert not unknown.value.retryable
        assert "ask again" not in str(unknown.value)
        assert len(cluster.requests(m.MUTATE)) == before + 1


async def test_silence_until_the_deadline_is_unknown_for_a_write_and_late_for_a_read(
    cluster: Any, kv: kvclient.Kv
) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].HOLD)
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1, consistency="strong", timeout=0.05)
    assert unknown.value.operation_id
    with pytest.raises(kvclient.OutcomeUnknown):
        await kv.put("k", 1, timeout=0.05)
    with pytest.raises(kvclient.DeadlineExceeded):
        await kv.get("k", timeout=0.05)


async def test_an_invalid_request_is_not_repeated(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "invalid-request", text="no such thing"))
    for call in (kv.get("k"), kv.put("k", 1), kv.put("k", 1, create=True)):
        with pytest.raises(kvclient.InvalidRequest, match="no such thing"):
            await call
    assert len(cluster.requests()) == 3


@pytest.mark.parametrize("settled", [0, 1])
async def test_an_invalid_request_after_an_unknown_attempt_is_unknown(
    cluster: Any, kv: kvclient.Kv, settled: int
) -> None:
    """R21: one node's limits do not say what another has applied."""
    node = cluster.primary("k")
    cluster.everywhere(lambda message: node.failed(message, "invalid-request", settled=settled))
    once(node, m.MUTATE, node.DROP)
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1, consistency="strong", timeout=0.3)
    assert unknown.value.operation_id
    cluster.everywhere(None)
    assert await kv.put("k", 1, operation_id=unknown.value.operation_id) == await kv.get("k")


@pytest.mark.parametrize("settled", [0, 1])
async def test_an_invalid_request_leaves_earlier_calls_of_a_named_operation_open(
    cluster: Any, kv: kvclient.Kv, settled: int
) -> None:
    """R21."""
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "invalid-request", settled=settled))
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1, operation_id=OLD)
    assert isinstance(unknown.value.__cause__, kvclient.InvalidRequest)
    assert len(cluster.requests(m.MUTATE)) == 1


async def test_a_node_whose_clock_was_set_is_asked_for_its_time_again(cluster: Any, kv: kvclient.Kv) -> None:
    """R24: deadlines are said in the node's time, so a clock set forward must not make every later write too late."""

    def refuse_late(node: Any) -> Any:
        def rule(message: list[Any]) -> Any:
            is_late = message[0] == m.MUTATE and message[8] < cluster.now_ms()
            return node.failed(message, "deadline-exceeded") if is_late else None

        return rule

    for node in cluster.nodes:
        node.rule = refuse_late(node)
    await kv.put("k", 0, consistency="strong")
    cluster.clock_ahead_ms += 60_000
    with pytest.raises(kvclient.DeadlineExceeded):
        await kv.put("k", 1, consistency="strong")
    await kv.put("k", 2, consistency="strong")


async def test_overload_is_tried_again_at_the_same_node_a_few_times(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    cluster.everywhere(lambda message: node.failed(message, "overloaded"))
    with pytest.raises(kvclient.Overloaded):
        await kv.put("k", 1, consistency="strong")
    assert len(node.requests) == 4
    assert len(cluster.requests()) == 4


async def test_at_the_bound_of_a_link_a_request_is_refused_before_it_is_sent(cluster: Any) -> None:
    cluster.limits["link_requests_max"] = 2
    kv = await cluster.connect()
    node = cluster.primary("k")
    node.rule = lambda message: node.HOLD
    waiting = [asyncio.ensure_future(kv.get("k")) for _ in range(2)]
    await node.received(2)
    with pytest.raises(kvclient.Overloaded):
        await kv.get("k")
    with pytest.raises(kvclient.Overloaded):
        await kv.put("k", 1, create=True)
    assert len(cluster.requests()) == 2
    node.release()
    assert await asyncio.gather(*waiting) == [None, None]


# -- marks (R23)


async def test_the_mark_follows_definite_answers(cluster: Any, kv: kvclient.Kv) -> None:
    for _ in range(3):
        await kv.put("k", 1, consistency="strong")
    await kv.put("other", 1, consistency="strong")
    assert [(request[4], request[6]) for request in cluster.primary("k").kinds(m.MUTATE)[:3]] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]


async def test_the_mark_waits_for_the_oldest_in_flight(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    once(node, m.MUTATE, node.HOLD)
    held = asyncio.ensure_future(kv.put("k", 1, consistency="strong"))
    await node.received(1)
    await kv.put("k", 2, consistency="strong")
    await kv.put("k", 3, consistency="strong")
    node.release()
    await held
    await kv.put("k", 4, consistency="strong")
    assert [(request[4], request[6]) for request in node.kinds(m.MUTATE)] == [(1, 1), (2, 1), (3, 1), (4, 4)]


async def test_after_an_unknown_outcome_no_mark_passes_it(cluster: Any, kv: kvclient.Kv) -> None:
    """The session is retired: what was open in it stays open for ever, and busy keys do not fill their window."""
    node = cluster.primary("k")
    once(node, m.MUTATE, node.HOLD)
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1, consistency="strong", timeout=0.05)
    await kv.put("k", 2, consistency="strong")
    lost, later = ids(node.kinds(m.MUTATE))
    assert lost[0] != later[0]
    assert unknown.value.operation_id == f"{lost[0].hex()}/{lost[1]}/{lost[4]}/{lost[5]}"
    await kv.put("k", 1, operation_id=unknown.value.operation_id)
    asked = ids(node.kinds(m.MUTATE))[-1]
    assert (asked[:2], asked[2], asked[3], asked[4:]) == (lost[:2], 2, 0, lost[4:])


async def test_a_definite_refusal_releases_the_mark(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    with pytest.raises(kvclient.QuorumUnreachable):
        await kv.put("k", 1, consistency="strong")
    cluster.everywhere(None)
    with pytest.raises(kvclient.EtagMismatch):
        await kv.put("k", 1, etag="AAAA")
    await kv.put("k", 1, consistency="strong")
    last = cluster.primary("k").kinds(m.MUTATE)[-1]
    assert (last[4], last[6]) == (3, 3)
    assert not kv._cluster.session._open


async def test_a_named_operation_has_its_outcome_from_any_client(cluster: Any, kv: kvclient.Kv) -> None:
    operation = kv.new_operation_id(timeout=60)
    first = await kv.put("k", 1, operation_id=operation)
    other = await cluster.connect()
    again = await other.put("k", 1, operation_id=str(operation))
    assert first == again
    assert first.created_at == again.created_at
    assert cluster.changes == 1
    assert all(request[6] == 0 for request in cluster.requests(m.MUTATE))


async def test_a_refusal_of_a_named_operation_leaves_earlier_calls_open(cluster: Any, kv: kvclient.Kv) -> None:
    other = await cluster.connect()
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    async with asyncio.timeout(10):
        with pytest.raises(kvclient.OutcomeUnknown) as unknown:
            await kv.put("k", 1, operation_id=other.new_operation_id(), timeout=60)
    assert isinstance(unknown.value.__cause__, kvclient.QuorumUnreachable)
    assert min(request[5] for request in cluster.requests(m.MUTATE)) == 2
    operation = other.new_operation_id()
    for node in cluster.nodes:
        await node.stop()
    with pytest.raises(kvclient.OutcomeUnknown) as unknown:
        await kv.put("k", 1, operation_id=operation, timeout=0.1)
    assert unknown.value.operation_id == str(operation)


# -- ids that this client issued and nobody sent (R17, R23)


async def test_a_refusal_of_a_fresh_id_is_definite_however_often_it_is_tried(cluster: Any, kv: kvclient.Kv) -> None:
    """R23: attempts go on counting across calls, and the first one only is called the first."""
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    operation = kv.new_operation_id().with_sequence(7)
    for _ in range(2):
        with pytest.raises(kvclient.QuorumUnreachable) as refused:
            await kv.put("k", 1, operation_id=operation, timeout=60)
        assert refused.value.outcome == "not applied"
    attempts = sorted(request[5] for request in cluster.requests(m.MUTATE))
    assert attempts == list(range(1, 13))
    cluster.everywhere(None)
    await kv.put("k", 1, operation_id=operation)
    assert cluster.changes == 1


async def test_without_a_node_a_fresh_id_is_not_sent_and_not_applied(cluster: Any, kv: kvclient.Kv) -> None:
    operation = kv.new_operation_id()
    for node in cluster.nodes:
        await node.stop()
    while kv._cluster.links:
        await kv._cluster.wait_for_change(1)
    with pytest.raises(kvclient.NotConnected) as refused:
        await kv.put("k", 1, operation_id=operation, timeout=0.1)
    assert refused.value.outcome == "not applied"


@pytest.mark.parametrize("end", ["unknown", "cancelled", "applied", "conflict"])
async def test_once_sent_without_a_certain_refusal_an_id_is_fresh_no_more(
    cluster: Any, kv: kvclient.Kv, end: str
) -> None:
    """R17: a second call never says that it is the first attempt."""
    operation = kv.new_operation_id()
    node = cluster.primary("k")
    if end in ("unknown", "cancelled"):
        once(node, m.MUTATE, node.HOLD)
    if end == "conflict":
        await kv.put("k", 0)
    call = asyncio.ensure_future(
        kv.put("k", 1, create=end == "conflict", operation_id=operation, timeout=0.05 if end == "unknown" else 5)
    )
    await node.received(1, m.MUTATE)
    if end == "cancelled":
        call.cancel()
    await asyncio.wait((call,))
    assert [request[5] for request in node.kinds(m.MUTATE)] == [1]
    cluster.everywhere(lambda message: node.failed(message, "quorum-unreachable"))
    with pytest.raises(kvclient.OutcomeUnknown):
        await kv.put("k", 1, operation_id=operation)
    assert node.kinds(m.MUTATE)[1][5] == 2


async def test_an_id_that_went_through_a_text_may_have_been_sent_by_others(cluster: Any, kv: kvclient.Kv) -> None:
    operation = kv.new_operation_id()
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    for given in (str(operation), operation, operation._replace(deadline_ms=operation.deadline_ms + 1)):
        with pytest.raises(kvclient.OutcomeUnknown):
            await kv.put("k", 1, operation_id=given)
    assert min(request[5] for request in cluster.requests(m.MUTATE)) == 2


async def test_a_second_call_with_a_fresh_id_waits_for_the_first(cluster: Any, kv: kvclient.Kv) -> None:
    """R23: beside a second attempt, what the first one says of a refusal would not hold."""
    operation = kv.new_operation_id()
    node = cluster.primary("k")
    once(node, m.MUTATE, node.HOLD)
    first = asyncio.ensure_future(kv.put("k", 1, operation_id=operation))
    await node.received(1, m.MUTATE)
    with pytest.raises(kvclient.OutcomeUnknown, match="has not ended"):
        await kv.put("k", 1, operation_id=operation, timeout=0.01)
    second = asyncio.ensure_future(kv.put("k", 1, operation_id=str(operation)))
    await asyncio.wait((second,), timeout=0.01)
    assert len(cluster.requests(m.MUTATE)) == 1
    node.release()
    assert await first == await second
    assert [request[5] for request in cluster.requests(m.MUTATE)] == [1, 2]


# -- update() after an unknown outcome (section 4a)


async def test_update_settles_an_unknown_write_before_it_reads_again(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("n")
    await kv.put("n", 1, consistency="strong")

    def applied_but_lost(message: list[Any]) -> Any:
        cluster.answer(message)
        return node.DROP

    once(node, m.MUTATE, applied_but_lost)
    assert (await kv.update("n", lambda value: value + 1)).value == 2
    assert (await kv.get("n")).value == 2


async def test_update_resumes_an_operation_that_was_applied(cluster: Any, kv: kvclient.Kv) -> None:
    operation = kv.new_operation_id()
    await kv.put("n", 1, operation_id=operation)
    item = await kv.update("n", lambda value: value + 1, operation_id=operation)
    assert item.value == 1
    assert cluster.changes == 1


async def test_update_takes_a_fresh_id_when_the_named_one_came_too_late(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("n")
    once(node, m.MUTATE, lambda message: node.failed(message, "deadline-exceeded", settled=1))
    operation = kv.new_operation_id()
    assert (await kv.update("n", lambda value: value + 1, default=0, operation_id=operation)).value == 1
    named, fresh = node.kinds(m.MUTATE)
    assert named[3] == operation.session != fresh[3]


# -- cancellation


@pytest.mark.parametrize("options", [{"consistency": "strong"}, {"consistency": "eventual"}, {"exactly_once": True}])
async def test_a_cancelled_write_leaves_the_connection_whole(
    cluster: Any, kv: kvclient.Kv, options: dict[str, Any]
) -> None:
    node = cluster.primary("k")
    node.rule = lambda message: node.HOLD
    task = asyncio.ensure_future(kv.put("k", 1, **options))
    await node.received(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    node.rule = None
    node.release()
    await kv.put("k", 2, **options)
    assert (await kv.get("k")).value == 2
    assert len(node.hellos) == 1


async def test_a_cancelled_write_that_was_sent_keeps_its_mark(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    node.rule = lambda message: node.HOLD
    tasks = [asyncio.ensure_future(kv.put("k", number, consistency="strong")) for number in range(2)]
    await node.received(2)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    node.rule = None
    await kv.put("k", 2, consistency="strong")
    once(node, m.MUTATE, node.DROP)
    for peer in list(node.peers):
        peer.transport.abort()
    await tasks[1]
    cancelled, other, later = ids(node.kinds(m.MUTATE))[:3]
    retried = ids(cluster.requests(m.MUTATE))
    assert later[0] != cancelled[0] == other[0]
    assert {request[3] for request in retried if request[0] == cancelled[0]} == {cancelled[1]}


async def test_a_write_cancelled_before_it_could_be_sent_costs_nothing(make_cluster: Any) -> None:
    cluster = make_cluster(nodes=1)
    await cluster.start()
    try:
        kv = await cluster.connect()
        await cluster.nodes[0].stop()
        while kv._cluster.links:
            await kv._cluster.wait_for_change(1)
        session = kv._cluster.session
        task = asyncio.ensure_future(kv.put("k", 1, consistency="strong"))
        await asyncio.wait((task,), timeout=0.01)
        task.cancel()
        await asyncio.wait((task,))
        assert kv._cluster.session is session
        assert not session._open
    finally:
        await cluster.close()


async def test_an_answer_that_comes_after_its_deadline_is_dropped(cluster: Any, kv: kvclient.Kv) -> None:
    node = cluster.primary("k")
    node.rule = lambda message: node.HOLD
    with pytest.raises(kvclient.DeadlineExceeded):
        await kv.get("k", timeout=0.05)
    node.rule = None
    node.release()
    cluster.rows[b"default\0k"] = body_pack(bytes(43) + b"1", 0, 1, b"\x011")
    assert (await kv.get("k")).value == 1
