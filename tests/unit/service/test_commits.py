"""Marks: lazy, riding on the next accept, bounded, and repeated with the record where it is not known (R12, R16)."""

from __future__ import annotations

from typing import Any

import pytest
from schedule import apart, catch, put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvnode.service import commits


def test_marks_wait_a_little_and_travel_together() -> None:
    world, a, _, _ = trio()
    marks = catch(world, m.MARKS)
    for number in range(10):
        put(world, b"v", a, f"key{number}")
    assert marks.messages == []
    world.run(0.03)
    assert len(marks.messages) == 2
    assert all(len(message[2]) == 20 for _, _, message in marks.messages)


def test_a_mark_rides_on_the_next_accept_of_its_key() -> None:
    world, a, b, c = trio()
    put(world, b"1", a)
    chosen = world.register(a, "k").image.committed_ballot
    marks, accepts = catch(world, m.MARKS), catch(world, m.ACCEPT)
    world.put("k", b"2", a)
    world.run()
    assert {message[9] for _, _, message in accepts.messages} == {chosen}
    accepts.pour()
    world.run()
    assert marks.messages == []
    assert all(world.register(index, "k").image.committed_ballot == chosen for index in (b, c))


def test_the_coordinator_marks_its_own_at_once() -> None:
    """4a."""
    world, a, _, _ = trio()
    put(world, b"v", a)
    assert world.register(a, "k").image.committed.content == b"\0v"


def test_a_replica_that_missed_the_accept_gets_the_record() -> None:
    """R12: Unknown, then the record."""
    world, a, _, c = trio()
    lost = catch(world, m.ACCEPT, target=c)
    put(world, b"v", a)
    lost.stop()
    assert world.register(c, "k").is_absent
    settle(world)
    assert world.register(c, "k").image.committed.content == b"\0v"


def test_an_unknown_ballot_that_is_no_longer_the_latest_gets_the_latest() -> None:
    world, a, _, c = trio()
    lost = catch(world, m.ACCEPT, target=c)
    put(world, b"1", a)
    answers = catch(world, m.UNKNOWN_BALLOT)
    world.run(0.03)
    put(world, b"2", a)
    lost.stop()
    answers.pour()
    settle(world)
    assert world.register(c, "k").image.committed.content == b"\0002"


def test_what_a_replica_missed_is_owed_to_it_while_the_repair_budget_is_spent() -> None:
    world, a, _, c = trio()
    lost, records = catch(world, m.ACCEPT, target=c), catch(world, m.COMMIT)
    put(world, b"v", a)
    lost.stop()
    world.hosts[a].node.pace.charge(2 * world.config.limits.repair_bytes_per_s)
    world.run(1.0)
    assert records.messages == []
    assert world.hosts[a].node.handoff.hints.ledgers[c].waiting
    records.stop()
    world.run(2.0)
    settle(world)
    assert world.register(c, "k").image.committed.content == b"\0v"


def test_what_a_full_link_does_not_take_is_owed() -> None:
    world, a, _, c = trio()
    lost = catch(world, m.ACCEPT, target=c)
    put(world, b"v", a)
    lost.stop()
    link = world.hosts[a].node.exchanges.links[c]
    assert link is not None
    send = link.send
    link.send = lambda message: message[0] != m.COMMIT and send(message)  # type: ignore[method-assign]
    world.run(1.0)
    settle(world)
    assert world.register(c, "k").image.committed.content == b"\0v"


def test_a_node_that_was_away_is_not_owed_marks_for_ever() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        for number in range(50):
            put(world, b"v", a, f"key{number}")
        world.run(1.0)
        assert not world.hosts[a].node.commits._pending


def test_owed_marks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "PENDING_MAX", 20)
    world, a, _, _ = trio()
    marks = catch(world, m.MARKS)
    for number in range(100):
        put(world, b"v", a, f"key{number}")
        assert len(world.hosts[a].node.commits._pending) <= 21
    assert marks.messages


def test_a_flush_sends_what_is_owed_at_once() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    world.hosts[a].node.commits.flush()
    world.run()
    assert all(world.register(index, "k").image.committed.content == b"\0v" for index in (b, c))


@pytest.mark.parametrize("marks", [[b"k"], [b"\0\0s\0k", b"short"], [b"", bytes(28)], [1, 2], ["a", "b"]])
def test_malformed_marks_end_the_link(marks: list[Any]) -> None:
    world, a, b, _ = trio()

    class Peer:
        index = b
        requests = 0

        def send(self, message: Any) -> bool:
            raise AssertionError(message)

    with pytest.raises(m.MessageError):
        world.hosts[a].node.on_batch(Peer(), [[m.MARKS, 1, marks]])


def test_marks_of_another_epoch_are_ignored() -> None:
    """R40."""
    world: World
    world, a, b, _ = trio()
    held = catch(world, m.MARKS, target=b)
    put(world, b"v", a)
    world.run(0.03)
    held.messages = [(source, target, (kind, 2, marks)) for source, target, (kind, _, marks) in held.messages]
    held.pour()
    world.run()
    assert not world.register(b, "k").image.committed_ballot
