"""What seeds draw, and what faults make of the world."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from simulation.faults import KINDS, LASTING, Weather, weather_of
from simulation.nemesis import BLOWS
from simulation.oracle import Oracle
from simulation.scenario import Cluster, Fault
from simulation.swarm import FS, SHAPES, draw
from simulation.violation import Violation

from kvclient.wire.values import Ballot, body_pack
from kvnode.core.record import EMPTY_IMAGE, Record
from kvnode.core.version import ballot_make, version_strong

SEEDS = range(400)
FIVE = Cluster(nodes=5, replicas=5, q1=3, q2=3)


def test_seeds_draw_every_kind_of_everything() -> None:
    scenarios = [draw(seed) for seed in SEEDS]
    faults = Counter(fault.kind for scenario in scenarios for fault in scenario.faults)
    assert set(faults) == set(KINDS)
    calls = {act.f if act.strong else f"weak {act.f}" for s in scenarios for acts in s.clients for act in acts}
    assert calls == {f for kind in FS.values() for f in kind}
    assert {(s.cluster.nodes, s.cluster.replicas, s.cluster.q1, s.cluster.q2) for s in scenarios} == set(SHAPES)


def test_no_more_nodes_are_damaged_than_every_quorum_can_spare() -> None:
    for seed in SEEDS:
        scenario = draw(seed)
        cluster = scenario.cluster
        damaged = {node for fault in scenario.faults if fault.kind in LASTING for node in fault.nodes}
        assert len(damaged) <= cluster.replicas - max(cluster.q1, cluster.q2)


def test_what_one_fault_ends_another_may_still_want() -> None:
    cut = Fault("one-way", 0, 10, (0, 3))
    parted = Fault("partition", 0, 20, (0, 1))
    assert (0, 3) in weather_of([cut], FIVE, 2).blocked
    both = weather_of([cut, parted], FIVE, 2).blocked
    assert both == weather_of([parted], FIVE, 2).blocked
    assert weather_of([], FIVE, 2) == Weather()


@pytest.mark.parametrize("seed", range(50))
def test_the_weather_does_not_depend_on_the_order_of_faults(seed: int) -> None:
    rng = random.Random(seed)
    drawn = [Fault(kind, 0, 1, *KINDS[kind].draw(rng, FIVE, 2)) for kind in rng.sample(tuple(KINDS), 8)]
    weather = weather_of(drawn, FIVE, 2)
    assert weather_of(drawn[::-1], FIVE, 2) == weather
    for fault in drawn:
        assert weather_of([fault], FIVE, 2).blocked <= weather.blocked


def test_what_lasts_makes_a_difference_wherever_it_is_drawn() -> None:
    blows = set(BLOWS) - {"crash", "power loss"}
    for seed in SEEDS:
        scenario = draw(seed)
        clear = weather_of([], scenario.cluster, len(scenario.clients))
        for fault in scenario.faults:
            if fault.kind not in blows and not (fault.kind == "steered" and len(fault.nodes) == scenario.cluster.nodes):
                assert weather_of([fault], scenario.cluster, len(scenario.clients)) != clear, fault


def test_a_partition_may_part_clients_too() -> None:
    blocked = weather_of([Fault("partition", 0, 1, (0,), 0b01)], FIVE, 2).blocked
    first, second = 5, 6
    assert (first, 1) in blocked
    assert (first, 0) not in blocked
    assert (second, 0) in blocked
    assert (second, 1) not in blocked


def test_each_node_of_a_ring_sees_a_majority() -> None:
    blocked = weather_of([Fault("ring", 0, 1, (0,))], FIVE, 0).blocked
    for node in range(5):
        assert sum((node, other) not in blocked for other in range(5)) == 3


def test_the_middle_of_a_bridge_sees_all() -> None:
    blocked = weather_of([Fault("bridge", 0, 1, (2, 0, 1))], FIVE, 0).blocked
    assert not any(2 in pair for pair in blocked)
    assert {(0, 3), (3, 0), (1, 4), (4, 1)} <= blocked
    assert (0, 1) not in blocked


# -- the oracle, fed by hand

KEY = b"\0\0default\0k"


def accepted(content: bytes, number: int) -> tuple[Ballot, Record]:
    """Return a ballot and the record that it proposes."""
    ballot = ballot_make(1000 << 16, 1, 1, number)
    return ballot, Record(body_pack(version_strong(ballot, 0), 0, 0, content), b"")


def test_two_records_with_one_ballot_are_seen() -> None:
    oracle = Oracle(2)
    ballot, one = accepted(b"\0one", 1)
    _, other = accepted(b"\0other", 1)
    image = EMPTY_IMAGE._replace(promised=ballot, accepted_ballot=ballot, accepted=one)
    oracle.on_durable(0, KEY, image)
    with pytest.raises(Violation, match="two records with one ballot"):
        oracle.on_durable(1, KEY, image._replace(accepted=other))


def test_what_is_committed_must_be_chosen() -> None:
    oracle = Oracle(2)
    ballot, record = accepted(b"\0one", 1)
    held = EMPTY_IMAGE._replace(promised=ballot, accepted_ballot=ballot, accepted=record)
    marked = EMPTY_IMAGE._replace(promised=ballot, committed_ballot=ballot, committed=record)
    oracle.on_durable(0, KEY, held)
    with pytest.raises(Violation, match="never chosen"):
        oracle.on_durable(2, KEY, marked)
    oracle.on_durable(1, KEY, held)
    oracle.on_durable(2, KEY, marked)
    oracle.answered_applied(KEY, record.version)


def test_a_replica_is_held_to_its_promises_for_ever() -> None:
    oracle = Oracle(2)
    low, record = accepted(b"\0low", 1)
    high, _ = accepted(b"\0high", 2)
    oracle.on_promised(0, KEY, high)
    with pytest.raises(Violation, match="accepted below a promise"):
        oracle.on_durable(0, KEY, EMPTY_IMAGE._replace(promised=low, accepted_ballot=low, accepted=record))
    with pytest.raises(Violation, match="a promise was forgotten"):
        oracle.on_start(0, low)
    oracle.on_start(0, high)


def test_a_dead_proposal_must_not_be_shown() -> None:
    oracle = Oracle(2)
    ballot, record = accepted(b"\0one", 1)
    oracle.on_durable(0, KEY, EMPTY_IMAGE._replace(promised=ballot, accepted_ballot=ballot, accepted=record))
    with pytest.raises(Violation, match="not chosen"):
        oracle.answered_shown(KEY, record.version, is_strong=True)
