"""Purge on the way: crashes between its steps, writes that come between them, expiry, bounds (R34-R38, R63)."""

from __future__ import annotations

from typing import Any

import pytest
from reaping import (
    GRACE_S,
    WINDOW_S,
    absent_everywhere,
    buried,
    compares,
    mourning,
    mourning_until,
    removed_at,
    trees_are_right,
)
from schedule import apart, catch, finished, propose_and_die, put, seen_by, settle
from world import World, name_of

from kvclient.wire import messages as m
from kvclient.wire.values import BALLOT_BYTES
from kvnode.config import Limits, StoreConfig
from kvnode.core.record import EMPTY_IMAGE, Image
from kvnode.core.version import ballot_make, ballot_ms
from kvnode.service.healing import upkeep

STEPS = [m.ANCHOR, m.SETTLE, m.REMOVE]


def tombstones(world: World, index: int) -> dict[str, Any]:
    facts: dict[str, Any] = world.hosts[index].node.upkeep.facts()["tombstones"]
    return facts


def test_a_deleted_key_leaves_no_row_and_a_floor_above_it() -> None:
    """R35, R36"""
    world, a, b, c = mourning()
    ballot = world.register(a, "k").image.committed_ballot
    world.run(WINDOW_S + GRACE_S - 5.0)
    assert not removed_at(world, a), "it was purged before gc_grace"
    world.run(GRACE_S)
    assert absent_everywhere(world)
    for index in (a, b, c):
        assert world.hosts[index].node.registers.floors[world.row_key("k")[:2]] > ballot
    assert tombstones(world, a)["purged"] == 1
    assert put(world, b"again", b).kind == m.APPLIED
    assert [world.read("k", at) for at in (a, b, c)] == [b"again"] * 3
    world.invariants()


def test_an_eventual_delete_is_folded_and_purged() -> None:
    """R34"""
    world, a, b, _c = mourning(deleted=False, put_first=False)
    world.write("k", b"v", a)
    settle(world)
    world.write("k", None, b)
    world.run(2.5 * GRACE_S)
    assert absent_everywhere(world)


@pytest.mark.parametrize("is_strong", [True, False])
def test_what_has_expired_is_made_a_tombstone_and_purged(is_strong: bool) -> None:
    """R63"""
    world, a, b, _c = mourning(deleted=False, put_first=False)
    if is_strong:
        put(world, b"v", a, ttl_ms=30_000, timeout_ms=100)
    else:
        world.write("k", b"v", b, ttl_ms=30_000)
        world.run()
    world.run(20.0)
    assert world.read("k", b) == b"v"
    world.run(WINDOW_S + 2 * GRACE_S)
    assert absent_everywhere(world)


def test_a_live_key_is_left_alone() -> None:
    world, a, _b, c = mourning()
    put(world, b"new", c)
    world.run(3 * GRACE_S)
    assert world.read("k", a) == b"new"
    assert tombstones(world, a) == {"waiting": 0, "purged": 0, "blocked": 0, "waits_for": {}, "overflowed": 0}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("reached", [0, 1, 2])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_crash_in_any_step_costs_neither_safety_nor_the_purge(kind: int, reached: int, victim: int) -> None:
    """The primary has sent a step to none, one or both of the others when it, or one of them, loses power."""
    world, a, b, c, caught = mourning_until(kind)
    for target in (b, c)[:reached]:
        caught.pour(target=target)
        world.run()
    caught.stop()
    world.crash((a, b)[victim])
    world.restart((a, b)[victim])
    for at in (a, b, c):
        assert world.read("k", at) is None
        assert seen_by(world, at) is None
    world.invariants()
    world.run(3 * GRACE_S)
    assert absent_everywhere(world), "a tombstone was leaked"
    put(world, b"again", b, create=True)


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("reached", [0, 1, 2])
@pytest.mark.parametrize("is_strong", [True, False])
def test_a_write_between_the_steps_lives(kind: int, reached: int, is_strong: bool) -> None:
    world, a, b, c, caught = mourning_until(kind)
    compares(world)
    for target in (b, c)[:reached]:
        caught.pour(target=target)
        world.run()
    if is_strong:
        put(world, b"new", c)
    else:
        call = world.write("k", b"new", c)
        settle(world)
        assert call.kind == m.APPLIED
    caught.pour()
    world.run(3 * GRACE_S)
    assert [world.read("k", at) for at in (a, b, c)] == [b"new"] * 3
    assert [seen_by(world, at) for at in (a, b, c)] == [b"new"] * 3
    assert trees_are_right(world)
    world.invariants()


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_primary_that_missed_a_round_of_the_same_version_finds_out(is_settled: bool) -> None:
    """A refused retry is recorded with the tombstone, whose version stays (R23): no hash tree shows it.  The
    primary has anchored the tombstone, or has settled it as the first."""
    world, a, b, _, lost = mourning_until(m.SETTLE)
    if not is_settled:
        world, a, b, _ = mourning()
        world.run(WINDOW_S + GRACE_S / 2)
    image = world.register(a, "k").image
    assert image.anchored_ms
    assert image.settled is is_settled
    for host in world.hosts:
        host.node.handoff.is_on = False
    with apart(world, a):
        assert finished(world, world.put("k", b"x", b, etag="AAAA", attempt=2, timeout_ms=100)).kind == m.CONFLICT
        settle(world)
    lost.stop()
    world.run(4 * GRACE_S)
    assert absent_everywhere(world), "the tombstone was never purged"


def test_two_primaries_hinder_each_other_and_break_nothing() -> None:
    """A configuration that differs between two nodes makes both of them begin."""
    world, a, b, c = mourning()
    for _ in range(40):
        for index in (b, c):
            purge = world.hosts[index].node.upkeep.purge
            if world.row_key("k") not in purge._known:
                purge._known.add(world.row_key("k"))
                purge._wait(world.row_key("k"), world.scheduler.now_s)
        world.run(10.0)
        assert world.read("k", c) is None
        world.invariants()
    world.run(3 * GRACE_S)
    assert absent_everywhere(world)
    put(world, b"again", a, create=True)


def test_a_step_for_another_ballot_does_nothing() -> None:
    """A walk that has lost its tombstone to another round stops."""
    world, a, b, _c, caught = mourning_until(m.SETTLE)
    caught.stop()
    before = world.register(b, "k").image
    answers = catch(world, m.PURGED, source=b)
    for kind in STEPS:
        world.post(a, b, (kind, 77, 1, world.row_key("k"), ballot_make(1 << 60, 1, 1, 1)))
    world.run()
    assert world.register(b, "k").image == before
    assert [message[2] for _, _, message in answers.messages] == [m.PURGE_OTHER] * 3


def test_nothing_is_settled_before_this_replicas_own_time() -> None:
    """R35: a coordinator whose clock was set forward asks too soon; each replica refuses by its own."""
    world, a, b, _c = mourning()
    world.run(WINDOW_S + 20.0)
    assert world.register(b, "k").image.anchored_ms
    ballot = world.register(b, "k").image.committed_ballot
    world.post(a, b, (m.SETTLE, 77, 1, world.row_key("k"), ballot))
    world.post(a, b, (m.REMOVE, 78, 1, world.row_key("k"), ballot))
    world.run()
    assert not world.register(b, "k").image.settled


def test_a_replica_that_was_away_has_its_own_full_grace() -> None:
    """R35: step 2 comes gc_grace after the last of all N has the tombstone."""
    world, a, b, c = mourning()
    with apart(world, c):
        world.run(3 * GRACE_S)
        assert tombstones(world, a)["waits_for"] == {world.config.nodes[c].id: 1}
    world.run(GRACE_S - 5.0)
    assert not any(world.register(index, "k").image.settled for index in (a, b, c))
    world.run(GRACE_S)
    assert absent_everywhere(world)
    assert tombstones(world, a)["waits_for"] == {}


def test_no_round_begins_while_a_replica_is_silent() -> None:
    """Its link is open, but its heartbeats have not been answered: nobody who writes the key waits for it."""
    world, a, _b, c = mourning()
    detector = world.hosts[a].node.health.detector
    detector.heard(c, world.scheduler.now_s)
    rounds = catch(world, m.PREPARE, m.ACCEPT, source=a)
    world.run(WINDOW_S + 20.0)
    assert not rounds.messages
    assert tombstones(world, a)["waits_for"] == {world.config.nodes[c].id: 1}
    detector.lost(c)  # nothing is expected of it any more
    rounds.stop()
    world.run(2 * GRACE_S)
    assert absent_everywhere(world)


def test_a_key_that_goes_on_waits_for_nobody() -> None:
    """It was in the way of a replica that was away, and is written anew: it is not counted until it is forgotten."""
    world, a, _b, c = mourning()
    with apart(world, c):
        world.run(WINDOW_S + 5.0)
        assert tombstones(world, a)["waits_for"] == {world.config.nodes[c].id: 1}
    put(world, b"new", a, ttl_ms=19_000, timeout_ms=100)
    world.run(15.0)
    assert tombstones(world, a)["waiting"] == 1
    assert tombstones(world, a)["waits_for"] == {}
    assert tombstones(world, a)["blocked"] == 0


def test_a_proposal_of_unknown_fate_is_decided_first() -> None:
    world, a, _b, c = mourning()
    propose_and_die(world, c, lambda: world.put("k", b"maybe", c, timeout_ms=100))
    world.run(WINDOW_S + 3 * GRACE_S)
    value = world.read("k", a)
    assert value in (None, b"maybe")
    assert (value is None) == absent_everywhere(world)


def fill(world: World, *indexes: int, has_reserve: bool = True) -> None:
    for index in indexes:
        world.hosts[index].engine.writable = False
        world.hosts[index].engine.has_reserve = has_reserve


@pytest.mark.parametrize("full", [1, 3])
@pytest.mark.parametrize("how", ["deleted", "eventual", "expired"])
def test_a_full_disk_is_freed_of_what_is_gone(full: int, how: str) -> None:
    """4a, R35: below the reserve writes are refused, and the rounds and steps of a purge go on."""
    world, a, b, c = mourning(deleted=how == "deleted", put_first=how == "deleted")
    if how == "eventual":
        world.write("k", b"v", a)
        settle(world)
        world.write("k", None, b)
    elif how == "expired":
        put(world, b"v", a, ttl_ms=30_000, timeout_ms=100)
    settle(world)
    fill(world, *(c, b, a)[:full])
    if full == 3:
        refused = finished(world, world.put("k", b"new", a, timeout_ms=100))
        assert (refused.code, refused.outcome) == ("overloaded", "not applied")
    world.run(WINDOW_S + 2 * GRACE_S + 40.0)
    assert absent_everywhere(world)
    world.invariants()


def test_half_of_the_reserve_is_for_nobody() -> None:
    world, a, b, c = mourning()
    world.run(WINDOW_S + 20.0)
    fill(world, b, has_reserve=False)
    world.run(3 * GRACE_S)
    assert not removed_at(world, b)
    assert tombstones(world, a)["waits_for"] == {world.config.nodes[b].id: 1}
    fill(world, b)
    world.run(20.0)
    assert absent_everywhere(world)
    assert b != c


def test_without_budget_nothing_is_purged() -> None:
    world, a, _b, _c = mourning()
    world.hosts[a].node.upkeep.purge.take = lambda cost: False
    world.run(4 * GRACE_S)
    assert tombstones(world, a)["waiting"] == 1
    assert not any(world.register(index, "k").image.anchored_ms for index in world.owners("k"))


@pytest.mark.parametrize("operations_per_s", [1 << 20, 300])
def test_the_pace_is_what_the_repair_budget_allows(operations_per_s: int) -> None:
    store = StoreConfig("default", replicas=3, gc_grace_s=GRACE_S)
    world = World(3, store=store, limits=Limits(repair_operations_per_s=operations_per_s, repair_bytes_per_s=1 << 30))
    for number in range(900):
        world.write(f"k{number}", None)
        world.run()

    def purged() -> int:
        return sum(int(tombstones(world, index)["purged"]) for index in range(3))

    while not purged():
        world.run(0.05)
    world.run(0.4)
    if operations_per_s > 900:
        assert purged() == 900
    else:
        assert purged() < 0.5 * operations_per_s
        world.run(120.0)
        assert purged() == 900


def test_a_full_ledger_is_not_in_the_way_of_the_resolver() -> None:
    """What was accepted in an earlier life is found by the scan of all rows alone."""
    world, a, _b, _c = mourning(deleted=False)
    propose_and_die(world, a, lambda: world.put("k", b"left", a, timeout_ms=100))
    world.hosts[a].node.upkeep.purge._keys_max = 0
    world.run(20.0)
    assert not world.register(a, "k").image.accepted_ballot


def test_what_the_ledger_has_no_room_for_is_found_by_the_scan() -> None:
    store = StoreConfig("default", replicas=3, gc_grace_s=GRACE_S)
    world = World(3, store=store, limits=Limits(purge_keys_max=4, scan_pause_s=20.0))
    for number in range(40):
        world.write(f"k{number}", None)
    world.run(6 * GRACE_S)
    assert sum(tombstones(world, index)["overflowed"] for index in range(3)) > 0
    assert all(absent_everywhere(world, f"k{number}") for number in range(40))


def test_a_restart_forgets_nothing_that_is_to_go() -> None:
    world, a, b, c = mourning()
    for _ in range(3):
        for index in (a, b, c):
            world.crash(index)
        for index in (a, b, c):
            world.restart(index)
        world.run(WINDOW_S)
    world.run(2 * GRACE_S)
    assert absent_everywhere(world)


def test_a_promise_alone_is_left_to_the_floor() -> None:
    """R6: the row of a key of which nothing but a promise is known goes, and its promise is kept."""
    world, a, b, _c = mourning(deleted=False, put_first=False)
    ballot = ballot_make((world.now_ms(a) + 480) << 16, 9, 1, 1)
    world.post(b, a, (m.PREPARE, 5, 1, world.row_key("k"), ballot))
    world.run()
    assert world.hosts[a].engine.load(world.row_key("k")) == EMPTY_IMAGE._replace(promised=ballot)
    world.run(2 * GRACE_S)
    assert world.hosts[a].engine.load(world.row_key("k")) is None
    world.crash(a)
    world.restart(a)
    assert world.register(a, "k").promise >= ballot


def test_a_promise_alone_stays_on_a_disk_without_its_reserve() -> None:
    """4a: a floor and a removal are written before they free anything."""
    world, a, b, _c = mourning(deleted=False, put_first=False)
    ballot = ballot_make((world.now_ms(a) + 480) << 16, 9, 1, 1)
    world.post(b, a, (m.PREPARE, 5, 1, world.row_key("k"), ballot))
    world.run()
    fill(world, a, has_reserve=False)
    world.run(2 * GRACE_S)
    assert world.hosts[a].engine.load(world.row_key("k")) is not None
    fill(world, a)
    world.run(GRACE_S)
    assert world.hosts[a].engine.load(world.row_key("k")) is None


def test_a_floor_never_stands_far_ahead_of_the_clock() -> None:
    """A promise from a clock that was ahead would, as a floor, stop all new keys of the partition."""
    world, a, b, c, caught = mourning_until(m.REMOVE)
    register = world.register(b, "k")
    register.promised = ballot_make((world.now_ms(b) + 60_000) << 16, 9, 1, 1)
    caught.pour()
    world.run(30.0)
    assert not removed_at(world, b)
    assert ballot_ms(world.hosts[b].node.registers.floors.get(world.row_key("k")[:2], b"")) == 0  # type: ignore[arg-type]
    world.run(120.0)
    assert absent_everywhere(world)
    assert world.register(b, "k").promise >= register.promised
    put(world, b"new", c)
    assert a != b


def test_a_late_stamp_is_refused_by_its_coordinator() -> None:
    """R37, R25"""
    world, a, _b, _c = mourning(deleted=False, put_first=False)
    stamped = world.ask(a, m.STAMP, name_of("k"), 1000, b"")
    world.run()
    assert stamped.answer is not None
    stamp = stamped.answer[2]
    world.run(GRACE_S + 1.0)
    call = world.write("k", b"v", a, stamp=stamp)
    world.run()
    assert (call.code, call.outcome) == ("invalid-request", "not applied")


def test_a_repair_is_taken_however_old_it_is() -> None:
    """R37: a replica that lacks an old eventual write gets it, or it would never converge."""
    world, a, b, c = mourning(deleted=False, put_first=False)
    with apart(world, c):
        world.write("k", b"old", a)
        world.run(3 * GRACE_S)
    world.get("k", b, strong=False, r=3)
    settle(world)
    assert seen_by(world, c) == b"old"


def test_a_commit_below_the_floor_of_a_live_key_is_accepted_once_more() -> None:
    """R12: a replica that missed the record, in a partition with a floor above it, gets it by a round."""
    world, a, _b, c = mourning(deleted=False, put_first=False)
    with apart(world, c):
        put(world, b"v", a)
        settle(world)
    register = world.register(c, "k")
    register.floor = ballot_make(world.now_ms(c) << 16, 9, 1, 1)
    register.digest = b""
    image: Image = world.register(a, "k").image
    assert image.committed_ballot < register.floor
    for _ in range(3):
        world.read("k", a)
        world.get("k", a, strong=False, r=3)
        world.run(1.0)
    assert seen_by(world, c) == b"v"
    assert world.register(c, "k").image.committed_ballot > register.floor


def test_a_round_above_a_floor_asks_the_repair_budget() -> None:
    world, a, _b, c = mourning(deleted=False)
    ballot = world.register(a, "k").image.committed_ballot
    rounds = catch(world, m.PREPARE, m.ACCEPT, source=a)
    for is_allowed in (False, True):
        asked: list[int] = []
        world.hosts[a].node.upkeep.take = lambda cost, allowed=is_allowed, asked=asked: asked.append(cost) or allowed
        world.post(c, a, (m.BELOW_FLOOR, world.row_key("k"), ballot_make(world.now_ms(c) << 16, 9, 1, 1)))
        world.run()
        assert len(asked) == 1
        assert asked[0] > len(world.register(a, "k").image.committed.body)
        assert bool(rounds.messages) is is_allowed
    assert world.register(a, "k").image.committed_ballot == ballot


@pytest.mark.parametrize("value_bytes", [1000, 2_000_000])
def test_a_record_that_is_late_for_a_floor_gets_there_whatever_it_costs(value_bytes: int) -> None:
    """R12, R36: a replica missed a record and was killed; before it is handed over, a purge leaves there a floor that
    is as high as the promise of every earlier life (R11).  Sending a large record spends the budget for its round."""
    world, a, _b, c = mourning()
    names = (f"n{number}" for number in range(1000))
    late = next(name for name in names if world.row_key(name)[:2] == world.row_key("k")[:2])
    world.run(WINDOW_S + GRACE_S - 10.0)
    with apart(world, c):
        put(world, bytes(value_bytes), a, late)
        world.run(1.0)
        world.write("x", b"v", c)
        world.run()
        world.crash(c)
    hints = catch(world, m.HINTS, target=c)
    world.restart(c)
    world.run(30.0)
    assert absent_everywhere(world)
    hints.stop()
    world.run(60.0)
    assert seen_by(world, c, late) == bytes(value_bytes)


def test_records_below_a_floor_are_settled_a_few_at_a_time_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_BELOW_MAX", 40)
    world, a, _b, c = mourning(deleted=False, put_first=False)
    for number in range(60):
        put(world, b"v", a, f"k{number}")
    world.run(1.0)
    rounds = catch(world, m.ACCEPT, source=a, target=c)
    world.hosts[a].node.pace.charge(world.config.limits.repair_bytes_per_s)
    for number in range(60):
        world.post(c, a, (m.BELOW_FLOOR, world.row_key(f"k{number}"), ballot_make(1 << 40, 9, 1, 1)))
    world.run()
    assert rounds.messages == []
    assert len(world.hosts[a].node.upkeep._below) == 40
    world.run(5.0)
    assert len({message[3] for _, _, message in rounds.messages}) == 40
    assert not world.hosts[a].node.upkeep._below


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize(("key", "ballot"), [(b"\0\0d\0k", b"short"), (b"k", bytes(BALLOT_BYTES))])
def test_a_malformed_step_is_refused(kind: int, key: bytes, ballot: bytes) -> None:
    world, a, b, _c = mourning(deleted=False)
    world.post(a, b, (kind, 1, 1, key, ballot))
    with pytest.raises(m.MessageError):
        world.run()


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_of_another_epoch_is_refused(kind: int) -> None:
    """R40"""
    world, a, b, _c, caught = mourning_until(m.SETTLE)
    caught.stop()
    before = world.register(b, "k").image
    answers = catch(world, m.REFUSED, source=b)
    world.post(a, b, (kind, 1, 2, world.row_key("k"), before.committed_ballot))
    world.run()
    assert world.register(b, "k").image == before
    assert answers.messages[0][2][2] == "stale-epoch"


def test_a_buried_key_is_absent_for_every_kind_of_read() -> None:
    world, a, b, c = mourning(deleted=False)
    buried(world, b)
    for at in (a, b, c):
        assert world.read("k", at) is None
        assert seen_by(world, at) is None
    call = world.delete("k", c)
    world.run(1.0)
    assert call.kind == m.APPLIED
