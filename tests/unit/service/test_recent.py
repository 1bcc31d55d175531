"""Keys that were sent and may not have arrived: kept until heartbeats vouch for them, and bounded."""

from __future__ import annotations

from kvnode.service.recent import Recent

ALL_UP = 0b110


def keys_of(recent: Recent, index: int) -> list[bytes]:
    return [key for keys in recent.unvouched(index) for key in keys]


def test_what_no_heartbeat_has_vouched_for_may_be_lacking() -> None:
    recent = Recent(3, 100)
    recent.keys[b"a"] = 0b111
    recent.close(10.0)
    recent.keys[b"b"] = 0b111
    recent.close(11.0)
    assert keys_of(recent, 1) == [b"a", b"b"]


def test_a_heartbeat_vouches_for_what_was_sent_a_second_before_it() -> None:
    """Received is not yet on disk."""
    recent = Recent(3, 100)
    for second in (10.0, 11.0, 12.0):
        recent.keys[b"%d" % second] = 0b111
        recent.close(second)
    recent.vouch(1, 12.5)
    assert keys_of(recent, 1) == [b"12"]
    recent.vouch(1, 11.0)
    assert keys_of(recent, 1) == [b"12"], "an answer that comes late takes nothing back"
    assert len(keys_of(recent, 2)) == 3


def test_what_all_vouch_for_is_forgotten() -> None:
    recent = Recent(3, 100)
    recent.keys[b"a"] = 0b111
    recent.sweep(10.0, ALL_UP)
    recent.vouch(1, 12.0)
    recent.sweep(12.0, ALL_UP)
    assert keys_of(recent, 2) == [b"a"]
    recent.vouch(2, 12.0)
    recent.sweep(13.0, ALL_UP)
    assert keys_of(recent, 2) == []
    assert recent.forgotten == 0


def test_a_node_that_is_down_holds_nothing_back() -> None:
    """It is owed what is sent while it is away, key by key."""
    recent = Recent(3, 100)
    recent.keys[b"a"] = 0b111
    recent.sweep(10.0, ALL_UP)
    recent.vouch(1, 12.0)
    recent.sweep(12.0, 0b010)
    assert keys_of(recent, 2) == []


def test_a_generation_lasts_a_second() -> None:
    recent = Recent(3, 100)
    recent.sweep(10.0, ALL_UP)
    recent.keys[b"a"] = 0b111
    recent.sweep(10.5, ALL_UP)
    assert b"a" in recent.keys
    recent.sweep(11.0, ALL_UP)
    assert recent.keys == {}


def test_the_keys_are_bounded_and_those_forgotten_early_are_counted() -> None:
    recent = Recent(3, 10)
    for second in range(5):
        for number in range(4):
            recent.keys[b"%d/%d" % (second, number)] = 0b111
        recent.sweep(10.0 + second, ALL_UP)
    assert len(keys_of(recent, 1)) <= 10
    assert recent.forgotten == 12
    recent.keys = {b"%d" % number: 0b111 for number in range(11)}
    recent.sweep(14.5, ALL_UP)
    assert recent.keys == {}
    assert recent.forgotten == 12 + 8 + 11
