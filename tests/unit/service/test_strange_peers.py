"""What another node sends is checked before it is believed: the worst that a malformed message does is to end its link.

A node that crashes instead, or keeps a row at which it crashes later, could be stopped for good by one message.
"""

from __future__ import annotations

from typing import Any

import pytest
from reaping import compares
from schedule import apart, put, seen_by
from world import EPOCH, World, WorldLink

from kvclient.wire import messages as m
from kvclient.wire.values import NO_BALLOT, body_pack
from kvnode.core.record import entry_make
from kvnode.core.version import ballot_make, version_eventual, version_strong

BALLOT = ballot_make(1_700_000_000_000 << 16, 1, 1, 1)
BODY = body_pack(version_strong(BALLOT, 0), 0, 0, b"\0v")
ENTRY = entry_make(body_pack(version_eventual(NO_BALLOT, 1_700_000_000_000 << 16, 1), 0, 0, b"\0v"), absent=True)
NO_ROW_KEYS = {
    "of a meta value": b"\xff\xffceiling",
    "of no partition": b"\x0f\xffdefault\0k",
    "of another partition": b"\0\0default\0k",
    "without a store": b"\0\0nameless",
    "not UTF-8": b"\0\x05default\0\xff\xfe",
}


def about(key: bytes) -> list[tuple[Any, ...]]:
    """Return every message of one replica to another that names a key."""
    return [
        (m.PREPARE, 1, EPOCH, key, BALLOT),
        (m.ACCEPT, 1, EPOCH, key, BALLOT, BODY, b"", b"", ballot_make(1_700_000_000_000 << 16, 1, 1, 2), b""),
        (m.COMMIT, EPOCH, key, BALLOT, BODY, b""),
        (m.MARKS, EPOCH, [key, BALLOT]),
        (m.UNKNOWN_BALLOT, key, BALLOT),
        (m.BELOW_FLOOR, key, BALLOT),
        (m.READ, 1, EPOCH, key, 1),
        (m.ENTRY, 1, EPOCH, key, ENTRY),
        (m.REPAIR, 0, EPOCH, key, ENTRY),
        (m.HINTS, 1, EPOCH, [key, BALLOT, BODY, b"", ENTRY]),
        (m.RECORDS, 1, EPOCH, [key, BALLOT, BODY, b"", ENTRY]),
        (m.ANCHOR, 1, EPOCH, key, BALLOT),
        (m.SETTLE, 1, EPOCH, key, BALLOT),
        (m.REMOVE, 1, EPOCH, key, BALLOT),
    ]


def send(world: World, message: tuple[Any, ...], *, target: int = 0, source: int = 1) -> bool:
    """Let node `target` take a message; False if that ends the link."""
    try:
        world.hosts[target].node.on_batch(WorldLink(world, target, source), [list(message)])
    except m.MessageError:
        return False
    return True


@pytest.mark.parametrize("key", NO_ROW_KEYS.values(), ids=NO_ROW_KEYS)
def test_a_key_that_can_have_no_row_gets_none(key: bytes) -> None:
    world = World(3)
    compares(world)
    before = set(world.hosts[0].engine.disk.rows)
    taken = {message[0] for message in about(key) if send(world, message)}
    assert taken <= {m.RECORDS}, "its sender may have the ring of another configuration"
    world.run(100.0)
    added = set(world.hosts[0].engine.disk.rows) - before
    assert not [row for row in added if not row.startswith(b"\xff\xff")]
    world.crash(0)
    world.restart(0)
    world.run(100.0)
    put(world, b"v", 0)


FOLLOWING = ballot_make(1_700_000_000_000 << 16, 1, 1, 2)


@pytest.mark.parametrize("short", [b"\1", b"\xff" * 78])
def test_a_part_of_the_wrong_size_reaches_no_row(short: bytes) -> None:
    """Its row would pass for damaged (R46), or stop every round of the key."""
    world = World(3)
    key, v = world.row_key("k"), (BALLOT, BODY)
    for message in [
        (m.ACCEPT, 1, EPOCH, key, *v, short, b"", FOLLOWING, b""),
        (m.ACCEPT, 1, EPOCH, key, *v, b"", b"", b"\xff" + short, b""),
        (m.COMMIT, EPOCH, key, *v, short),
        (m.COMMIT, EPOCH, key, BALLOT, b"\1", b""),
        (m.HINTS, 1, EPOCH, [key, *v, short, b""]),
        (m.RECORDS, 1, EPOCH, [key, *v, short, b""]),
        (m.ENTRY, 1, EPOCH, key, b"\1"),
    ]:
        assert not send(world, message), message
    world.run()
    assert world.hosts[0].engine.load(key) is None


@pytest.mark.parametrize("short", [b"\1", b"\xff" * 29])
def test_a_malformed_answer_ends_its_link_and_no_node(short: bytes) -> None:
    """The third replica is held back, so each malformed answer meets a round that waits for it."""
    world = World(3)
    a, b, c = world.owners("k")
    ended: set[int] = set()

    def spoil(source: int, target: int, message: Any) -> bool:
        if (source, target) != (b, a) or message[0] not in (m.PROMISE, m.ACCEPTED):
            return True
        number, rest = message[1], message[2:]
        strange: list[tuple[Any, ...]] = [(m.NACK, number, short), (m.ACCEPTED, number, short[:9])]
        if message[0] == m.PROMISE:
            strange += [(m.PROMISE, number, short, *rest[1:]), (m.PROMISE, number, *rest[:2], short, *rest[3:])]
        for bad in strange:
            if not send(world, bad, target=a, source=b):
                ended.add(bad[0])
        return True

    world.on_post = spoil
    world.hold(c, a)
    put(world, b"v", a)
    world.release(c, a)
    world.run(1.0)
    assert {m.NACK, m.PROMISE, m.ACCEPTED} <= ended
    put(world, b"w", a)


@pytest.mark.parametrize(
    "message",
    [
        (m.TREE_NODES, 1, EPOCH, 3, -1000, 0, 6, 1, b"\0\0", bytes(4 * 64)),
        (m.TREE_NODES, 1, EPOCH, 3, 1000, 0, 6, 1, b"\0\0", bytes(4 * 64)),
        (m.TREE_NODES, 1, EPOCH, 3, 5, -1, 6, 1, b"\0\0", bytes(4 * 64)),
        (m.TREE_ROOTS, 1, EPOCH, (b"\3\0\0" + b"\1" * 8) * 70_000),
        (m.TREE_LIST, 1, EPOCH, 3, -1, 6, 1, 0, "", b"\0\0", b""),
    ],
)
def test_questions_about_trees_that_cannot_be_harm_nobody(message: tuple[Any, ...]) -> None:
    world = World(3)
    compares(world)
    send(world, message)
    world.run(5.0)
    put(world, b"v", 0)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("answer", [(-5, b"\0\0"), (1 << 62, b"\0\0"), (12, b"\xff\xff"), (12, b"\0")])
def test_a_malformed_answer_ends_a_comparison_and_not_all_of_them(answer: tuple[int, bytes], at: int) -> None:
    """Of one comparison the answer number `at` is malformed; the next comparison is as good as any."""
    world = World(3)
    compares(world)
    for host in world.hosts:
        host.node.handoff.is_on = False
    with apart(world, 2):
        put(world, b"v", 0)
    answers = 0

    def spoil(source: int, target: int, message: Any) -> bool:
        nonlocal answers
        if message[0] != m.TREE_DIFFER or target:
            return True
        answers += 1
        return answers <= at or send(world, (m.TREE_DIFFER, message[1], *answer), source=source)

    anti_entropy = world.hosts[0].node.healing.anti_entropy
    world.on_post = spoil
    anti_entropy.repair("")
    world.run(10.0)
    world.on_post = lambda source, target, message: True
    for _ in range(2):
        anti_entropy.repair("")
        world.run(10.0)
    assert not anti_entropy.demand_facts()["running"]
    assert seen_by(world, 2) == b"v"
