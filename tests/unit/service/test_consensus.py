"""Rounds of a key: what shares one, what bounds the queue, retries, and what is said when it ends badly (R14-R19,
R21-R24)."""

from __future__ import annotations

import random

import pytest
from schedule import apart, catch, put, seen_by, settle, trio
from world import Call, World

from kvclient.wire import messages as m
from kvclient.wire.values import etag_parse
from kvnode.config import Limits, StoreConfig


def counted(world: World, kind: int) -> list[int]:
    """Count messages of a kind from now on, by their source."""
    sources: list[int] = []
    before = world.on_post

    def note(source: int, target: int, message: tuple[object, ...]) -> bool:
        if message[0] == kind:
            sources.append(source)
        return before(source, target, message)

    world.on_post = note
    return sources


def test_operations_that_wait_for_a_key_share_a_round() -> None:
    """R14: each has its own version, in order."""
    world, a, _, _ = trio()
    accepts = counted(world, m.ACCEPT)
    calls = [world.put("k", b"%d" % number, a) for number in range(50)]
    world.run()
    assert len({call.etag for call in calls}) == 50
    assert len(accepts) == 4  # the first alone, then one round for all that came meanwhile; each to the two others
    assert world.read("k", a) == b"49"


def test_one_etag_of_a_batch_wins_once() -> None:
    world, a, _, _ = trio()
    etag = put(world, b"0", a).etag
    calls = [world.put("k", b"%d" % number, a, etag=etag) for number in range(20)]
    world.run()
    assert [call.kind for call in calls] == [m.APPLIED] + [m.CONFLICT] * 19
    assert {call.value for call in calls[1:]} == {b"0"}


def test_a_batch_is_bounded_and_the_rest_follows() -> None:
    world, a, _, _ = trio()
    accepts = counted(world, m.ACCEPT)
    calls = [world.put("k", b"%d" % number, a) for number in range(600)]
    world.run()
    assert all(call.kind == m.APPLIED for call in calls)
    assert len(accepts) == 8  # 1, 256, 256, 87


def test_a_full_queue_refuses_at_once_and_nothing_of_it_is_applied() -> None:
    world = World(3, limits=Limits(key_queue_max=4))
    a = world.owners("k")[0]
    accepts = catch(world, m.ACCEPT, m.PREPARE)
    first = world.put("k", b"first", a)
    world.run()
    waiting = [world.put("k", b"w%d" % number, a) for number in range(4)]
    refused = world.put("k", b"refused", a)
    assert (refused.code, refused.outcome) == ("overloaded", "not applied")
    accepts.pour()
    world.run()
    assert all(call.kind == m.APPLIED for call in (first, *waiting))
    assert world.read("k", a) == b"w3"


def test_a_repeated_write_needs_one_round_trip() -> None:
    """R19."""
    world, a, _, _ = trio()
    put(world, b"1", a)
    prepares, accepts = counted(world, m.PREPARE), counted(world, m.ACCEPT)
    for number in range(10):
        put(world, b"%d" % number, a)
    assert prepares == []
    assert len(accepts) == 20


def test_a_pause_does_not_cost_the_cached_promise() -> None:
    """R19: it is kept while the ceiling is raised first."""
    world, a, _, _ = trio()
    put(world, b"1", a)
    world.run(30.0)
    prepares = counted(world, m.PREPARE)
    put(world, b"2", a)
    assert prepares == []


@pytest.mark.parametrize("seed", range(5))
def test_dueling_coordinators_make_progress(seed: int) -> None:
    """R18: backoff with jitter; every increment of every coordinator is counted once."""
    world, *owners = trio(seed)
    put(world, b"0", owners[0])
    rng = random.Random(seed)
    done = 0
    open_: dict[int, tuple[str, Call]] = {}
    for _ in range(600):
        for at in owners:
            kind, call = open_.get(at, ("", None))
            if call is not None and call.answer is None:
                continue
            done += kind == "cas" and call is not None and call.kind == m.APPLIED
            if kind == "get" and call is not None and call.kind == m.ITEM:
                open_[at] = ("cas", world.put("k", b"%d" % (int(call.value or b"") + 1), at, etag=call.etag))
            else:
                open_[at] = ("get", world.get("k", at))
        world.run(rng.choice([0.0, 0.001, 0.003]))
    world.run(10.0)
    done += sum(kind == "cas" and call.kind == m.APPLIED for kind, call in open_.values())
    assert done >= 50
    assert world.read("k", owners[0]) == b"%d" % done


def test_a_silent_majority_is_unknown_once_an_accept_is_out() -> None:
    """R21."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    with world.silenced(b, c):
        call = world.put("k", b"new", a, timeout_ms=700)  # the cached promise: an accept at once
        world.run(0.9)
        assert (call.code, call.outcome) == ("outcome-unknown", "unknown")


def test_a_silent_majority_is_not_applied_before_an_accept() -> None:
    """R21: only prepares were sent."""
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    with world.silenced(b, c):
        call = world.put("k", b"new", a, timeout_ms=700)
        world.run(0.9)
        assert (call.code, call.outcome) == ("deadline-exceeded", "not applied")
    world.run(2.0)
    assert world.read("k", a) == b"old"


def test_peers_lost_before_the_accept_are_not_applied_at_once() -> None:
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    catch(world, m.PROMISE)
    call = world.put("k", b"new", a)
    world.run()
    world.cut(a, b)
    world.cut(a, c)
    world.run(0.01)
    assert (call.code, call.outcome) == ("quorum-unreachable", "not applied")


def test_peers_lost_after_the_accept_are_unknown_at_once() -> None:
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ACCEPTED)
    call = world.put("k", b"new", a)
    world.run()
    world.cut(a, b)
    world.cut(a, c)
    world.run(0.01)
    assert call.outcome == "unknown"


def test_a_refusal_that_comes_late_still_clears_the_doubt() -> None:
    """R21: the round is lost with the second refusal; the third proves that it had no effect."""
    world, a, _, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ACCEPT, source=c)
    world.put("k", b"other", c)
    world.run()
    catch(world, m.PREPARE, source=a)
    call = world.put("k", b"refused", a, timeout_ms=500)
    world.run(1.0)
    assert (call.code, call.outcome) == ("deadline-exceeded", "not applied")


def test_a_refusal_that_never_comes_leaves_the_doubt() -> None:
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    catch(world, m.ACCEPT, source=c)
    world.put("k", b"other", c)
    world.run()
    catch(world, m.PREPARE, source=a)
    catch(world, m.NACK, source=b)
    call = world.put("k", b"refused", a, timeout_ms=500)
    world.run(2.0)
    assert call.outcome == "unknown"


def test_one_full_disk_does_not_fail_a_write_that_others_can_take() -> None:
    """A minority that refuses is outvoted, whatever else delays the round."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    world.hosts[c].engine.writable = False
    catch(world, m.ACCEPT, source=b)
    rival = world.put("k", b"rival", b)
    world.run(0.001)
    assert rival.answer is None
    call = world.put("k", b"new", a)  # its first round is nacked by b and refused by c
    world.run(0.5)
    assert call.kind == m.APPLIED


def test_full_disks_of_a_majority_refuse_at_once() -> None:
    """4a, R21."""
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    for index in (b, c):
        world.hosts[index].engine.writable = False
    call = world.put("k", b"new", a)
    world.run(0.01)
    assert (call.code, call.outcome) == ("overloaded", "not applied")
    assert world.read("k", a) == b"old"


@pytest.mark.parametrize("full", [2, 3])
def test_full_disks_refuse_an_accept_as_not_applied_only_if_all_do(full: int) -> None:
    """4a, R21: the key's cached promise saves the prepare, so the accept itself is refused; what one replica may have
    taken stays in doubt."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    for index in (c, b, a)[:full]:
        world.hosts[index].engine.writable = False
    call = world.put("k", b"new", a)
    world.run(0.5)
    assert call.outcome == ("not applied" if full == 3 else "unknown")
    assert call.code == ("overloaded" if full == 3 else "outcome-unknown")
    if full == 3:
        assert world.read("k", a) == b"old"
    for host in world.hosts:
        host.engine.writable = True
    put(world, b"newer", a)
    assert world.read("k", a) == b"newer"


def test_a_clock_far_ahead_costs_its_own_coordinator_only() -> None:
    """R5: the others' rounds meet its promise, outbid it once, are refused for it, and go on with their own time."""
    world, a, b, c = trio()
    put(world, b"old", b)
    settle(world)
    world.set_clock(a, 60_000)
    own = world.put("k", b"ahead", a)
    world.run(0.5)
    assert (own.code, own.outcome) == ("clock-skew", "not applied")
    catch(world, m.ACCEPT, source=c)
    world.put("k", b"contention", c)
    world.run()
    call = world.put("k", b"new", b)
    world.run(1.0)
    assert call.kind == m.APPLIED


def test_a_clock_that_was_far_ahead_and_is_set_back_is_admitted_at_once() -> None:
    """R2, R5: the hybrid clock never falls, so this node's ballots stay ahead: another coordinator must do it."""
    world, a, b, _ = trio()
    put(world, b"old", b)
    settle(world)
    world.set_clock(a, 200_000)
    world.put("k", b"ahead", a)
    world.run(0.5)
    world.set_clock(a, 0)
    own = world.put("k", b"set back", a)
    world.run(0.5)
    assert (own.code, own.outcome) == ("clock-skew", "not applied")
    assert world.read("k", b) == b"old"


def test_a_late_retry_finds_out_what_became_of_it() -> None:
    """R24: after its deadline an operation never runs; its retry answers from the window, undisturbed by the sweep."""
    world, a, b, _ = trio()
    issued = world.now_ms()
    first = put(world, b"v", a, sequence=77)
    world.run(20.0)
    for at, hold_s in ((b, 0.0), (a, 0.2)):
        promises = catch(world, m.PROMISE, m.ACCEPTED)
        retry = world.put("k", b"v", at, sequence=77, attempt=2, issued_at_ms=issued)
        world.run(hold_s)
        promises.pour()
        world.run(1.0)
        assert retry.kind == m.APPLIED
        assert retry.etag == first.etag


def test_a_late_retry_of_what_never_ran_is_settled_as_not_applied() -> None:
    """R24."""
    world, a, _, _ = trio()
    put(world, b"old", a)
    issued = world.now_ms()
    world.run(20.0)
    retry = world.put("k", b"v", a, sequence=78, attempt=2, issued_at_ms=issued)
    world.run(1.0)
    assert (retry.code, retry.outcome) == ("deadline-exceeded", "not applied")
    assert retry.answer is not None
    assert retry.answer[4] == 1
    assert world.read("k", a) == b"old"


def test_a_first_attempt_past_its_deadline_is_not_run() -> None:
    world, a, _, _ = trio()
    call = world.put("k", b"v", a, issued_at_ms=world.now_ms() - 10_000)
    world.run()
    assert (call.code, call.outcome) == ("deadline-exceeded", "not applied")
    assert world.read("k", a) is None


@pytest.mark.parametrize(
    ("nodes", "replicas", "q1", "q2", "down"),
    [
        (3, 3, 2, 2, 1),
        (5, 5, 3, 3, 2),
        (5, 5, 2, 4, 1),
        (4, 4, 2, 3, 1),
        (3, 3, 1, 3, 0),
        (3, 3, 3, 1, 0),
        (7, 7, 0, 0, 3),
    ],
)
def test_each_shape_writes_with_as_many_nodes_down_as_it_can_spare(
    nodes: int, replicas: int, q1: int, q2: int, down: int
) -> None:
    """R26: and with one more it refuses at once."""
    world = World(nodes, store=StoreConfig("default", replicas=replicas, q1=q1, q2=q2))
    owners = world.owners("k")
    for index in owners[1 : 1 + down]:
        world.crash(index)
    put(world, b"v", owners[0])
    assert world.read("k", owners[0]) == b"v"
    world.crash(owners[1 + down])
    call = world.put("k", b"w", owners[0])
    world.run()
    assert (call.code, call.outcome) == ("quorum-unreachable", "not applied")


def test_a_coordinator_that_returns_carries_on_where_others_are() -> None:
    world, a, b, _ = trio()
    put(world, b"1", a)
    with apart(world, a):
        put(world, b"2", b)
    put(world, b"3", a)
    assert world.read("k", b) == b"3"
    settle(world)


@pytest.mark.parametrize("is_read", [True, False])
def test_any_number_of_operations_that_ask_for_a_dead_replica_are_refused(is_read: bool) -> None:
    """R27: each goes alone; one refusal after the other must not nest, however many wait."""
    world, a, b, _c = trio()
    world.crash(b)
    calls = [world.get("k", a, r=3) if is_read else world.put("k", b"v", a, w=3) for _ in range(900)]
    world.run()
    assert {call.code for call in calls} == {"quorum-unreachable"}


def test_a_coordinator_whose_clock_jumps_ahead_does_not_poison_a_key_by_the_next_of_an_accept() -> None:
    """R5, R19: a promise an hour ahead would make every ballot of the key an hour late, at every node."""
    world, a, b, _c = trio()
    put(world, b"1", a)  # leaves a cached promise
    world.set_clock(a, 3_600_000)
    ahead = world.put("k", b"2", a, issued_at_ms=world.now_ms(b))
    world.run(6.0)
    assert ahead.kind != m.APPLIED
    world.set_clock(a, 0)
    call = world.put("k", b"3", b)
    world.run(1.0)
    assert call.kind == m.APPLIED
    assert world.read("k", b) == b"3"


def test_a_round_that_only_answers_brings_the_proved_record_home() -> None:
    """R20, 4a: a token that such a round confirmed is then a base that this replica knows."""
    world, a, b, c = trio()
    with apart(world, a):
        seen = put(world, b"strong", b)
        settle(world)
    refused = world.put("k", b"x", a, etag="no such version")
    world.run()
    assert refused.kind == m.CONFLICT
    assert world.register(a, "k").shown.committed.content == b"\0strong"
    call = world.write("k", b"eventual", a, token=etag_parse(seen.etag) or b"")
    world.run(0.2)
    assert call.kind == m.APPLIED
    assert {world.read("k", index) for index in (a, b, c)} == {b"eventual"}


def test_a_refused_retry_does_not_hide_an_eventual_write_that_it_had_not_seen() -> None:
    """Section 3: only a strong *write* supersedes; a refusal that is recorded changes nothing (R7, R23)."""
    world, a, b, c = trio()
    with apart(world, c):
        written = world.write("k", b"eventual", c)
        world.run()
        assert written.kind == m.APPLIED
        refused = world.put("k", b"x", a, etag="no such version", attempt=2)
        world.run()
        assert refused.kind == m.CONFLICT
    settle(world, 1.0)
    assert world.read("k", b) == b"eventual" or world.read("k", c) == b"eventual"
    assert seen_by(world, c) == b"eventual"


def test_a_stuck_disk_does_not_let_slots_pile_up() -> None:
    """Operations of ever new keys wait for a ceiling that never comes; they end in time, and no more is kept."""
    world = World(3, limits=Limits(requests_in_flight_max=16))
    a = world.owners("k")[0]
    world.hold_disk(a)
    world.run(10.0)  # the ceiling has lapsed
    for turn in range(10):
        for number in range(8):
            world.put(f"key {turn}/{number}", b"v", a, timeout_ms=100)
        world.run(1.0)
    assert len(world.hosts[a].node.consensus._slots) <= 16
    late = world.put("one more", b"v", a)
    assert late.code == "overloaded"
    world.release_disk(a)
    world.run(5.0)
    assert not world.hosts[a].node.consensus._slots
