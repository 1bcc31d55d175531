"""The time that a node goes by (R2-R5): the wall clock, but for leaps that nobody else bears out."""

from __future__ import annotations

import pytest

from kvnode.service.steady import SteadyClock


class Machine:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.now_ms, self.now_s = 1_700_000_000_000, 50.0
        self.stop_s = 0.0
        """For how long the process is stopped right after it has read either clock for the next time."""

    def wall_ms(self) -> int:
        return self._read()[0]

    def machine_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self._read()[1]

    def _read(self) -> tuple[int, float]:
        now = self.now_ms, self.now_s
        stop_s, self.stop_s = self.stop_s, 0.0
        self.elapse(stop_s)
        return now

    def elapse(self, seconds: float, leap_ms: int = 0) -> None:
        self.now_s += seconds
        self.now_ms += round(seconds * 1000) + leap_ms


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def steady(machine: Machine) -> SteadyClock:
    return SteadyClock(machine, 500)


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.6, 30.0, 86_400.0])
def test_a_clock_that_runs_is_followed_however_seldom_it_is_read(
    machine: Machine, steady: SteadyClock, pause_s: float
) -> None:
    for _ in range(5):
        machine.elapse(pause_s)
        assert steady.wall_ms() == machine.now_ms
        assert steady.leap_ms == 0


def test_a_process_that_is_stopped_between_two_readings_follows_its_clock_when_it_goes_on(machine: Machine) -> None:
    machine.stop_s = 60.0
    steady = SteadyClock(machine, 500)
    machine.elapse(1.0)
    steady.wall_ms()
    assert steady.wall_ms() == machine.now_ms
    for reading in range(4):
        machine.elapse(1.0)
        for _ in range(reading):
            steady.wall_ms()
        machine.stop_s = 60.0
        steady.wall_ms()
        steady.wall_ms()
        assert steady.wall_ms() == machine.now_ms
        assert steady.leap_ms == 0


@pytest.mark.parametrize("read_before", [True, False])
def test_after_a_leap_ahead_the_node_goes_on_from_the_time_before(
    machine: Machine, steady: SteadyClock, read_before: bool
) -> None:
    machine.elapse(0.3)
    if read_before:
        steady.wall_ms()
    right = machine.now_ms
    machine.elapse(0.0, leap_ms=300_000)
    assert steady.wall_ms() == right
    assert steady.leap_ms == 300_000
    assert steady.machine_ms() == right + 300_000
    machine.elapse(2.0)
    assert steady.wall_ms() == right + 2000


def test_a_leap_within_the_offset_that_is_allowed_is_followed(machine: Machine, steady: SteadyClock) -> None:
    machine.elapse(0.1, leap_ms=400)
    assert steady.wall_ms() == machine.now_ms


def test_a_clock_set_right_again_is_followed(machine: Machine, steady: SteadyClock) -> None:
    machine.elapse(1.0, leap_ms=300_000)
    steady.wall_ms()
    machine.elapse(1.0, leap_ms=-300_000)
    assert steady.wall_ms() == machine.now_ms
    assert steady.leap_ms == 0


def test_a_clock_that_goes_back_is_followed_and_watched_from_there(machine: Machine, steady: SteadyClock) -> None:
    machine.elapse(1.0, leap_ms=-300_000)
    assert steady.wall_ms() == machine.now_ms
    right = machine.now_ms
    machine.elapse(0.0, leap_ms=200_000)  # still below what it once showed
    assert steady.wall_ms() == right


@pytest.mark.parametrize(
    ("offsets_ms", "nodes", "is_followed"),
    [
        ([], 1, True),  # nobody else has a say
        ([300_000, 300_100], 3, True),
        ([299_600, 0], 3, True),  # two of three, this one among them
        ([0, 0], 3, False),
        ([240_000, 0], 3, False),  # another that is wrong in its own way
        ([], 3, False),
        ([300_000], 2, True),
        ([300_000, 0, 0, 0], 5, False),
        ([300_000, 300_000, 0, 0], 5, True),
    ],
)
def test_a_leap_is_followed_once_most_machines_show_the_same(
    machine: Machine, steady: SteadyClock, offsets_ms: list[int], nodes: int, is_followed: bool
) -> None:
    machine.elapse(1.0, leap_ms=300_000)
    right = steady.wall_ms()
    steady.hear([(offset_ms, 0) for offset_ms in offsets_ms], nodes)
    assert steady.wall_ms() == (machine.now_ms if is_followed else right)
    assert bool(steady.leap_ms) != is_followed


@pytest.mark.parametrize(
    ("offset_ms", "error_ms", "is_followed"),
    [
        (300_000, 500, True),
        (300_000, 501, False),
        (299_700, 200, True),
        (299_700, 201, False),
        (300_200, 30_000, False),
        (0, 200, False),
    ],
)
def test_a_leap_is_followed_over_a_long_way_if_the_others_bear_it_out_at_their_worst(
    machine: Machine, steady: SteadyClock, offset_ms: int, error_ms: int, is_followed: bool
) -> None:
    machine.elapse(1.0, leap_ms=300_000)
    steady.wall_ms()
    steady.hear([(offset_ms, error_ms)], 3)
    assert bool(steady.leap_ms) != is_followed


def test_offsets_change_nothing_while_the_clock_runs_as_it_should(machine: Machine, steady: SteadyClock) -> None:
    steady.hear([(300_000, 0), (300_000, 0)], 3)
    assert steady.wall_ms() == machine.now_ms
