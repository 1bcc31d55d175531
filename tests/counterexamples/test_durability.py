"""What a crash may take and what it may not: promises, ballots, acknowledgements, what readers have seen (R3-R6, R9,
R11, R19, R45, protocol 5a).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

from mutants import durability
from schedule import Case, both_ways, catch, claim, put, settle, trio

from kvclient.wire import messages as m

# -- R19: promises of an earlier life


def a_restart_forgets_cached_promises() -> None:
    """R19: a coordinator that remembers one over a restart proposes a second record with its ballot."""
    world, a, b, c = trio()
    put(world, b"1", a)
    settle(world)
    world.hold_disk(a)
    to_c = catch(world, m.ACCEPT, source=a, target=c)
    world.put("k", b"2", a)
    world.run()
    to_c.stop()
    world.crash(a)
    world.restart(a)
    put(world, b"3", a)
    claim(world.read("k", b) == b"3", "the second write is not there")
    world.invariants()


# -- R5, R3: no ballot twice


def a_ballot_is_never_issued_twice() -> None:
    """C7, M5: the wall clock goes back with a restart; a ballot used again carries a second record."""
    world, a, b, c = trio()
    put(world, b"0", b)
    settle(world)
    world.hold_disk(a)
    to_c = catch(world, source=a, target=c)
    world.put("k", b"1", a)
    world.run()
    world.crash(a)  # b has accepted 1; a has lost it
    to_c.stop()
    world.restart(a)
    to_b = catch(world, m.PREPARE, source=a, target=b)
    world.put("k", b"2", a)
    world.run()
    to_b.stop()
    world.run(3.0)
    claim(world.read("k", c) == world.read("k", b) == b"2", "the last write is not there")


# -- R9, R11: promises outlive a crash


def two_winners_for_one_etag(clock_a_ms: int, clock_c_ms: int) -> None:
    """C7, M2: b promises to a's later round, forgets it in a crash, and accepts c's earlier one."""
    world, a, b, c = trio()
    etag = put(world, b"0", a).etag
    settle(world)
    world.set_clock(a, clock_a_ms)
    world.set_clock(c, clock_c_ms)
    catch(world, m.PREPARE, source=c, target=b)
    slow_promise = catch(world, m.PROMISE, source=a, target=c)
    first = world.put("k", b"1", c, etag=etag)
    world.run()
    world.run(0.001)
    to_c = catch(world, source=a, target=c)
    catch(world, m.ACCEPT, source=a, target=b)
    world.hosts[a].node.consensus._promises.take(world.row_key("k"))
    second = world.put("k", b"2", a, etag=etag)
    world.run()
    assert any(message[2][0] == m.ACCEPT for message in to_c.messages), "a has no quorum of promises"
    world.crash(b)
    world.restart(b)
    to_c.stop()
    slow_promise.pour()
    world.run()
    to_c.pour()
    world.run()
    winners = [call for call in (first, second) if call.kind == m.APPLIED]
    claim(len(winners) <= 1, "two writers won with one ETag")


def promises_survive_a_crash() -> None:
    two_winners_for_one_etag(0, 0)


def promises_above_the_ceiling_are_synced() -> None:
    two_winners_for_one_etag(480, 400)


# -- R45, R6: nothing leaves before it is durable


def acknowledged_is_synced() -> None:
    """Ack before fsync: every node loses power at once after the acknowledgement."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    for index in (a, b, c):
        world.hold_disk(index)
    call = world.put("k", b"new", a)
    world.run()
    was_acknowledged = call.kind == m.APPLIED
    for index in (a, b, c):
        world.crash(index)
    for index in (a, b, c):
        world.restart(index)
    claim(world.read("k", b) == (b"new" if was_acknowledged else b"old"), "an acknowledged write was lost")


def all_nodes_lose_power_after_an_acknowledgement() -> None:
    """R45: what was acknowledged is on Q2 disks."""
    world, a, b, c = trio()
    put(world, b"new", a)
    for index in (a, b, c):
        world.crash(index)
    for index in (a, b, c):
        world.restart(index)
    claim(world.read("k", b) == b"new", "an acknowledged write was lost")


def nothing_is_shown_before_it_is_durable() -> None:
    """5a: a value shown before its sync, then lost by crashes."""
    world, a, b, c = trio()
    put(world, b"old", a)
    settle(world)
    world.hold_disk(a)
    world.hold_disk(b)
    catch(world, m.ACCEPT, source=a, target=c)
    world.put("k", b"new", a)
    world.run()
    before = world.get("k", c)
    world.run(0.3)
    for index in (a, b, c):
        world.crash(index)
    for index in (a, b, c):
        world.restart(index)
    after = world.read("k", c)
    claim(not (before.answer and before.value == b"new") or after == b"new", "a value was read and then vanished")


CASES = [
    Case("R19", a_restart_forgets_cached_promises, durability.cached_promises_survive),
    Case("R1, R3, R5", a_ballot_is_never_issued_twice, durability.a_restart_begins_where_it_began),
    Case("R11", promises_survive_a_crash, durability.promises_count_for_nothing_after_a_restart),
    Case("R9", promises_above_the_ceiling_are_synced, durability.no_promise_is_synced),
    Case("R45", acknowledged_is_synced, durability.answers_do_not_wait_for_the_disk),
    Case("R45", all_nodes_lose_power_after_an_acknowledgement, durability.the_disk_syncs_nothing),
    Case("R6", nothing_is_shown_before_it_is_durable, durability.reads_show_what_is_not_durable),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
