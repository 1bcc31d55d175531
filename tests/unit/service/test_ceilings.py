"""The durable ceiling: nothing is issued twice, whatever the clock does (R3, R5, R11)."""

from __future__ import annotations

from schedule import put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvnode.core.version import ballot_greatest_at


def issued(world: World, index: int, count: int) -> list[int]:
    """Issue stamps at a node; each that must wait comes after the ceiling has been raised."""
    stamps: list[int] = []
    ceilings = world.hosts[index].node.ceilings

    def issue() -> None:
        stamp = ceilings.stamp()
        if stamp is None:
            ceilings.when_raised(issue)
        else:
            stamps.append(stamp)

    for _ in range(count):
        issue()
        world.run()
    assert len(stamps) == count
    return stamps


def test_no_stamp_is_issued_above_what_is_on_disk() -> None:
    world = World(1)
    for _ in range(50):
        stamp = issued(world, 0, 1)[0]
        stored = world.hosts[0].engine.load_meta("ceiling")
        assert stored is not None
        assert stamp <= int.from_bytes(stored, "big")
        world.run(0.11)


def test_a_restart_begins_at_the_ceiling_even_if_the_clock_went_back() -> None:
    world = World(1)
    before = issued(world, 0, 20)
    ceiling = world.hosts[0].node.ceilings.hybrid.ceiling
    for offset_ms in (0, -100_000, -1, 50):
        world.crash(0)
        world.restart(0, offset_ms=offset_ms)
        after = issued(world, 0, 20)
        assert min(after) > max(before)
        assert min(after) > ceiling
        before, ceiling = after, world.hosts[0].node.ceilings.hybrid.ceiling


def test_a_crash_before_the_ceiling_is_durable_issues_nothing_above_the_old_one() -> None:
    world = World(1)
    ceilings = world.hosts[0].node.ceilings
    world.hold_disk(0)
    world.run(10.0)
    assert ceilings.stamp() is None
    waited: list[int] = []
    ceilings.when_raised(lambda: waited.append(1))
    world.run()
    assert waited == []
    world.release_disk(0)
    world.run()
    assert waited == [1]
    assert ceilings.stamp() is not None


def test_the_ceiling_is_renewed_ahead_of_need() -> None:
    """A steady stream of stamps never waits for the disk."""
    world = World(1)
    ceilings = world.hosts[0].node.ceilings
    for _ in range(200):
        assert ceilings.stamp() is not None
        world.run(0.01)


def test_every_promise_counts_as_the_ceiling_after_a_restart() -> None:
    """R11."""
    world, a, b, _ = trio()
    put(world, b"v", a)
    settle(world)
    ceiling = world.hosts[b].node.ceilings.hybrid.ceiling
    world.crash(b)
    world.restart(b)
    assert world.register(b, "k").promise >= ballot_greatest_at(ceiling)
    assert world.register(b, "other").promise >= ballot_greatest_at(ceiling)


def test_the_stored_ceiling_never_falls() -> None:
    world, a, _, _ = trio()
    last = 0
    for offset_ms in (0, 400, -400, -5000, 300, 0):
        world.set_clock(a, offset_ms)
        for _ in range(5):
            world.put("k", b"v", a)
            world.write("k", b"w", a)
            world.run(0.1)
            stored = int.from_bytes(world.hosts[a].engine.load_meta("ceiling") or b"", "big")
            assert stored >= last
            assert world.hosts[a].node.ceilings.hybrid.ceiling <= stored
            last = stored


def test_a_disk_slower_than_half_of_max_offset_still_lets_the_node_issue() -> None:
    """R3: a ceiling that has passed before it is durable would be renewed for ever."""
    world, a, _, _ = trio()
    world.run(1.0)
    world.slow_disk(a, 0.3)
    strong, eventual = world.put("k", b"1", a), world.write("other", b"2", a)
    world.run(4.5)
    assert strong.kind == m.APPLIED
    assert eventual.kind == m.APPLIED


def test_a_fast_disk_brings_the_short_reserve_back() -> None:
    """R3: a start begins at the ceiling, so it must not lie further ahead than the disk makes necessary."""
    world = World(1)
    hybrid = world.hosts[0].node.ceilings.hybrid
    world.run(1.0)
    world.slow_disk(0, 0.3)
    world.hosts[0].node.ceilings.when_raised(lambda: None)
    world.run(2.0)
    assert hybrid.reserve_ms >= 600
    world.disk_delays_s.clear()
    issued(world, 0, 1)
    assert hybrid.reserve_ms == 250


def test_a_follower_promises_without_a_sync_after_one_that_needed_it() -> None:
    """R11: the first prepare above the ceiling takes a new ceiling into its group."""
    world, a, b, _ = trio()
    world.run(5.0)
    syncs = world.hosts[b].engine.syncs
    for number in range(20):
        world.put(f"key{number}", b"v", a)
        world.run(0.02)
    assert world.hosts[b].engine.syncs - syncs <= 20 + 4, "one for each accept, and now and then one for a promise"
