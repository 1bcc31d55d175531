"""The walk over all rows: every row is shown, a few at a time, as it is in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from kvclient.wire.values import NO_BALLOT, Ballot
from kvnode.core.record import EMPTY_IMAGE, Image, Record
from kvnode.service.healing import rowscan
from kvnode.service.healing.rowscan import REST_S, ROWS, RowScan
from kvnode.service.registers import Registers
from kvnode.storage.memory import MemoryEngine


@dataclass
class Listener:
    has_room: bool = True
    seen: list[tuple[bytes, Image]] = field(default_factory=list)

    def on_row(self, key: bytes, image: Image) -> None:
        self.seen.append((key, image))


class Bench:
    def __init__(self, rows: int) -> None:
        self.soon: list[Callable[[], None]] = []
        self.engine = MemoryEngine(self.soon.append, pytest.fail)
        self.keys = [(number % 3).to_bytes(2, "big") + b"default\0k%06d" % number for number in range(rows)]
        for key in self.keys:
            self.engine.put(key, row(1), sync=True, then=None)
        self.settle()
        self.registers = Registers(self.engine, 100, 1 << 20, 100, NO_BALLOT)
        self.listener, self.other = Listener(), Listener()
        self.scan = RowScan(self.engine, self.registers, Random(1), 60.0, [self.listener, self.other], 0.0)

    def settle(self) -> None:
        while self.soon:
            self.soon.pop(0)()


def row(number: int) -> Image:
    return EMPTY_IMAGE._replace(promised=Ballot(bytes([number]) * 28))


@pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS, ROWS + 1, 5 * ROWS])
def test_every_row_is_shown_once_a_walk(rows: int) -> None:
    bench = Bench(rows)
    sweeps = 0
    while not bench.scan.walks:
        bench.scan.sweep(10.0 + sweeps)
        sweeps += 1
    assert [key for key, _ in bench.listener.seen] == sorted(bench.keys)
    assert sweeps == rows // ROWS + 1


def test_it_begins_after_a_while_and_again_after_a_pause() -> None:
    bench = Bench(3)
    bench.scan.sweep(0.5)
    assert bench.listener.seen == []
    bench.scan.sweep(5.0)
    bench.scan.sweep(6.0)
    assert len(bench.listener.seen) == 3
    bench.scan.sweep(80.0)
    assert len(bench.listener.seen) == 6


def test_it_waits_for_who_has_no_room() -> None:
    bench = Bench(2 * ROWS)
    bench.scan.sweep(10.0)
    bench.listener.has_room = bench.other.has_room = False
    bench.scan.sweep(11.0)
    assert len(bench.listener.seen) == len(bench.other.seen) == ROWS
    bench.listener.has_room = bench.other.has_room = True
    bench.scan.sweep(12.0)
    assert len(bench.listener.seen) == len(bench.other.seen) == 2 * ROWS


@pytest.mark.parametrize("stops_after", [0, 1, 3, 6])
def test_who_has_no_room_holds_up_nobody_and_misses_nothing(stops_after: int) -> None:
    bench = Bench(5 * ROWS)
    for sweep in range(12):
        if sweep == stops_after:
            bench.listener.has_room = False
        bench.scan.sweep(10.0 + sweep)
    assert [key for key, _ in bench.other.seen] == sorted(bench.keys)
    assert len(bench.listener.seen) == min(stops_after, 5) * ROWS
    bench.listener.has_room = True
    for sweep in range(12):
        bench.scan.sweep(30.0 + sweep)
    assert [key for key, _ in bench.listener.seen] == sorted(bench.keys)


def test_who_lags_behind_takes_turns_with_the_others_and_they_begin_again_together() -> None:
    bench = Bench(5 * ROWS)
    bench.listener.has_room = False
    bench.scan.sweep(10.0)
    bench.scan.sweep(11.0)
    bench.listener.has_room = True
    for sweep in range(4):
        bench.scan.sweep(12.0 + sweep)
    assert (len(bench.listener.seen), len(bench.other.seen)) == (2 * ROWS, 4 * ROWS)
    for sweep in range(8):
        bench.scan.sweep(20.0 + sweep)
    assert len(bench.listener.seen) == len(bench.other.seen) == 5 * ROWS
    bench.scan.sweep(100.0)
    assert len(bench.listener.seen) == len(bench.other.seen) == 6 * ROWS


def test_what_is_in_memory_is_ahead_of_the_disk_and_nothing_is_loaded() -> None:
    bench = Bench(3)
    bench.registers.get(bench.keys[1]).image = row(9)
    bench.scan.sweep(10.0)
    assert dict(bench.listener.seen) == {bench.keys[0]: row(1), bench.keys[1]: row(9), bench.keys[2]: row(1)}
    assert bench.registers.peek(bench.keys[0]) is None


def test_a_sweep_reads_few_large_values_and_rests_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowscan, "SWEEP_BYTES", 1000)
    bench = Bench(10)
    large = EMPTY_IMAGE._replace(committed=Record(b"v" * 200, b"w" * 200))
    for key in bench.keys:
        bench.engine.put(key, large, sync=True, then=None)
    bench.settle()
    bench.scan.sweep(10.0)
    assert len(bench.listener.seen) == 3
    bench.scan.sweep(10.0 + REST_S / 2)
    assert len(bench.listener.seen) == 3
    bench.scan.sweep(10.0 + REST_S)
    assert len(bench.listener.seen) == 6
