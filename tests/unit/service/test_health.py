"""What a node makes of heartbeats: load, epochs, what STATUS shows of every other node."""

from __future__ import annotations

import logging

import pytest
from schedule import put, settle, trio
from world import World

from kvclient.wire import messages as m
from kvnode.config import Limits
from kvnode.core.load import Load
from kvnode.service.exchange import Exchanges
from kvnode.service.health import Health

QUIET = Load(0, 0, 0)
LATE = Load(40, 50_000, 0)


class Measured:
    """What is measured of every link."""

    def offset_ms(self, index: int) -> tuple[int, int] | None:
        return None if index == 2 else (-3, 0)

    def rtt_ms(self, index: int) -> float | None:
        return None if index == 2 else 0.4567


def health() -> tuple[Health, Exchanges]:
    exchanges = Exchanges(3)
    return Health(["n1", "n2", "n3"], 0, exchanges, Limits(), 0.05, 1, Measured()), exchanges


def test_a_node_that_is_far_busier_than_the_rest_is_noted_until_it_is_not() -> None:
    one, exchanges = health()
    one.on_pulse(1, 1, QUIET)
    one.on_pulse(2, 1, LATE)
    assert exchanges.busy == 0b100
    one.on_pulse(2, 1, QUIET)
    assert exchanges.busy == 0


def test_what_a_node_told_does_not_outlive_its_link() -> None:
    one, exchanges = health()
    one.on_pulse(1, 1, QUIET)
    one.on_pulse(2, 1, LATE)
    one.on_lost(2)
    assert exchanges.busy == 0
    one.on_pulse(1, 1, QUIET)
    assert exchanges.busy == 0


@pytest.mark.parametrize("load", [Load(-1, 50_000, 0), Load(0, -1, 0), Load(0, 1 << 62, 0)])
def test_an_impossible_load_is_not_believed(load: Load) -> None:
    one, exchanges = health()
    one.on_pulse(1, 1, QUIET)
    one.on_pulse(2, 1, load)
    assert exchanges.busy == 0


def test_the_loop_counts_as_late_by_how_late_sweeps_are_but_a_pause_is_no_load() -> None:
    one, _ = health()
    now_s = 0.0
    for _ in range(200):
        now_s += 0.05 + 0.02
        one.sweep(now_s)
    assert one.load().loop_us == pytest.approx(20_000, rel=0.01)
    now_s += 3600.0
    one.sweep(now_s)
    assert one.load().loop_us < 100_000


def test_a_node_of_another_epoch_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """R40"""
    one, _ = health()
    with caplog.at_level(logging.WARNING, "kvnode"):
        for epoch in (1, 2, 2, 2, 3):
            one.on_pulse(1, epoch, QUIET)
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(";")[0] for text in said] == [
        "node n2 goes by epoch 2 of the ring, this node by 1",
        "node n2 goes by epoch 3 of the ring, this node by 1",
    ]


def test_status_shows_what_is_known_of_every_other_node() -> None:
    one, _ = health()
    one.detector.heard(1, 10.0)
    one.on_pulse(1, 1, Load(7, 1500, 2250))
    facts = one.facts(11.0)
    assert facts["peers"] == {"n2": "down", "n3": "down"}
    assert facts["links"]["n2"] == {
        "state": "down",
        "phi": 0.3,
        "rtt_ms": 0.457,
        "offset_ms": -3,
        "offset_error_ms": 0,
        "epoch": 1,
        "load": {"in_flight": 7, "loop_ms": 1.5, "commit_ms": 2.2},
        "busy": False,
    }
    assert facts["links"]["n3"] == {
        "state": "down",
        "phi": 0.0,
        "rtt_ms": None,
        "offset_ms": None,
        "offset_error_ms": None,
        "epoch": None,
        "load": None,
        "busy": False,
    }
    assert facts["load"] == {"in_flight": 0, "loop_ms": 0.0, "commit_ms": 0.0}


@pytest.mark.parametrize(
    ("offsets_ms", "is_good"),
    [
        ([], True),
        ([(401, 0)], True),
        ([(401, 0), (401, 0)], False),
        ([(-401, 0), (9_000, 0)], False),
        ([(400, 0), (9_000, 0)], True),
        ([(550, 150), (9_000, 0)], True),
        ([(551, 150), (9_000, 150)], False),
    ],
)
def test_a_clock_is_bad_once_most_are_surely_far_from_it(offsets_ms: list[tuple[int, int]], is_good: bool) -> None:
    """R4"""
    one, _ = health()
    assert one.clock_is_good(offsets_ms) is is_good


def asked_by(world: World, home: int) -> list[int]:
    asked: list[int] = []

    def note(source: int, target: int, message: tuple[object, ...]) -> bool:
        if message[0] == m.READ and source == home:
            asked.append(target)
        return True

    world.on_post = note
    return asked


def test_a_strong_read_asks_a_busy_replica_only_if_the_others_do_not_settle_it() -> None:
    """The order changes, never how many answers a read needs (R20)."""
    world, a, b, c = trio()
    put(world, b"v", a)
    settle(world)
    asked = asked_by(world, a)
    for busy_one, other in ((b, c), (c, b)):
        world.hosts[a].node.exchanges.busy = 1 << busy_one
        for _ in range(4):
            call = world.get("k", a)
            world.run()
            assert call.value == b"v"
        assert set(asked) == {other}
        asked.clear()
    world.cut(a, b)
    call = world.get("k", a)
    world.run()
    assert call.value == b"v"
    assert set(asked) == {c}
