"""The replica's door: what it refuses or drops before a rule is asked, and what it shows (R6, R10, R12)."""

from __future__ import annotations

import pytest
from schedule import apart, catch, put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvnode.net.listener import CLIENT_SHAPES, NODE_SHAPES
from kvnode.service import room


def test_every_kind_that_a_link_lets_through_has_a_handler() -> None:
    """A kind without one would stop the node."""
    handled = set(World(1).hosts[0].node._table)
    assert set(NODE_SHAPES) <= handled
    assert set(CLIENT_SHAPES) <= handled
    assert not set(NODE_SHAPES) & m.CLIENT_ANSWERS


def test_a_repair_is_dropped_while_the_disk_is_too_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """R12: nobody waits for it, so it must not fill the memory."""
    world, a, _, c = trio()
    with apart(world, c):
        put(world, bytes(2000), a)
        settle(world)
    monkeypatch.setattr(room, "BACKLOG_BYTES_MAX", 1000)
    world.hold_disk(c)
    world.hosts[c].engine.put_meta("filler", bytes(2000), sync=True, then=None)
    backlog_bytes = world.hosts[c].engine.backlog_bytes
    assert backlog_bytes > 1000
    for _ in range(4):
        assert world.read("k", a) == bytes(2000)
        settle(world)
    assert world.hosts[c].engine.backlog_bytes == backlog_bytes
    assert not world.register(c, "k").image.committed_ballot
    world.release_disk(c)
    world.run()
    for _ in range(2):  # one of two reads asks c
        assert world.read("k", a) == bytes(2000)
        settle(world)
    assert world.register(c, "k").image.committed_ballot


def test_unseen_shows_no_entry() -> None:
    """R6: the entry in the way may not be durable yet; the next prepare shows it once it is."""
    world, a, b, _ = trio()
    put(world, b"v", a)
    settle(world)
    unseen = catch(world, m.UNSEEN, source=b)
    world.hold_disk(b)
    world.write("k", b"entry", b)
    held = catch(world, m.ENTRY, source=b)
    world.put("k", b"w", a)
    world.run()
    assert [message for _, _, message in unseen.messages]
    assert all(message[2] == b"" for _, _, message in unseen.messages)
    assert not held.messages
    world.release_disk(b)
