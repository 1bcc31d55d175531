"""What nobody finished is settled by itself (R32)."""

from __future__ import annotations

from typing import Any

import pytest
from schedule import catch, propose_and_die, put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvnode.config import Limits
from kvnode.service.undecided import Undecided


def proposals(world: World, index: int) -> dict[str, Any]:
    facts: dict[str, Any] = world.hosts[index].node.upkeep.facts()["proposals"]
    return facts


def undecided(world: World, key: str = "k") -> list[int]:
    return [index for index in world.owners(key) if world.register(index, key).image.accepted_ballot]


def test_a_proposal_that_was_left_behind_is_settled_without_a_reader() -> None:
    world, a, _b, c = trio()
    put(world, b"old", a)
    settle(world)
    accepts = catch(world, m.ACCEPT, source=c, target=a)
    world.put("k", b"half", c)
    world.run()
    world.crash(c)
    accepts.stop()
    assert undecided(world)
    world.run(10.0)
    assert undecided(world) == []
    assert sum(proposals(world, index)["settled"] for index in world.owners("k") if index != c) >= 1
    assert proposals(world, a)["undecided"] == 0


def test_the_owner_that_is_placed_best_begins_and_the_others_find_it_done() -> None:
    """A crowd would outbid itself: of one orphan on two replicas one of them takes care."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    marks = catch(world, m.MARKS, m.COMMIT, source=b)
    put(world, b"new", b)
    world.run(0.5)
    world.hosts[b].node.commits._pending.clear()
    marks.stop()
    assert set(undecided(world)) == {a, c}
    asked: list[int] = []
    before = world.on_post

    def count(source: int, target: int, message: Any) -> bool:
        if message[0] in (m.PREPARE, m.READ):
            asked.append(source)
        return before(source, target, message)

    world.on_post = count
    world.run(10.0)
    assert undecided(world) == []
    assert set(asked) == {a}


def test_what_is_proved_is_marked_and_not_accepted_again() -> None:
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    marks = catch(world, m.MARKS, m.COMMIT, source=b)
    put(world, b"new", b)
    world.run(0.5)
    world.hosts[b].node.commits._pending.clear()
    marks.stop()
    ballot = world.register(b, "k").image.committed_ballot
    world.run(10.0)
    assert [world.register(index, "k").image.committed_ballot for index in (a, b, c)] == [ballot] * 3


def test_an_orphan_of_an_earlier_life_is_found_by_the_scan() -> None:
    world, a, _b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"orphan", c))
    assert len(world.hosts[c].node.registers.undecided) == 0
    assert undecided(world) == [c]
    world.run(20.0)
    assert undecided(world) == []


def test_in_a_minority_it_waits_and_does_not_spin() -> None:
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"orphan", c))
    for other in (a, b):
        world.cut(c, other)
    steps = world.scheduler._count
    before = next(steps)
    world.run(60.0)
    timers = next(steps) - before
    assert timers < 3 * 60 * 20 * 2, "it tries again and again"
    assert undecided(world) == [c]
    assert proposals(world, c)["undecided"] == 1
    for other in (a, b):
        world.mend(c, other)
    world.run(70.0)
    assert undecided(world) == []


def test_without_budget_it_waits() -> None:
    world, a, _b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"orphan", c))
    world.hosts[c].node.upkeep.resolver.take = lambda cost: False
    world.run(30.0)
    assert undecided(world) == [c]


def test_a_busy_cluster_leaves_it_nothing_to_do() -> None:
    world, a, b, _c = trio()
    for number in range(30):
        put(world, b"%d" % number, (a, b)[number % 2])
        world.run(0.2)
    world.run(5.0)
    assert [proposals(world, index)["settled"] for index in world.owners("k")] == [0, 0, 0]
    assert [len(host.node.registers.undecided) for host in world.hosts] == [0, 0, 0]


def test_beyond_the_bound_nothing_is_noted_and_the_scan_finds_it() -> None:
    noted = Undecided(2)
    for key in (b"a", b"b", b"c"):
        noted.note(key)
    assert (len(noted), noted.overflowed) == (2, 1)
    noted.forget(b"a")
    noted.note(b"c")
    assert noted.oldest(1.0, 10) == [b"b", b"c"]
    assert noted.oldest(1.0, 10) == []


def test_only_what_is_old_enough_is_taken_out() -> None:
    noted = Undecided(10)
    noted.note(b"a")
    noted.now_s = 5.0
    noted.note(b"b")
    noted.note(b"a")  # accepted again: it is young once more
    assert noted.oldest(5.0, 10) == []
    noted.now_s = 7.0
    assert noted.oldest(6.0, 1) == [b"a"]
    assert noted.oldest(6.0, 10) == [b"b"]


@pytest.mark.parametrize("after_s", [1.0, 30.0])
def test_its_patience_is_configured(after_s: float) -> None:
    world = World(3, limits=Limits(resolve_after_s=after_s, scan_pause_s=3600.0))
    a, b, c = world.owners("k")
    put(world, b"old", a)
    settle(world)
    world.run(10.0)  # the first walk over all rows is done
    accepts = catch(world, m.ACCEPT, source=c)
    world.put("k", b"orphan", c, timeout_ms=10)
    world.run()
    world.hosts[c].node.consensus._slots.clear()
    accepts.stop()
    assert undecided(world) == [c]
    world.run(20.0)
    assert undecided(world) == ([] if after_s == 1.0 else [c])
    assert b != c
