"""w="any" at a node that owns no copy: a durable hint is enough, and for nothing else (R28, R29, 4a)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from schedule import put, seen_by, settle
from world import Call, World

from kvclient.wire import messages as m
from kvclient.wire.values import etag_parse
from kvnode.config import Limits, StoreConfig

ANY = 0


def four(**options: Any) -> tuple[World, int, tuple[int, ...]]:
    """Return a world of four nodes, the one that owns no copy of "k", and the three that do."""
    world = World(4, store=StoreConfig("default", replicas=3), **options)
    owners = world.owners("k")
    return world, next(index for index in range(4) if index not in owners), owners


@contextmanager
def alone(world: World, one: int) -> Iterator[None]:
    others = [index for index in range(4) if index != one]
    for other in others:
        world.cut(one, other)
    yield
    for other in others:
        world.mend(one, other)


def written(world: World, at: int, value: bytes | None, **options: Any) -> Call:
    call = world.write("k", value, at, w=ANY, **options)
    world.run()
    assert call.answer is not None
    return call


def test_a_write_is_kept_for_all_owners_and_handed_over() -> None:
    world, outsider, owners = four()
    with alone(world, outsider):
        assert written(world, outsider, b"v").kind == m.APPLIED
        assert world.hosts[outsider].node.facts()["hints"] == 3
    settle(world, 0.5)
    for index in owners:
        assert seen_by(world, index) == b"v"
    assert world.hosts[outsider].node.facts()["hints"] == 0
    assert world.read("k") == b"v", "and a strong read folds it in"


def test_a_kept_write_is_durable_when_it_is_acknowledged() -> None:
    world, outsider, owners = four()
    with alone(world, outsider):
        world.hold_disk(outsider)
        call = world.write("k", b"v", outsider, w=ANY)
        world.run()
        assert call.answer is None
        world.release_disk(outsider)
        world.run()
        assert call.kind == m.APPLIED
        world.crash(outsider)
        world.restart(outsider)
    settle(world, 0.5)
    assert seen_by(world, owners[2]) == b"v"


def test_a_disk_that_is_stuck_leaves_the_outcome_unknown() -> None:
    world, outsider, _ = four()
    with alone(world, outsider):
        world.hold_disk(outsider)
        call = world.write("k", b"v", outsider, w=ANY, timeout_ms=300)
        world.run(0.5)
        assert call.outcome == "unknown"
        world.release_disk(outsider)
        world.run()


def test_the_newest_entry_of_a_key_is_kept() -> None:
    world, outsider, owners = four()
    with alone(world, outsider):
        for number in range(5):
            assert written(world, outsider, b"%d" % number).kind == m.APPLIED
        assert world.hosts[outsider].node.facts()["hints"] == 3
    settle(world, 0.5)
    assert {seen_by(world, index) for index in owners} == {b"4"}


def test_a_kept_write_never_beats_a_strong_one_that_it_had_not_seen() -> None:
    """R7: its base is "no such key"."""
    world, outsider, owners = four()
    with alone(world, outsider):
        written(world, outsider, b"weak")
        put(world, b"strong", owners[0])
        assert written(world, outsider, b"weaker").kind == m.APPLIED
    settle(world, 0.5)
    for index in owners:
        assert seen_by(world, index) == b"strong"
    assert world.read("k") == b"strong"
    assert world.hosts[outsider].node.facts()["hints"] == 0


def test_a_token_that_names_a_strong_change_is_refused_where_it_cannot_be_confirmed() -> None:
    """4a."""
    world, outsider, owners = four()
    token = etag_parse(put(world, b"strong", owners[0]).etag)
    with alone(world, outsider):
        assert written(world, outsider, b"v", token=token).code == "quorum-unreachable"


def test_a_token_of_an_eventual_write_is_outbid() -> None:
    """R29: the stamp is above the token's."""
    world, outsider, owners = four()
    call = world.write("k", b"v", owners[0])
    world.run()
    token = etag_parse(call.etag)
    assert token
    with alone(world, outsider):
        kept = written(world, outsider, b"later", token=token)
        assert (etag_parse(kept.etag) or b"") > token
        ahead = bytes(28) + ((world.now_ms() + 5000) << 16).to_bytes(8, "big") + bytes(8)
        assert written(world, outsider, b"v", token=ahead).code == "clock-skew"


@pytest.mark.parametrize("w", [1, 2])
def test_a_write_that_asks_for_replicas_is_not_kept(w: int) -> None:
    """R28: hints count with "any" only."""
    world, outsider, _ = four()
    with alone(world, outsider):
        call = world.write("k", b"v", outsider, w=w)
        world.run()
        assert call.code == "quorum-unreachable"
        assert world.hosts[outsider].node.facts()["hints"] == 0


def test_a_strong_write_is_not_kept() -> None:
    """R28, C10."""
    world, outsider, _ = four()
    with alone(world, outsider):
        call = world.put("k", b"v", outsider)
        world.run()
        assert call.code == "quorum-unreachable"
        assert world.hosts[outsider].node.facts()["hints"] == 0


def test_with_an_owner_in_reach_the_write_goes_there() -> None:
    world, outsider, owners = four()
    assert written(world, outsider, b"v").kind == m.APPLIED
    assert seen_by(world, owners[0]) == b"v"
    assert world.hosts[outsider].node.facts()["hints"] == 0


def test_owners_under_suspicion_are_not_waited_for() -> None:
    world, outsider, owners = four()
    node = world.hosts[outsider].node
    for index in owners:
        node.on_heartbeat(index, world.scheduler.now_s, (1, 0, 0, 0))
    world.run(3.0)
    with world.silenced(*owners):
        assert written(world, outsider, b"v").kind == m.APPLIED
    assert node.facts()["hints"] == 3
    assert set(node.facts()["peers"].values()) == {"silent"}


def test_without_room_nothing_is_kept() -> None:
    world, outsider, _ = four(limits=Limits(hint_bytes_max=0))
    with alone(world, outsider):
        assert written(world, outsider, b"v").code == "quorum-unreachable"


def test_a_clock_that_is_off_keeps_nothing() -> None:
    """R4."""
    world, outsider, _ = four()
    with alone(world, outsider):
        world.hosts[outsider].node.eventual.clock_is_good = False
        call = world.write("k", b"v", outsider, w=ANY)
        assert call.code == "clock-skew"


def test_a_kept_write_older_than_gc_grace_is_given_up() -> None:
    """R37: the key may have been deleted and purged since."""
    world = World(4, store=StoreConfig("default", replicas=3, gc_grace_s=60))
    outsider = next(index for index in range(4) if index not in world.owners("k"))
    with alone(world, outsider):
        written(world, outsider, b"v")
        world.run(61.0)
    settle(world, 0.5)
    assert world.hosts[outsider].node.facts()["hints"] == 0
    assert seen_by(world, world.owners("k")[0]) is None
