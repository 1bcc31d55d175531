"""The age of a data directory: when it grows, and that nobody is told of one that is not durable (R1, R44)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from unit.fakes import ManualClock

from kvnode.core.record import EMPTY_IMAGE
from kvnode.service.age import PERIOD_S, Age
from kvnode.storage.memory import MemoryDisk, MemoryEngine


class House:
    """One directory's age over a disk that writes when told to."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], object]] = deque()
        self.disk = MemoryDisk()
        self.clock = ManualClock()
        self.start()

    def start(self) -> None:
        self.soon.clear()
        self.engine = MemoryEngine(self.soon.append, print, self.disk)
        self.age = Age(self.engine, self.clock)
        self.told: list[int] = []
        self.age.on_raised = self.told.append

    def turn(self) -> None:
        while self.soon:
            self.soon.popleft()()

    def put(self, key: bytes = b"\0\0s\0k") -> None:
        if not self.age.is_noted:
            self.age.note()
        self.engine.put(key, EMPTY_IMAGE, sync=True, then=None)

    def pass_s(self, elapsed_s: float) -> None:
        self.clock.now_s += elapsed_s
        self.age.sweep(self.clock.now_s)
        self.turn()


def test_the_first_row_after_a_quiet_time_carries_the_next_age_in_its_own_group() -> None:
    house = House()
    house.put()
    house.turn()
    assert house.engine.syncs == 1
    assert house.told == [1]
    house.pass_s(10 * PERIOD_S)
    house.put()
    house.turn()
    assert house.engine.syncs == 2
    assert house.told == [1, 2]


def test_an_age_that_is_not_durable_is_told_to_nobody_and_counts_for_nothing() -> None:
    house = House()
    house.put()
    assert (house.told, house.age.durable) == ([], 0)
    house.engine.crash()
    house.start()
    assert house.age.found == 0


def test_what_was_told_is_found_after_any_crash() -> None:
    house = House()
    for _ in range(5):
        house.put()
        house.turn()
        house.pass_s(PERIOD_S)
        house.engine.crash()
        told = house.told
        house.start()
        assert house.age.found == house.age.durable
        assert house.age.found >= max(told)


def test_while_rows_keep_coming_the_age_grows_once_a_period() -> None:
    house = House()
    for _ in range(100):
        house.put()
        house.pass_s(PERIOD_S / 10)
    assert 10 <= len(house.told) <= 11


def test_every_row_is_followed_by_a_new_age_within_a_period() -> None:
    house = House()
    house.put()
    house.turn()
    house.put(b"\0\0s\0other")  # in the same period
    house.turn()
    assert house.told == [1]
    house.pass_s(PERIOD_S)
    assert house.told == [1, 2]


def test_a_node_that_is_not_written_to_writes_nothing() -> None:
    house = House()
    house.put()
    house.turn()
    for _ in range(100):
        house.pass_s(PERIOD_S)
    assert house.told == [1]
    assert house.engine.syncs == 1


def test_a_clock_that_goes_back_does_not_hold_the_age_still() -> None:
    """Why it is not the ceiling (R3): that stands still until a clock that was ahead is where it was."""
    house = House()
    house.clock.offset_ms = 3_600_000
    house.put()
    house.pass_s(PERIOD_S)
    house.clock.offset_ms = 0
    house.put()
    house.turn()
    assert house.told == [1, 2]
