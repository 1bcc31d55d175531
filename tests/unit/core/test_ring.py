"""The ring: everyone computes the same table, and a join or a leave moves only what it must."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import xxhash

from kvnode.core.ring import Ring, RingNode

PARTITIONS = 256


def nodes(count: int, zones: int = 1) -> list[RingNode]:
    return [RingNode(f"n{index}", f"z{index % zones}", 1.0) for index in range(count)]


def owners(members: list[RingNode], replicas: int) -> list[set[str]]:
    ring = Ring(members, PARTITIONS)
    ring.invariants()
    return [{members[index].id for index in ring.owners(number, replicas)} for number in range(PARTITIONS)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("zones", [1, 2, 3])
def test_a_preference_list_names_every_node_once(count: int, zones: int) -> None:
    for order in Ring(nodes(count, zones), PARTITIONS).preference:
        assert sorted(order) == list(range(count))


@pytest.mark.parametrize("zones", [1, 3])
def test_the_table_is_the_same_whatever_the_order_of_the_node_list(zones: int) -> None:
    members = nodes(6, zones)
    names = [[members[index].id for index in order] for order in Ring(members, PARTITIONS).preference]
    shuffled = members[:]
    random.Random(1).shuffle(shuffled)
    again = [[shuffled[index].id for index in order] for order in Ring(shuffled, PARTITIONS).preference]
    assert names == again


def test_ties_are_broken_by_id_so_that_the_order_of_the_list_does_not_matter() -> None:
    """Weight 0 gives everyone the same score."""
    members = [RingNode(name, "", 0.0) for name in ("c", "a", "b")]
    assert Ring(members, 8).preference == [(1, 2, 0)] * 8


@pytest.mark.parametrize(("count", "zones"), [(3, 1), (4, 2), (5, 3), (6, 2), (6, 6)])
@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("zone", ["z0", "new"])
def test_a_node_that_joins_gets_keys_and_nobody_else_does(count: int, zones: int, replicas: int, zone: str) -> None:
    members = nodes(count, zones)
    before, after = owners(members, replicas), owners([*members, RingNode("joiner", zone, 1.0)], replicas)
    assert all(new - old <= {"joiner"} for old, new in zip(before, after, strict=True))
    assert any("joiner" in new for new in after)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_node_that_leaves_gives_up_its_keys_and_no_other_moves(replicas: int) -> None:
    members = nodes(6, 3)
    before, after = owners(members, replicas), owners(members[:-1], replicas)
    for old, new in zip(before, after, strict=True):
        assert old - new <= {"n5"}
        assert old == new or "n5" in old


def test_a_greater_weight_moves_keys_only_to_its_node() -> None:
    members = nodes(5)
    heavier = [*members[:-1], members[-1]._replace(weight=2.0)]
    for old, new in zip(owners(members, 2), owners(heavier, 2), strict=True):
        assert new - old <= {"n4"}


def test_shares_follow_the_weights() -> None:
    members = [RingNode("a", "", 1.0), RingNode("b", "", 1.0), RingNode("c", "", 2.0)]
    ring = Ring(members, 4096)
    share = Counter(ring.owners(number, 1)[0] for number in range(4096))
    assert 0.20 < share[0] / 4096 < 0.30
    assert 0.45 < share[2] / 4096 < 0.55


def test_copies_lie_in_as_many_zones_as_there_are() -> None:
    members = nodes(7, 3)
    ring = Ring(members, PARTITIONS)
    for number in range(PARTITIONS):
        assert len({members[index].zone for index in ring.owners(number, 3)}) == 3
        assert len({members[index].zone for index in ring.owners(number, 2)}) == 2


def test_with_fewer_zones_than_copies_every_zone_has_one_before_any_has_two() -> None:
    members = nodes(6, 2)
    ring = Ring(members, PARTITIONS)
    for number in range(PARTITIONS):
        counts = Counter(members[index].zone for index in ring.owners(number, 3))
        assert sorted(counts.values()) == [1, 2]


def test_more_copies_than_nodes_are_as_many_as_there_are_nodes() -> None:
    assert len(Ring(nodes(2), 4).owners(0, 3)) == 2


def test_a_key_name_has_one_partition_below_the_number_of_partitions() -> None:
    ring = Ring(nodes(3), 7)
    for number in range(200):
        name = b"store\x00key%d" % number
        assert ring.partition_of(name) == xxhash.xxh3_64_intdigest(name) % 7


@pytest.mark.parametrize("digest", [0, 1, 2**63, 2**64 - 2, 2**64 - 1])
def test_no_hash_value_breaks_the_score(digest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The greatest hashes must not round to 1, whose logarithm is 0."""
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda name: digest)
    Ring(nodes(3), 2).invariants()
