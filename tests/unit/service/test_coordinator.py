"""Admission: every field out of its bounds is refused before anything is sent; forwarding is one hop (protocol 4a)."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from schedule import catch, put, settle, trio
from world import SESSION, Call, World, name_of

from kvclient.wire import messages as m
from kvclient.wire.values import TTL_MS_MAX
from kvnode.config import Limits, StoreConfig
from kvnode.service.requests import ForwardLink

NAME = name_of("k")
KIB = 1024
SMALL = Limits(value_bytes_max=KIB)


def spied(**options: Any) -> tuple[World, list[int]]:
    """Return a world and the kinds of the messages that go between its nodes from now on."""
    world = World(3, limits=SMALL, **options)
    sent: list[int] = []

    def note(source: int, target: int, message: tuple[Any, ...]) -> bool:
        sent.append(message[0])
        return True

    world.on_post = note
    return world, sent


def refused(call: Call, world: World, sent: list[int]) -> None:
    world.run()
    assert (call.code, call.outcome) == ("invalid-request", "not applied")
    assert sent == []
    assert call.answer is not None
    assert call.answer[5], "an error says what was wrong"
    for index in range(3):
        assert not world.hosts[index].engine.load(world.row_key("k"))
        assert world.hosts[index].node.statistics.in_flight == 0


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"default",
        b"default\0",
        b"\0k",
        b"default\0" + b"k" * 1025,
        b"s" * 129 + b"\0k",
        b"default\0\xff\xfe",
        b"\xff\0k",
        b"default\0\xed\xa0\x80",
    ],
)
@pytest.mark.parametrize("kind", ["get", "put", "write", "stamp", "explain"])
def test_a_bad_name_is_refused(kind: str, name: bytes) -> None:
    world, sent = spied()
    now = world.now_ms()
    request: tuple[Any, ...] = {
        "get": (m.GET, name, 1, 1, 1000, 0),
        "put": (m.MUTATE, name, SESSION, 1, 1, 0, now, now + 1000, m.PUT, 0, "", b"\0v", 0, 0),
        "write": (m.WRITE, name, 1, 1000, b"\0v", 0, b"", b""),
        "stamp": (m.STAMP, name, 1000, b""),
        "explain": (m.EXPLAIN, name),
    }[kind]
    call = world.ask(0, *request)
    world.run()
    assert (call.code, call.outcome) == ("invalid-request", "not applied")
    assert sent == []


@pytest.mark.parametrize("strong", [0, 1])
@pytest.mark.parametrize(
    ("r", "timeout_ms"), [(-1, 1000), (4, 1000), (1 << 40, 1000), (1, 0), (1, -5), (1, 3_600_001), (1, 1 << 62)]
)
def test_a_get_out_of_bounds_is_refused(strong: int, r: int, timeout_ms: int) -> None:
    world, sent = spied()
    refused(world.ask(world.owners("k")[0], m.GET, NAME, strong, r, timeout_ms, 0), world, sent)


FIELDS = [
    "session",
    "sequence",
    "attempt",
    "mark",
    "issued",
    "deadline",
    "action",
    "check",
    "etag",
    "content",
    "ttl",
    "w",
]
GOOD = [SESSION, 5, 1, 0, 0, 1000, m.PUT, 0, "", b"\0v", 0, 0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("session", b""), ("session", b"1234567"), ("session", b"123456789")],
        *[("sequence", 0), ("sequence", -1), ("sequence", 1 << 63)],
        *[("attempt", 0), ("attempt", -1), ("mark", -1), ("mark", 6)],
        *[
            ("deadline", 0),
            ("deadline", -1),
            ("deadline", 3_600_001),
            ("issued", -(1 << 48)),
        ],
        *[("action", 3), ("action", -1), ("check", 3), ("check", -1)],
        *[("content", b""), ("content", b"\2v"), ("content", b"\xffv"), ("content", bytes(KIB + 2))],
        *[("ttl", -1), ("ttl", TTL_MS_MAX + 1), ("ttl", 1 << 62), ("w", -1), ("w", 4)],
    ],
)
def test_a_mutation_out_of_bounds_is_refused(field: str, value: Any) -> None:
    world, sent = spied()
    fields = list(GOOD)
    fields[FIELDS.index(field)] = value
    fields[4] += world.now_ms()
    fields[5] += fields[4]
    refused(world.ask(world.owners("k")[0], m.MUTATE, NAME, *fields), world, sent)


@pytest.mark.parametrize(("ahead_ms", "code"), [(3_600_000, ""), (3_600_001, "clock-skew")])
def test_a_mutation_of_another_time_is_no_fault_of_its_client(ahead_ms: int, code: str) -> None:
    """R4: it has the time from another node, and one of the two clocks is wrong; the client asks elsewhere."""
    world, _ = spied()
    fields = list(GOOD)
    fields[4] += world.now_ms() + ahead_ms
    fields[5] += fields[4]
    call = world.ask(world.owners("k")[0], m.MUTATE, NAME, *fields)
    world.run()
    assert call.answer is not None
    assert call.answer[2:5] == [code, "not applied", 0] if code else call.kind == m.APPLIED


def test_the_good_mutation_is_good() -> None:
    world, _ = spied()
    fields = list(GOOD)
    fields[4] += world.now_ms()
    fields[5] += fields[4]
    call = world.ask(world.owners("k")[0], m.MUTATE, NAME, *fields)
    world.run()
    assert call.kind == m.APPLIED


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x91",
        msgpack.packb([]),
        msgpack.packb({}),
        msgpack.packb(7),
        msgpack.packb([[m.PUT, 0, "", b"\0v"]]),
        msgpack.packb([[m.PUT, 0, b"", b"\0v", 0]]),
        msgpack.packb([[m.PUT, 0, "", b"\0v", True]]),
        msgpack.packb([[m.TRANSACT, 0, "", b"\0v", 0]]),
        msgpack.packb([[m.PUT, 9, "", b"\0v", 0]]),
        msgpack.packb([[m.PUT, 0, "", b"", 0]]),
        msgpack.packb([[m.PUT, 0, "", b"\7v", 0]]),
        msgpack.packb([[m.PUT, 0, "", bytes(KIB + 2), 0]]),
        msgpack.packb([[m.PUT, 0, "", b"\0v", -1]]),
        msgpack.packb([[m.DELETE, 0, "", b"", 0]] * 129),
        msgpack.packb([[m.DELETE, 0, "", b"", 0]]) + b"\0",
        b"\x91" * 2000,
        msgpack.packb({1: {2: 3}}) * 3,
    ],
)
def test_a_malformed_transaction_is_refused(packed: bytes) -> None:
    world, sent = spied()
    refused(world.mutate("k", m.TRANSACT, packed), world, sent)


@pytest.mark.parametrize(
    ("w", "timeout_ms", "content", "ttl_ms", "token", "stamp"),
    [
        (-1, 1000, b"\0v", 0, b"", b""),
        (4, 1000, b"\0v", 0, b"", b""),
        (1, 0, b"\0v", 0, b"", b""),
        (1, 3_600_001, b"\0v", 0, b"", b""),
        (1, 1000, b"\2v", 0, b"", b""),
        (1, 1000, bytes(KIB + 2), 0, b"", b""),
        (1, 1000, b"\0v", -1, b"", b""),
        (1, 1000, b"\0v", TTL_MS_MAX + 1, b"", b""),
        (1, 1000, b"\0v", 0, b"token", b""),
        (1, 1000, b"\0v", 0, bytes(45), b""),
        (1, 1000, b"\0v", 0, b"", b"stamp"),
        (1, 1000, b"\0v", 0, b"", bytes(44)),
        (1, 1000, b"\0v", 0, b"", bytes(46)),
    ],
)
def test_an_eventual_write_out_of_bounds_is_refused(
    w: int, timeout_ms: int, content: bytes, ttl_ms: int, token: bytes, stamp: bytes
) -> None:
    world, sent = spied()
    refused(world.ask(world.owners("k")[0], m.WRITE, NAME, w, timeout_ms, content, ttl_ms, token, stamp), world, sent)


@pytest.mark.parametrize(
    ("prefix", "partitions", "limit"), [("", [16], 10), ("", [-1], 10), ("", ["0"], 10), ("", [0], 0), ("", [0], 1001)]
)
def test_a_scan_out_of_bounds_is_refused(prefix: str, partitions: list[Any], limit: int) -> None:
    world, sent = spied()
    refused(world.ask(0, m.SCAN, "default", prefix, partitions, "", limit, 1), world, sent)


# -- forwarding


def outsider() -> tuple[World, int, tuple[int, ...]]:
    """Return a world of five whose keys have three owners, one node that owns nothing of "k", and the owners."""
    world = World(5, store=StoreConfig("default", replicas=3))
    owners = world.owners("k")
    return world, next(index for index in range(5) if index not in owners), owners


def test_any_node_takes_any_request_one_hop_away() -> None:
    world, outside, owners = outsider()
    assert put(world, b"v", outside).kind == m.APPLIED
    assert world.read("k", outside) == b"v"
    settle(world)
    written = world.write("k", b"w", outside)
    weak = world.get("k", outside, strong=False)
    explained = world.ask(outside, m.EXPLAIN, NAME)
    stamp = world.ask(outside, m.STAMP, NAME, 1000, b"")
    world.run()
    assert [call.kind for call in (written, weak, explained, stamp)] == [m.APPLIED, m.ITEM, m.RESULT, m.STAMPED]
    assert world.hosts[outside].engine.load(world.row_key("k")) is None
    assert owners


def test_a_forwarded_request_goes_to_the_first_owner_that_is_up() -> None:
    world, outside, owners = outsider()
    world.crash(owners[0])
    forwards = catch(world, m.FORWARD)
    world.put("k", b"v", outside)
    assert [target for _, target, _ in forwards.messages] == [owners[1]]


def test_no_owner_that_is_up_is_refused_at_once() -> None:
    world, outside, owners = outsider()
    for index in owners:
        world.crash(index)
    call = world.put("k", b"v", outside)
    assert (call.code, call.outcome) == ("quorum-unreachable", "not applied")


@pytest.mark.parametrize("kind", ["put", "write", "get"])
def test_a_link_lost_after_forwarding_is_unknown_for_what_has_effects(kind: str) -> None:
    world, outside, owners = outsider()
    catch(world, m.FORWARDED)
    ask = {"put": lambda: world.put("k", b"v", outside), "write": lambda: world.write("k", b"v", outside)}
    call = ask.get(kind, lambda: world.get("k", outside))()
    world.run()
    world.cut(outside, owners[0])
    assert call.outcome == ("not applied" if kind == "get" else "unknown")


@pytest.mark.parametrize("kind", ["put", "get"])
def test_a_silent_owner_ends_a_forwarded_request_soon_after_its_deadline(kind: str) -> None:
    world, outside, owners = outsider()
    with world.silenced(owners[0]):
        call = (
            world.put("k", b"v", outside, timeout_ms=500) if kind == "put" else world.get("k", outside, timeout_ms=500)
        )
        world.run(0.9)
        assert call.outcome == ("unknown" if kind == "put" else "not applied")


def test_a_request_is_forwarded_once_only() -> None:
    world, outside, _ = outsider()
    other = next(index for index in range(5) if index not in (*world.owners("k"), outside))
    node = world.hosts[outside].node
    answered: list[Any] = []

    class Peer:
        index = other
        requests = 0

        def send(self, message: Any) -> bool:
            answered.append(message)
            return True

    node.coordinator.on_forward(Peer(), [m.FORWARD, 9, [m.GET, 1, NAME, 1, 1, 1000, 0]])
    assert [message[:2] for message in answered] == [(m.FORWARDED, 9)]
    assert answered[0][2][2] == "not-connected"
    assert ForwardLink(Peer(), 9).index == -1


@pytest.mark.parametrize(
    "request_", [[m.STATUS, 1], [m.FORWARD, 1, []], [m.PREPARE, 1, 1, b"", b""], [m.GET, 1], [], [99]]
)
def test_only_requests_for_a_key_can_be_forwarded(request_: list[Any]) -> None:
    world, a, b, _ = trio()

    class Peer:
        index = b
        requests = 0

        def send(self, message: Any) -> bool:
            raise AssertionError(message)

    with pytest.raises(m.MessageError):
        world.hosts[a].node.coordinator.on_forward(Peer(), [m.FORWARD, 9, request_])


# -- bounds and states


def test_a_full_node_refuses_at_once() -> None:
    world = World(3, limits=Limits(requests_in_flight_max=16))
    a = world.owners("k")[0]
    catch(world, m.PREPARE)
    open_ = [world.put("k", b"v", a) for _ in range(16)]
    refused_ = world.put("k", b"v", a)
    assert (refused_.code, refused_.outcome) == ("overloaded", "not applied")
    assert all(call.answer is None for call in open_)


def test_a_node_that_does_not_serve_says_so() -> None:
    world, a, _, _ = trio()
    world.hosts[a].node.coordinator.is_serving = False
    for call in (world.put("k", b"v", a), world.get("k", a), world.write("k", b"v", a), world.ask(a, m.STATUS)):
        assert (call.code, call.outcome) == ("not-connected", "not applied")
    world.hosts[a].node.coordinator.is_serving = True
    assert put(world, b"v", a).kind == m.APPLIED


def test_nothing_stays_in_flight() -> None:
    world, a, b, c = trio()
    for number in range(30):
        world.put("k", b"%d" % number, number % 3, timeout_ms=500)
        world.get("k", number % 3, timeout_ms=500)
        world.write("k", b"%d" % number, number % 3, w=number % 4, timeout_ms=500)
        if number == 10:
            world.cut(a, b)
        if number == 20:
            world.cut(a, c)
        world.run(0.01)
    world.run(3.0)
    assert [host.node.statistics.in_flight for host in world.hosts] == [0, 0, 0]
    assert [len(host.node.consensus._slots) for host in world.hosts] == [0, 0, 0]


@pytest.mark.parametrize(("attempt", "is_settled"), [(1, 1), (2, 0)])
def test_only_a_first_attempt_that_is_refused_settles_a_mutation(attempt: int, is_settled: int) -> None:
    """R21: limits differ between nodes and in time, so an earlier attempt may have been applied elsewhere."""
    world, _ = spied()
    call = world.put("k", bytes(KIB + 1), attempt=attempt)
    world.run()
    assert call.answer is not None
    assert call.answer[2:5] == ["invalid-request", "not applied", is_settled]


def test_a_refused_write_with_a_stamp_settles_nothing() -> None:
    """R25: the same version may have been applied when it was sent before."""
    world, _ = spied()
    call = world.write("k", bytes(KIB + 1), stamp=bytes(45))
    world.run()
    assert call.answer is not None
    assert call.answer[2:5] == ["invalid-request", "not applied", 0]


def test_large_values_in_flight_are_bounded_by_their_bytes() -> None:
    """Each goes to every owner, so together they must fit into the outboxes; small ones pass all the same."""
    world = World(3, limits=Limits(outbox_bytes_max=1 << 20))
    a = world.owners("k")[0]
    calls = [world.put(f"k{number}", b"v" * 100_000, a) for number in range(8)]
    assert {call.code for call in calls if call.answer} == {"overloaded"}
    world.run()
    outcomes = [call.kind for call in calls]
    assert 0 < outcomes.count(m.APPLIED) < 8
    again = world.put("k0", b"v" * 100_000, a)
    world.run()
    assert again.kind == m.APPLIED
    assert world.hosts[a].node.statistics.value_bytes_in_flight == 0
