"""Strong reads: sharing, hedging, a record that is not here, repair, and what a silent replica may cost (R20, R27)."""

from __future__ import annotations

import pytest
from schedule import apart, catch, propose_and_die, put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvnode.config import StoreConfig


def asked_digests(world: World) -> list[tuple[int, int]]:
    """Note who asks whom for a digest from now on."""
    asked: list[tuple[int, int]] = []

    def note(source: int, target: int, message: tuple[object, ...]) -> bool:
        if message[0] == m.READ and message[4] == 0:
            asked.append((source, target))
        return True

    world.on_post = note
    return asked


def test_reads_that_wait_together_share_one_gathering() -> None:
    world, a, _, _ = trio()
    put(world, b"v", a)
    settle(world)
    asked = asked_digests(world)
    calls = [world.get("k", a) for _ in range(20)]
    world.run()
    assert {call.value for call in calls} == {b"v"}
    assert len(asked) == 2  # the first alone, then one gathering for all that came meanwhile


def test_reads_that_arrive_later_share_the_next_gathering() -> None:
    """4a: a read never joins a gathering that was already sent."""
    world, a, _, _ = trio()
    put(world, b"v", a)
    settle(world)
    asked = asked_digests(world)
    digests = catch(world, m.DIGEST)
    first = world.get("k", a)
    world.run()
    later = [world.get("k", a) for _ in range(5)]
    world.run()
    assert len(asked) == 1
    digests.pour()
    world.run()
    assert first.value == later[0].value == later[4].value == b"v"
    assert len(asked) == 2


def test_a_silent_replica_costs_a_few_hedges_and_is_then_asked_last() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    settle(world)
    with world.silenced(c):
        for _ in range(16):  # one of two reads asks c first
            call = world.get("k", a)
            world.run(0.25)
            assert call.value == b"v"
        asked = asked_digests(world)
        for _ in range(5):
            assert world.read("k", a) == b"v"
        assert asked == [(a, b)] * 5


def test_a_replica_under_suspicion_is_asked_last() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    settle(world)
    world.hosts[a].node.exchanges.suspected = 1 << c
    asked = asked_digests(world)
    for _ in range(5):
        assert world.read("k", a) == b"v"
    assert asked == [(a, b)] * 5


@pytest.mark.parametrize("silent", [0, 1])
def test_a_silent_replica_does_not_keep_an_undecided_key_from_being_read(silent: int) -> None:
    """R20: two of three answer and disagree; the third, which could decide, says nothing: a round must."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    propose_and_die(world, c, lambda: world.put("k", b"maybe", c))
    reader, mute = ((a, b), (b, a))[silent]
    with world.silenced(mute):
        call = world.get("k", reader)
        world.run(0.6)
        assert call.answer is not None
        assert call.value in (b"old", b"maybe")


def test_a_record_that_is_not_here_is_fetched_and_kept() -> None:
    world, a, _b, c = trio()
    with apart(world, c):
        put(world, b"v", a)
        settle(world)
    assert world.register(c, "k").is_absent
    call = world.get("k", c)
    world.run()
    assert call.value == b"v"
    assert world.register(c, "k").image.committed.content == b"\0v"


def test_a_holder_that_falls_silent_during_the_fetch_does_not_stop_the_read() -> None:
    """The digest that proves the ballot comes from b; then b pauses, and the others hold it under later proposals."""
    world, a, b, c = trio()
    with apart(world, c):
        put(world, b"v", a)
        settle(world)
    catch(world, m.PROMISE, m.DIGEST, source=a, target=c)  # a is slow, too, at first
    call = world.get("k", c)
    assert call.answer is None
    world.run()
    world.run(0.01)
    for index in (a, b):
        catch(world, m.READ, target=index)
    world.run(0.3)
    world.on_post = lambda source, target, message: True
    world.run(0.7)
    assert call.answer is not None
    assert call.value == b"v"


def test_a_read_repairs_nobody_while_the_budget_is_spent() -> None:
    """R20: it never waits or fails for that; the next read, or what heals without one, does it."""
    world, a, _b, c = trio()
    with apart(world, c):
        put(world, b"v", a)
        settle(world)
    for host in world.hosts:
        host.node.pace.charge(1 << 40)
    for _ in range(2):  # one of two reads asks c
        assert world.read("k", a) == b"v"
    assert world.hosts[a].node.statistics.repairs == 0
    assert world.register(c, "k").image.committed.content != b"\0v"


def test_laggards_are_repaired_by_every_read_that_saw_them() -> None:
    """R20, R31."""
    world, a, _b, c = trio()
    with apart(world, c):
        put(world, b"v", a)
        settle(world)
    for _ in range(2):  # one of two reads asks c
        assert world.read("k", a) == b"v"
        settle(world)
    assert world.register(c, "k").image.committed.content == b"\0v"
    assert world.hosts[a].node.statistics.repairs >= 1


def test_a_read_that_proves_a_proposal_chosen_marks_it_here() -> None:
    """P2: two replicas accepted it, so it is chosen, though its coordinator never said so."""
    world, a, b, _c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.MARKS, m.COMMIT, source=a)
    put(world, b"new", a)
    world.crash(a)
    assert world.register(b, "k").image.accepted_ballot
    assert world.read("k", b) == b"new"
    assert world.register(b, "k").image.committed.content == b"\0new"


@pytest.mark.parametrize("r", [1, 3])
def test_a_replica_that_missed_the_mark_gets_it_from_a_read(r: int) -> None:
    """R20: it answers eventual reads, and would show the older value for ever."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    lost = catch(world, m.MARKS, m.COMMIT, target=c)
    put(world, b"new", a)
    settle(world)
    lost.stop()
    assert lost.messages
    assert world.get("k", c, strong=False).value == b"old"
    for _ in range(2):  # one of two reads asks c
        assert world.read("k", b, r=r) == b"new"
        settle(world)
    assert world.get("k", c, strong=False).value == b"new"


def test_reads_of_an_owed_mark_send_it_once() -> None:
    """R16, R20: the mark waits for the others of its time, however often the key is read."""
    world, a, _, _ = trio()
    put(world, b"old", a)
    settle(world)
    sent: list[int] = []

    def note(source: int, target: int, message: tuple[object, ...]) -> bool:
        if message[0] == m.MARKS:
            sent.append(target)
        return True

    world.on_post = note
    put(world, b"new", a)
    for _ in range(50):
        assert world.read("k", a) == b"new"
    settle(world)
    assert len(sent) == 2


def test_each_read_of_a_gathering_is_answered_at_its_own_deadline() -> None:
    world, a, _, _ = trio()
    put(world, b"v", a)
    settle(world)
    digests = catch(world, m.DIGEST)
    first = world.get("k", a)
    hasty, patient = (world.get("k", a, timeout_ms=timeout_ms) for timeout_ms in (300, 3000))
    world.run()
    later = catch(world, m.DIGEST)
    digests.pour()
    world.run(0.4)
    assert first.value == b"v"
    assert (hasty.code, hasty.outcome) == ("deadline-exceeded", "not applied")
    assert patient.answer is None
    later.pour()
    world.run()
    assert patient.value == b"v"


def test_an_expired_value_is_settled_by_a_round() -> None:
    """R63: a read past expires_at by its own clock makes the tombstone."""
    world, a, b, _ = trio()
    put(world, b"v", a, ttl_ms=1000)
    settle(world)
    world.run(2.0)
    assert world.read("k", b) is None
    settle(world)
    assert world.register(b, "k").image.committed.is_tombstone


def test_a_read_without_a_quorum_of_links_is_refused_at_once() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    world.cut(a, b)
    world.cut(a, c)
    call = world.get("k", a)
    world.run()
    assert (call.code, call.outcome) == ("quorum-unreachable", "not applied")


def test_a_read_that_loses_its_links_midway_ends_at_once() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    settle(world)
    catch(world, m.READ)
    call = world.get("k", a)
    world.run()
    world.cut(a, b)
    world.cut(a, c)
    world.run()
    assert call.code == "quorum-unreachable"


def test_a_silent_majority_ends_a_read_at_its_deadline() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    settle(world)
    with world.silenced(b, c):
        call = world.get("k", a, timeout_ms=700)
        world.run(0.6)
        assert call.answer is None
        world.run(0.3)
        assert (call.code, call.outcome) == ("deadline-exceeded", "not applied")


@pytest.mark.parametrize(
    ("nodes", "replicas", "q1", "q2"),
    [
        *[(1, 1, 0, 0), (2, 2, 0, 0), (3, 3, 0, 0), (3, 3, 1, 3), (3, 3, 3, 1)],
        *[(4, 4, 2, 3), (5, 5, 2, 4), (7, 7, 0, 0), (7, 3, 0, 0)],
    ],
)
def test_every_quorum_shape_reads_what_it_wrote(nodes: int, replicas: int, q1: int, q2: int) -> None:
    """R26."""
    world = World(nodes, store=StoreConfig("default", replicas=replicas, q1=q1, q2=q2))
    for number in range(5):
        owners = world.owners(f"k{number}")
        call = world.put(f"k{number}", b"v%d" % number)
        world.run(0.5)
        assert call.kind == m.APPLIED
        for at in owners:
            assert world.read(f"k{number}", at) == b"v%d" % number
    settle(world)
