"""Eventual writes and reads: W and R counted, repairs, clocks, policies (R2-R4, R25, R27-R33, R37)."""

from __future__ import annotations

import pytest
from schedule import apart, catch, put, seen_by, settle, trio
from world import Call, World, name_of

from kvclient.wire import messages as m
from kvnode.config import StoreConfig


def token_at(world: World, offset_ms: int) -> bytes:
    """Return the token of a client that saw a write stamped this far from the world's time."""
    return bytes(28) + ((world.now_ms() + offset_ms) << 16).to_bytes(8, "big") + bytes(8)


@pytest.mark.parametrize("w", [1, 2, 3])
def test_a_write_is_acknowledged_by_w_disks(w: int) -> None:
    """R27, R29: each replica counts after its own sync."""
    world, a, b, c = trio()
    for index in (a, b, c):
        world.hold_disk(index)
    call = world.write("k", b"v", a, w=w)
    world.run()
    for count, index in enumerate((a, b, c), 1):
        assert call.answer is None
        world.release_disk(index)
        world.run()
        if count == w:
            break
    assert call.kind == m.APPLIED


def test_an_acknowledged_write_survives_the_crash_of_its_w_holders() -> None:
    world, a, b, c = trio()
    call = world.write("k", b"v", a, w=2)
    world.run()
    assert call.kind == m.APPLIED
    for index in (a, b, c):
        world.crash(index)
    for index in (a, b, c):
        world.restart(index)
    assert world.read("k", c) == b"v"


def test_stored_on_fewer_than_w_is_unknown() -> None:
    """4a: stored on at least one but fewer than W: it converges, so nobody may call it failed."""
    world, a, b, c = trio()
    lost = catch(world, m.ENTRY, target=b), catch(world, m.ENTRY, target=c)
    call = world.write("k", b"v", a, w=2)
    world.run()
    assert all(caught.messages for caught in lost)
    world.cut(a, b)
    world.cut(a, c)
    world.run()
    assert call.outcome == "unknown"


def test_a_silent_replica_makes_a_write_unknown_at_its_deadline() -> None:
    world, a, b, c = trio()
    with world.silenced(b, c):
        call = world.write("k", b"v", a, w=3, timeout_ms=300)
        world.run(0.5)
        assert call.outcome == "unknown"


def test_one_of_three_nodes_takes_writes_and_reads() -> None:
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    world.crash(b)
    world.crash(c)
    call = world.write("k", b"v", a)
    world.run()
    assert call.kind == m.APPLIED
    assert seen_by(world, a) == b"v"


def test_a_read_takes_the_greatest_of_r_and_repairs_the_others() -> None:
    """R31."""
    world, a, _b, c = trio()
    with apart(world, c):
        call = world.write("k", b"v", a, w=2)
        world.run()
        assert call.kind == m.APPLIED
    assert seen_by(world, c) is None
    read = world.get("k", c, strong=False, r=2)
    world.run()
    assert read.value == b"v"
    assert seen_by(world, c) == b"v"


def test_a_read_names_only_those_that_the_budget_let_it_repair() -> None:
    world, a, _b, c = trio()
    with apart(world, c):
        world.write("k", b"v", a, w=2)
        world.run()
    for host in world.hosts:
        host.node.pace.charge(1 << 40)
    read = world.ask(a, m.GET, name_of("k"), 0, 3, 5000, 1)
    world.run()
    assert read.value == b"v"
    assert read.answer is not None
    assert read.answer[3]["repaired"] == []
    assert seen_by(world, c) is None


def test_a_read_of_more_than_the_reachable_is_refused_at_once() -> None:
    world, a, b, _ = trio()
    world.cut(a, b)
    call = world.get("k", a, strong=False, r=3)
    world.run()
    assert (call.code, call.outcome) == ("quorum-unreachable", "not applied")


def test_a_read_that_loses_what_it_needs_ends_at_once() -> None:
    """A replica that was down before the read, and one that goes during it: together they are too many."""
    world, a, b, c = trio()
    world.cut(a, c)
    catch(world, m.READ)
    call = world.get("k", a, strong=False, r=2)
    world.run()
    world.cut(a, b)
    world.run()
    assert call.code == "quorum-unreachable"


# -- clocks


@pytest.mark.parametrize("offset_ms", [300, 450, 499])
def test_a_stamp_above_the_ceiling_costs_one_renewal(offset_ms: int) -> None:
    """R3: a token of a node whose clock is ahead, within bounds; the ceiling makes room for it at once."""
    world, a, _, _ = trio()
    syncs = world.hosts[a].engine.syncs
    call = world.write("k", b"v", a, token=token_at(world, offset_ms))
    for _ in range(1000):
        if not world.scheduler.turn() and not world._deliver_any():
            break
    assert call.kind == m.APPLIED
    assert world.hosts[a].engine.syncs - syncs <= 4


@pytest.mark.parametrize("offset_ms", [501, 10_000, 10**12])
def test_a_token_from_too_far_ahead_is_refused_and_changes_no_clock(offset_ms: int) -> None:
    """R2: refused, not merged; else one bad token stops the node's eventual writes until its clock has caught up."""
    world, a, _, _ = trio()
    call = world.write("k", b"v", a, token=token_at(world, offset_ms))
    world.run()
    assert (call.code, call.outcome) == ("clock-skew", "not applied")
    after = world.write("k", b"w", a)
    world.run()
    assert after.kind == m.APPLIED


def test_a_token_of_all_ones_is_refused_like_any_other() -> None:
    world, a, _, _ = trio()
    call = world.write("k", b"v", a, token=bytes(28) + b"\xff" * 16)
    world.run()
    assert call.code == "clock-skew"


def test_an_entry_from_too_far_ahead_is_refused_by_each_replica() -> None:
    """R2: the write of a node whose clock is far ahead stays at home; with W = 1 it is acknowledged there."""
    world, a, b, c = trio()
    world.set_clock(a, 2000)
    world.run(0.1)
    call = world.write("k", b"v", a, w=2)
    world.run()
    assert call.outcome == "unknown"
    assert seen_by(world, b) is seen_by(world, c) is None


def test_a_restart_before_its_ceiling_writes_nothing_until_the_clock_has_caught_up() -> None:
    """R3: the wall clock went back by more than max_offset."""
    world, a, _, _ = trio()
    world.crash(a)
    world.restart(a, offset_ms=-2000)
    call = world.write("k", b"v", a)
    world.run()
    assert call.code == "clock-skew"
    strong = world.put("k", b"s", a)
    world.run(1.0)
    assert strong.kind == m.APPLIED
    world.run(2.0)
    again = world.write("k", b"v", a)
    world.run()
    assert again.kind == m.APPLIED


@pytest.mark.patches
def test_a_clock_off_against_a_majority_stops_eventual_writes_only() -> None:
    """R4: one far peer is its own affair, two are ours; strong operations go on; unmeasured counts as good."""
    world, a, _, _ = trio()
    node = world.hosts[a].node
    measured: list[tuple[int, int]] = []
    node.health.offsets_ms = lambda: measured  # type: ignore[method-assign]

    def written() -> Call:
        world.run(0.1)  # the next sweep takes the measurements
        call = world.write("k", b"v", a)
        world.run()
        return call

    assert written().kind == m.APPLIED
    measured[:] = [(450, 0), (0, 0)]
    assert written().kind == m.APPLIED
    measured[:] = [(450, 0), (-450, 0)]
    assert written().code == "clock-skew"
    strong = world.put("k", b"s", a)
    world.run()
    assert strong.kind == m.APPLIED
    measured[:] = [(399, 0), (-399, 0)]
    assert written().kind == m.APPLIED


# -- policies and forms


def test_a_strong_only_store_refuses_eventual_writes_and_serves_eventual_reads() -> None:
    """R33."""
    world = World(3, store=StoreConfig("default", replicas=3, mix="strong-only"))
    put(world, b"v", world.owners("k")[0])
    settle(world)
    for call in (world.write("k", b"w"), world.ask(world.owners("k")[0], m.STAMP, b"default\0k", 5000, b"")):
        world.run()
        assert (call.code, call.outcome) == ("invalid-request", "not applied")
    assert seen_by(world, world.owners("k")[0]) == b"v"


def test_an_eventual_delete_hides_the_value_everywhere() -> None:
    """R34."""
    world, a, b, c = trio()
    put(world, b"v", a)
    settle(world)
    world.write("k", None, b, w=3)
    settle(world)
    assert [seen_by(world, index) for index in (a, b, c)] == [None] * 3
    assert world.read("k", c) is None


def test_a_later_write_wins_whichever_arrives_first() -> None:
    world, a, b, c = trio()
    entries = catch(world, m.ENTRY, source=a)
    world.write("k", b"first", a)
    world.run(0.01)
    world.write("k", b"second", b)
    world.run()
    entries.pour()
    settle(world)
    assert [seen_by(world, index) for index in (a, b, c)] == [b"second"] * 3


def test_expiry_runs_from_the_stamp() -> None:
    """R63."""
    world, a, b, _ = trio()
    world.write("k", b"v", a, ttl_ms=1000, w=3)
    world.run(0.9)
    assert seen_by(world, b) == b"v"
    world.run(0.2)
    assert seen_by(world, b) is None
    assert world.read("k", a) is None


def test_with_w_of_one_the_others_get_the_entry_and_do_not_answer() -> None:
    """R29: the write reaches every owner; only the coordinator's own disk is waited for."""
    world, a, b, c = trio()
    answers = catch(world, m.WRITTEN)
    call = world.write("k", b"v", a)
    world.run()
    assert call.kind == m.APPLIED
    assert not answers.messages
    assert [seen_by(world, index) for index in (b, c)] == [b"v", b"v"]


def test_a_full_disk_at_the_coordinator_leaves_the_write_to_the_others() -> None:
    """4a (disk full): another owner's disk serves as well for W = 1."""
    world, a, b, _c = trio()
    world.hosts[a].engine.writable = False
    call = world.write("k", b"v", a)
    world.run()
    assert call.kind == m.APPLIED
    assert seen_by(world, b) == b"v"


@pytest.mark.parametrize("w", [1, 2, 3])
def test_where_no_disk_has_room_a_write_is_not_applied(w: int) -> None:
    """4a, R21: who knows that it will refuse asks the others for their word, so nothing is in doubt."""
    world, a, b, c = trio()
    for index in (a, b, c):
        world.hosts[index].engine.writable = False
    call = world.write("k", b"v", a, w=w)
    world.run()
    assert (call.code, call.outcome) == ("overloaded", "not applied")
    assert [seen_by(world, index) for index in (a, b, c)] == [None] * 3


def test_a_write_that_another_owner_may_have_stored_is_not_called_not_applied() -> None:
    """R21: the coordinator's disk is full, and the links to those that were sent the entry are lost."""
    world, a, b, c = trio()
    world.hosts[a].engine.writable = False
    call = world.write("k", b"v", a)
    world.cut(a, b)
    world.cut(a, c)
    world.run(6.0)
    assert (call.code, call.outcome) == ("outcome-unknown", "unknown")


UNHEARD = b"\xff" * 28


def stamp_with(world: World, sballot: bytes, offset_ms: int = 0) -> bytes:
    return b"\0" + sballot + ((world.now_ms() + offset_ms) << 16).to_bytes(8, "big") + bytes(8)


def test_a_stamp_that_nobody_issued_is_refused_and_sent_to_nobody() -> None:
    """R7: as the base of an entry it would stand above every ballot for ever."""
    world, a, b, _ = trio()
    put(world, b"old", a)
    sent = catch(world, m.ENTRY)
    call = world.write("k", b"v", a, stamp=stamp_with(world, UNHEARD))
    world.run()
    assert (call.code, call.outcome) == ("invalid-request", "not applied")
    assert call.answer is not None
    assert call.answer[4] == 0, "an earlier sending of a true stamp may have been applied: nothing is settled"
    assert not sent.messages
    sent.stop()
    put(world, b"new", b)
    assert world.read("k", a) == b"new"


def test_a_stamp_from_too_far_ahead_is_refused() -> None:
    """R2."""
    world, a, _, _ = trio()
    call = world.write("k", b"v", a, stamp=stamp_with(world, bytes(28), 10_000))
    world.run()
    assert (call.code, call.outcome) == ("clock-skew", "not applied")


@pytest.mark.parametrize("value", [b"new", None])
def test_a_stamp_is_taken_by_a_replica_that_missed_its_base(value: bytes | None) -> None:
    """R25: the same version goes to any coordinator; one that has missed the base learns of it first."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    with apart(world, c):
        put(world, b"base", a)
        settle(world)
        stamped = world.ask(a, m.STAMP, b"default\0k", 5000, b"")
        world.run()
    assert stamped.answer is not None
    assert stamped.kind == m.STAMPED
    for index in (c, b):
        call = world.write("k", value, index, stamp=stamped.answer[2])
        world.run()
        assert call.kind == m.APPLIED
        assert call.answer is not None
        assert call.answer[2] == stamped.answer[2][1:]
    assert world.read("k", b) == value


def test_what_waits_for_a_ceiling_fails_at_its_deadline_and_is_not_sent_later() -> None:
    """R3: nothing was sent, so nothing was applied."""
    world, a, _, _ = trio()
    world.run(1.0)
    world.hold_disk(a)
    sent = catch(world, m.ENTRY)
    calls = [world.write(f"k{number}", b"v", a, timeout_ms=500) for number in range(5)]
    calls.append(world.ask(a, m.STAMP, b"default\0k", 500, b""))
    world.run(0.6)
    assert [(call.code, call.outcome) for call in calls] == [("deadline-exceeded", "not applied")] * 6
    assert world.hosts[a].node.statistics.in_flight == 0
    world.release_disk(a)
    world.run(1.0)
    assert not sent.messages


def test_what_waits_for_a_decision_fails_at_its_deadline() -> None:
    """R7, 4a: the wait for an undecided proposal does not outlast the request."""
    world, a, _, _ = trio()
    acks = catch(world, m.ACCEPTED)
    world.put("k", b"strong", a)
    world.run()
    assert acks.messages
    sent = catch(world, m.ENTRY)
    call = world.write("k", b"v", a, timeout_ms=1)
    world.hosts[a].node.eventual.sweep(world.hosts[a].clock.monotonic_s() + 0.01)
    world.run(0.06)
    assert (call.code, call.outcome) == ("deadline-exceeded", "not applied")
    assert not sent.messages


@pytest.mark.parametrize("strong", [True, False])
def test_a_write_of_who_saw_the_key_deleted_is_not_superseded_by_that_delete(strong: bool) -> None:
    """R7, section 3: "absent" has a version, too; a client that saw it must not lose to it on a replica that lags."""
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    with apart(world, a):
        world.delete("k", b)
        settle(world)
        absent = world.get("k", c, strong=strong)
        world.run()
    assert absent.value is None
    assert absent.answer is not None
    call = world.write("k", b"mine", a, token=absent.answer[2][:44])
    world.run(0.1)
    assert call.answer is not None
    assert call.kind == m.APPLIED
    assert not call.answer[3], "superseded"
    assert world.read("k", b) == b"mine"


def test_an_expired_value_is_shown_without_its_content() -> None:
    """R63: what is absent for a reader still is a version that it has seen."""
    world, a, _, _ = trio()
    call = world.write("k", b"secret", a, ttl_ms=100)
    world.run(1.0)
    seen = world.get("k", a, strong=False)
    world.run()
    assert seen.value is None
    assert seen.answer is not None
    assert call.answer is not None
    assert seen.answer[2][:44] == call.answer[2]
    assert b"secret" not in seen.answer[2]
