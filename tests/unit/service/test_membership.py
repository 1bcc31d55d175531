"""Who may join: clones, emptied directories, old backups, strangers, and new directories (R1, R44)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from unit.fakes import ManualClock

from kvnode.config import Config, StoreConfig, local
from kvnode.service.age import Age
from kvnode.service.membership import Identity, Membership
from kvnode.storage.memory import MemoryDisk, MemoryEngine


class House:
    """One node's membership over a disk that writes when told to."""

    def __init__(self, nodes: int = 3, *, name: str = "n1", is_new: bool = False, config: Config | None = None) -> None:
        self.config = config or local(nodes)
        self.soon: deque[Callable[[], object]] = deque()
        self.disk = MemoryDisk()
        self.own = Identity(name, 100, 1, 7)
        self.clock = ManualClock()
        self.start(is_new=is_new)

    def start(self, *, is_new: bool = False) -> None:
        self.engine = MemoryEngine(self.soon.append, print, self.disk)
        self.age = Age(self.engine, self.clock)
        self.members = Membership(self.config, self.own, 1, self.engine, self.age, is_new=is_new)

    def turn(self) -> None:
        while self.soon:
            self.soon.popleft()()

    def facts(self, name: str = "n2", **changes: Any) -> dict[str, Any]:
        other = Membership(self.config, Identity(name, 200, 5, 9), 1, self.engine, self.age, is_new=False)
        return other.facts() | changes

    def bound(self, facts: dict[str, Any]) -> list[str]:
        told: list[str] = []
        self.members.bind(facts, lambda: told.append("bound"))
        return told


def test_a_first_meeting_binds_name_to_identity_durably() -> None:
    house = House()
    facts = house.facts()
    assert house.members.judge(facts) is None
    told = house.bound(facts)
    assert told == []
    house.turn()
    assert told == ["bound"]


def test_a_second_meeting_waits_for_the_disk_of_the_first() -> None:
    """R1: both handshakes of a pair may be under way; neither WELCOME leaves before the binding is on disk."""
    house = House()
    facts = house.facts()
    first, second = house.bound(facts), house.bound(facts)
    assert (first, second) == ([], [])
    house.turn()
    assert (first, second) == (["bound"], ["bound"])
    assert house.bound(facts) == ["bound"]


def test_bindings_survive_a_restart() -> None:
    house = House()
    house.bound(house.facts())
    house.turn()
    house.engine.crash()
    house.start()
    assert house.members.judge(house.facts(node_id=201)) is not None
    assert house.bound(house.facts()) == ["bound"]


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({}, False),
        ({"incarnation": 6, "process": 10}, False),
        ({"process": 10}, True),
        ({"incarnation": 4, "process": 10}, True),
        ({"incarnation": 4}, True),
        ({"node_id": 201}, True),
        ({"node_id": 201, "incarnation": 99}, True),
    ],
    ids=["again", "restarted", "clone", "old backup", "backup of this process", "emptied directory", "exchanged"],
)
def test_only_a_later_incarnation_of_the_same_directory_may_return(changes: dict[str, int], is_refused: bool) -> None:
    house = House()
    house.bound(house.facts())
    house.turn()
    refusal = house.members.judge(house.facts(**changes))
    assert (refusal is not None) is is_refused
    if refusal is not None:
        assert refusal[0] == "identity"
        assert "emptied" not in refusal[1] or "put the right one back, as its node left it, or leave it" in refusal[1]


NEXT = {"incarnation": 6, "process": 10}


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"age": 8}, False),
        ({"age": 9}, False),
        ({"age": 7}, True),
        ({"found": 7, "age": 8}, False),
        (NEXT | {"found": 8, "age": 8}, False),
        (NEXT | {"found": 9, "age": 12}, False),
        (NEXT | {"found": 7, "age": 7}, True),
        (NEXT | {"found": 7, "age": 99}, True),
        (NEXT | {"found": 0, "age": 0, "incarnation": 99}, True),
    ],
    ids=repr,
)
def test_a_directory_that_is_younger_than_what_was_heard_of_it_is_refused(
    changes: dict[str, int], is_refused: bool
) -> None:
    """R1, R44: a backup of the present incarnation, or a machine that went back to a snapshot of itself."""
    house = House()
    house.bound(house.facts())
    house.members.on_aged("n2", 9, 8)
    house.turn()
    for _ in range(2):
        refusal = house.members.judge(house.facts(**changes))
        assert (refusal is not None) is is_refused
        if refusal is not None:
            assert refusal[0] == "identity"
            assert "but 'n1' has heard from it at age 8" in refusal[1]
        house.engine.crash()
        house.start()  # what was heard is remembered


def test_an_answer_that_was_overtaken_by_a_later_age_of_the_same_process_is_not_refused() -> None:
    """Its WELCOME and what it tells come over two links."""
    house = House()
    house.bound(house.facts())
    house.members.on_aged("n2", 9, 8)
    assert house.members.judge(house.facts(age=7), "n2") is None
    assert house.members.judge(house.facts(age=7, found=0, **NEXT), "n2") is not None


def test_what_an_earlier_process_told_late_is_not_held_against_the_present_one() -> None:
    house = House()
    house.bound(house.facts())
    house.bound(house.facts(found=4, **NEXT))
    house.members.on_aged("n2", 9, 8)
    assert house.members.judge(house.facts(found=4, age=4, **NEXT)) is None


def test_a_directory_that_was_never_heard_of_may_have_any_age() -> None:
    """Also at a node that has lost what it remembered, or was put back itself."""
    house = House()
    house.members.on_aged("n2", 9, 8)
    assert house.members.judge(house.facts(found=0, age=0)) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cluster": "other"}, "'other'"),
        ({"name": "n9"}, "'n9'"),
        ({"name": "n1"}, "'n1'"),
        ({"ring": 1}, "cluster.toml"),
    ],
)
def test_strangers_are_refused_and_bind_nothing(changes: dict[str, Any], expected: str) -> None:
    house = House()
    refusal = house.members.judge(house.facts(**changes))
    assert refusal is not None
    assert refusal[0] == "cluster"
    assert expected in refusal[1]


def test_the_answer_to_a_dial_must_come_from_the_node_that_was_dialled() -> None:
    house = House()
    assert house.members.judge(house.facts("n2"), "n2") is None
    assert house.members.judge(house.facts("n2"), "n3") is not None


@pytest.mark.parametrize(("nodes", "needed"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4)])
def test_a_new_directory_serves_once_more_than_half_of_the_others_know_it(nodes: int, needed: int) -> None:
    house = House(nodes, is_new=True)
    for number in range(needed):
        assert not house.members.may_serve
        house.members.on_bound_by(f"n{number + 2}")
        house.members.on_bound_by(f"n{number + 2}")  # counted once
    assert house.members.may_serve


def test_a_known_directory_serves_once_nobody_who_can_be_reached_has_refused_it() -> None:
    """R1: its directory may be a backup, and any of the others may know."""
    members = House(4).members
    members.on_bound_by("n2")
    members.on_unreachable("n3")
    assert not members.may_serve
    members.on_bound_by("n4")
    assert members.may_serve


def test_a_known_directory_does_not_wait_for_ever_for_who_does_not_answer() -> None:
    members = House(3).members
    members.on_bound_by("n2")
    members.wait_no_longer()
    assert members.may_serve


def test_rings_differ_by_whatever_places_or_counts_keys() -> None:
    house = House()
    for config in (
        replace(house.config, partitions=32),
        replace(house.config, nodes=house.config.nodes[:2], stores={"default": StoreConfig("default", replicas=2)}),
        replace(house.config, stores={"default": StoreConfig("default", replicas=3, q1=3, q2=1)}),
    ):
        assert House(config=config).members.ring_digest != house.members.ring_digest
    assert House(config=replace(house.config, data_dir=house.config.data_dir / "x")).members.ring_digest == (
        house.members.ring_digest
    )
