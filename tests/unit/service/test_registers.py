"""The cache of registers: what eviction must keep (R6, R11, R12), and that a key never has two registers."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from schedule import put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvclient.wire.values import NO_BALLOT, NO_SBALLOT, NO_VERSION, Ballot, Version, body_pack
from kvnode.config import Limits
from kvnode.core.record import NO_RECORD, Record
from kvnode.core.register import Verdict
from kvnode.core.version import ballot_make
from kvnode.service.registers import Registers
from kvnode.storage.memory import MemoryEngine

KEYS = [f"key{number}" for number in range(40)]


def small(registers_max: int = 2, **limits: int) -> World:
    """Return a world with a tiny cache, in which a test chooses partitions as it likes."""
    world = World(3, limits=Limits(registers_max=registers_max, cached_promises_max=0, **limits))
    for host in world.hosts:
        host.node.registers.is_row_key = lambda key: True
    return world


def test_a_tiny_cache_loses_nothing() -> None:
    world = small()
    rng = random.Random(1)
    last: dict[str, bytes] = {}
    for number in range(300):
        key = rng.choice(KEYS)
        last[key] = b"%d" % number
        put(world, last[key], rng.randrange(3), key)
        if number % 10 == 0:
            settle(world, 0.05)
    for index in range(3):
        assert len(world.hosts[index].node.registers._cache) < 20
    for key, value in last.items():
        assert world.read(key, rng.randrange(3)) == value
    world.invariants()


def test_a_tiny_cache_stays_within_its_bytes() -> None:
    world = small(65536, register_bytes_max=20_000)
    for number, key in enumerate(KEYS):
        put(world, bytes(3000), number % 3, key)
    for key in KEYS:
        assert world.read(key, 0) == bytes(3000)
    for host in world.hosts:
        assert host.node.registers._total_bytes < 60_000


def test_rows_of_which_only_the_promise_changes_count_with_all_their_bytes() -> None:
    """A failing compare-and-set writes no value; the row that it leaves in memory is as large as before."""
    world = small(65536, register_bytes_max=200_000)
    for key in KEYS:
        put(world, bytes(20_000), 1, key)
        world.run(1.0)  # past the ceilings, so that the promise is a row of its own
        assert world.put(key, b"", 0, etag="garbage").answer is None
        world.run()
    for host in world.hosts:
        registers = host.node.registers
        images = [register.image for register in registers._cache.values()]
        held_bytes = sum(len(image.accepted.body) + len(image.committed.body) for image in images)
        assert held_bytes <= registers._total_bytes
        assert held_bytes < 400_000


def test_an_evicted_promise_still_refuses() -> None:
    """R11: what no row carries is folded into the promise of its partition."""
    world = small(1)
    host = world.hosts[0]
    registers = host.node.registers
    row_key = world.row_key("k")
    ballot = ballot_make((host.clock.wall_ms() + 100) << 16, 9, 1, 1)
    assert registers.get(row_key).prepare(ballot, host.clock.wall_ms(), 500) is Verdict.DONE
    for number in range(20):
        registers.get(row_key[:2] + b"default\0other%d" % number)
    assert registers.peek(row_key) is None
    assert registers.get(row_key).prepare(ballot, host.clock.wall_ms(), 500) is Verdict.NACK


def test_an_evicted_promise_does_not_bind_other_partitions() -> None:
    world = small(1)
    registers = world.hosts[0].node.registers
    now_ms = world.now_ms()
    ballot = ballot_make((now_ms + 400) << 16, 9, 1, 1)
    registers.get(b"\0\1default\0k").prepare(ballot, now_ms, 500)
    for number in range(20):
        registers.get(b"\0\1default\0other%d" % number)
    lower = Ballot(ballot_make((now_ms + 300) << 16, 9, 1, 1))
    assert registers.get(b"\0\2default\0k").prepare(lower, now_ms, 500) is Verdict.DONE


def test_a_row_on_its_way_to_the_disk_keeps_its_register() -> None:
    """Else the key would have two registers, and the older one would answer."""
    world = small(1)
    a = world.owners("k")[0]
    world.hold_disk(a)
    world.put("k", b"v", a)
    world.run()
    held = world.register(a, "k")
    assert held.pins
    for number in range(30):
        world.hosts[a].node.registers.get(world.row_key("k")[:2] + b"default\0other%d" % number)
    assert world.register(a, "k") is held
    world.release_disk(a)
    world.run()


def test_an_evicted_commit_is_written() -> None:
    """R12: a commit that is only in memory leaves with its register, to the disk."""
    world = small(1)
    a, b, _ = world.owners("k")
    put(world, b"v", a)
    settle(world)
    committed = world.register(b, "k").image.committed_ballot
    assert committed
    for number in range(30):
        world.hosts[b].node.registers.get(world.row_key("k")[:2] + b"default\0other%d" % number)
    world.run()
    row = world.hosts[b].engine.load(world.row_key("k"))
    assert row is not None
    assert row.committed_ballot == committed


def test_a_repaired_key_is_on_disk_where_its_row_was_missing() -> None:
    """A scan goes over rows: a key that a repair brought must have one."""
    world, a, b, c = trio()
    world.cut(a, c)
    world.cut(b, c)
    put(world, b"v", a)
    settle(world)
    world.mend(a, c)
    world.mend(b, c)
    assert world.read("k", c) == b"v"
    settle(world)
    assert world.hosts[c].engine.load(world.row_key("k")) is not None


@pytest.mark.parametrize("seed", range(3))
def test_eviction_under_contention_keeps_every_invariant(seed: int) -> None:
    world = World(3, seed, limits=Limits(registers_max=1, cached_promises_max=1))
    rng = random.Random(seed)
    calls = [
        world.put(rng.choice(KEYS[:6]), b"%d" % number, rng.randrange(3)) if number % 3 else world.get(KEYS[number % 6])
        for number in range(200)
    ]
    for _ in range(100):
        world.run(0.02)
        world.invariants()
    assert all(call.kind in (m.APPLIED, m.ITEM) for call in calls)


def committed_in_memory(count: int) -> tuple[Registers, MemoryEngine, list[Callable[[], None]]]:
    """Return registers in which so many keys have a commit that they learnt by its mark, oldest first."""
    turns: list[Callable[[], None]] = []
    engine = MemoryEngine(turns.append, pytest.fail)
    registers = Registers(engine, 65536, 64 << 20, 65536, NO_BALLOT)
    ballot, following = (Ballot(ballot_make(stamp << 16, 9, 1, stamp)) for stamp in (1, 2))
    record = Record(body_pack(Version(NO_SBALLOT + bytes(16)), 0, 0, b"\0v"), b"")
    for number in range(count):
        register = registers.get(row_key(number))
        assert register.accept(ballot, record, NO_VERSION, following) is Verdict.DONE
        assert registers.commit(row_key(number), ballot, NO_RECORD)[1] is Verdict.DONE
    return registers, engine, turns


def row_key(number: int) -> bytes:
    return b"\0\1default\0%06d" % number


def run(turns: list[Callable[[], None]]) -> None:
    while turns:
        turns.pop(0)()


def test_commits_that_only_memory_has_are_bounded_and_the_oldest_are_written() -> None:
    """R12: else the readers of other keys write them, one by one, as the rows leave."""
    registers, engine, turns = committed_in_memory(20_000)
    assert len(registers._dirty) <= 16_384
    run(turns)
    row = engine.load(row_key(0))
    assert row is not None
    assert row.committed_ballot == registers.get(row_key(0)).image.committed_ballot
    assert engine.load(row_key(19_999)) is None
    assert not any(register.pins for register in registers._cache.values())


def test_a_commit_that_its_keys_next_row_carries_is_not_written_again() -> None:
    registers, _, turns = committed_in_memory(3)
    registers.on_put(registers.get(row_key(1)))
    registers.flush()
    assert [register.pins for register in registers._cache.values()] == [1, 1, 1]
    assert not registers._dirty
    run(turns)
    assert [register.pins for register in registers._cache.values()] == [0, 1, 0]


def test_a_commit_that_comes_with_the_record_held_here_already_is_not_written() -> None:
    """R20: a read that proves a proposal to be chosen commits it here with its own record."""
    registers, _, _ = committed_in_memory(1)
    register = registers.get(row_key(0))
    ballot, following = (Ballot(ballot_make(stamp << 16, 9, 1, stamp)) for stamp in (3, 4))
    assert register.accept(ballot, register.image.committed, NO_VERSION, following) is Verdict.DONE
    assert registers.commit(row_key(0), ballot, register.image.accepted)[1] is Verdict.DONE
    assert register.is_dirty
    assert not register.pins


def test_flush_writes_every_commit_that_only_memory_has() -> None:
    registers, engine, turns = committed_in_memory(500)
    registers.flush()
    run(turns)
    assert engine.approximate_keys() == 500
