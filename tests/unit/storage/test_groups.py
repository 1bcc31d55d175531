"""Groups are written one at a time and in order, and nothing happens after a failure (R45)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvnode.storage import groups
from kvnode.storage.groups import Group, Groups


class Bench:
    """Groups on a loop and a disk that move only when told to."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.written: list[Group] = []
        self.failures: list[BaseException] = []
        self.ran: list[object] = []
        self.groups = Groups(self.soon.append, self.written.append, self.failures.append)

    def add(self, key: bytes, sync: bool = True) -> None:
        self.groups.add(key, b"row", sync, lambda: self.ran.append(key))

    def turn(self) -> None:
        soon = self.soon[:]
        self.soon.clear()
        for function in soon:
            function()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_group_forms_while_another_is_written(bench: Bench) -> None:
    bench.add(b"a")
    bench.add(b"b")
    bench.turn()
    bench.add(b"c")
    bench.add(b"d")
    bench.turn()
    assert [list(group.rows) for group in bench.written] == [[b"a", b"b"]]
    bench.groups.completed()
    bench.add(b"e")  # what comes before the next turn still joins
    assert bench.ran == [b"a", b"b"]
    bench.turn()
    assert [list(group.rows) for group in bench.written] == [[b"a", b"b"], [b"c", b"d", b"e"]]


def test_a_group_is_synced_if_any_row_asks_for_it(bench: Bench) -> None:
    bench.add(b"a", sync=False)
    bench.turn()
    bench.add(b"b", sync=False)
    bench.add(b"c", sync=True)
    bench.groups.completed()
    bench.turn()
    assert [group.sync for group in bench.written] == [False, True]


def test_a_group_at_its_bound_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP_BYTES_MAX", 10)
    for key in (b"a", b"b", b"c", b"d"):
        bench.add(key)
    bench.turn()
    for _ in range(2):
        bench.groups.completed()
        bench.turn()
    assert [list(group.rows) for group in bench.written] == [[b"a", b"b", b"c"], [b"d"]]
    assert bench.groups.is_idle


def test_a_failure_is_told_once_and_nothing_runs_after_it(bench: Bench) -> None:
    """R45: crash, never retry."""
    bench.add(b"a")
    bench.turn()
    bench.add(b"b")
    bench.groups.failed(OSError("disk"))
    bench.groups.failed(OSError("again"))
    bench.groups.completed()
    bench.add(b"c")
    bench.turn()
    assert [str(failure) for failure in bench.failures] == ["disk"]
    assert bench.ran == []
    assert len(bench.written) == 1
    assert bench.groups.is_idle


def test_a_callback_that_raises_does_not_stop_the_writing(bench: Bench) -> None:
    bench.groups.add(b"a", b"row", True, lambda: 1 // 0)
    bench.turn()
    bench.add(b"b")
    with pytest.raises(ZeroDivisionError):
        bench.groups.completed()
    bench.turn()
    bench.groups.completed()
    assert bench.ran == [b"b"]
