"""The contract of `kvnode.storage.engine`, kept by both engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvnode.core.record import Image
from kvnode.storage import groups
from kvnode.storage.engine import Engine


@pytest.fixture
def put_all(engine: Engine, key: Callable[..., bytes], image: Callable[..., Image]) -> Callable[..., Any]:
    async def put(numbers: range, partition: int = 0) -> None:
        done = asyncio.get_running_loop().create_future()
        for number in numbers:
            engine.put(key(number, partition), image(number), sync=False, then=None)
        engine.put_meta("mark", b"", sync=True, then=lambda: done.set_result(None))
        await done

    return put


async def test_a_key_that_was_never_put_is_none(engine: Engine, key: Any) -> None:
    assert engine.load(key(1)) is None
    assert engine.load_meta("x") is None


async def test_a_row_is_read_as_it_was_put_once_its_callback_has_run(
    engine: Engine, store: Any, key: Any, image: Any
) -> None:
    await store(key(1), image(7))
    assert engine.load(key(1)) == image(7)
    await store(key(1), image(8), sync=False)
    assert engine.load(key(1)) == image(8)


async def test_no_callback_runs_before_the_loop_has_turned(engine: Engine, key: Any, image: Any) -> None:
    """R6, R45: what is not durable is not acknowledged."""
    ran: list[int] = []
    done = asyncio.Event()
    engine.put(key(1), image(1), sync=True, then=lambda: ran.append(engine.syncs))
    engine.put(key(2), image(2), sync=True, then=done.set)
    assert ran == []
    await done.wait()
    assert ran == [1]


async def test_callbacks_run_once_in_the_order_of_the_puts(engine: Engine, key: Any, image: Any) -> None:
    ran: list[int] = []
    done = asyncio.Event()

    def then(number: int) -> Callable[[], None]:
        def run() -> None:
            ran.append(number)
            if number < 300:  # each callback puts another row, into a later group
                engine.put(key(number % 7), image(number), sync=number % 3 == 0, then=then(number + 50))
            elif number == 349:
                done.set()

        return run

    for number in range(50):
        engine.put(key(number % 7), image(number), sync=number % 2 == 0, then=then(number))
    await done.wait()
    assert ran == sorted(ran)
    assert len(ran) == len(set(ran)) == 350


async def test_rows_of_one_turn_share_one_sync(engine: Engine, key: Any, image: Any) -> None:
    """R45: group commit."""
    done = asyncio.Event()
    for number in range(100):
        engine.put(key(number), image(number), sync=True, then=None)
    engine.put_meta("last", b"1", sync=True, then=done.set)
    await done.wait()
    assert engine.syncs == 1


async def test_a_group_that_asks_for_no_sync_gets_none(engine: Engine, store: Any, key: Any, image: Any) -> None:
    await store(key(1), image(1), sync=False)
    assert engine.syncs == 0
    assert engine.load(key(1)) == image(1)


async def test_the_last_row_of_a_key_in_a_group_stands_and_every_callback_runs(
    engine: Engine, key: Any, image: Any
) -> None:
    ran: list[int] = []
    done = asyncio.Event()
    for number in range(5):
        engine.put(key(1), image(number), sync=True, then=lambda number=number: ran.append(number))  # type: ignore[misc]
    engine.put(key(2), image(0), sync=True, then=done.set)
    await done.wait()
    assert ran == [0, 1, 2, 3, 4]
    assert engine.load(key(1)) == image(4)


async def test_meta_values_are_kept_apart_from_rows(engine: Engine, store: Any, key: Any, image: Any) -> None:
    done = asyncio.Event()
    engine.put_meta("ceiling", b"\x00\x01", sync=True, then=done.set)
    await done.wait()
    await store(key(1), image(1))
    assert engine.load_meta("ceiling") == b"\x00\x01"
    assert engine.load_meta("ceilin") is None
    assert [k for k, _ in engine.scan(b"", b"\xff\xff\xff")] == [key(1)]


async def test_a_scan_yields_the_rows_of_its_range_in_order(engine: Engine, put_all: Any, key: Any, image: Any) -> None:
    await put_all(range(20), 1)
    await put_all(range(20), 2)
    assert list(engine.scan(key(5, 1), key(3, 2))) == [
        *((key(i, 1), image(i)) for i in range(5, 20)),
        *((key(i, 2), image(i)) for i in range(3)),
    ]
    assert list(engine.scan(key(5, 1), key(5, 1))) == []
    assert list(engine.scan(b"\x00\x09", b"\x00\x0a")) == []


async def test_a_scan_does_not_see_what_is_put_after_its_first_row(
    engine: Engine, put_all: Any, store: Any, key: Any, image: Any
) -> None:
    await put_all(range(10))
    scan = engine.scan(b"", b"\xff\xff")
    assert next(scan) == (key(0), image(0))
    await store(key(5), image(999))
    await store(key(11), image(11))
    assert list(scan) == [(key(i), image(i)) for i in range(1, 10)]


async def test_a_scan_can_be_closed_before_its_end(engine: Engine, put_all: Any) -> None:
    await put_all(range(10))
    scan = engine.scan(b"", b"\xff\xff")
    next(scan)
    scan.close()
    assert list(scan) == []


async def test_an_engine_can_be_closed_under_a_scan(engine: Engine, put_all: Any) -> None:
    await put_all(range(10))
    scan = engine.scan(b"", b"\xff\xff")
    next(scan)
    await engine.close()


async def test_close_finishes_what_was_put(engine: Engine, key: Any, image: Any) -> None:
    ran: list[int] = []
    for number in range(20):
        engine.put(key(number), image(number), sync=False, then=lambda number=number: ran.append(number))  # type: ignore[misc]
    await engine.close()
    assert ran == list(range(20))
    await engine.close()


async def test_the_backlog_grows_with_puts_and_ends_at_zero(engine: Any, key: Any, image: Any) -> None:
    done = asyncio.Event()
    for number in range(10):
        engine.put(key(number), image(number), sync=True, then=done.set if number == 9 else None)
    assert engine.backlog_bytes > 10 * 61
    await done.wait()
    assert engine.backlog_bytes == 0


async def test_a_flood_is_written_in_bounded_groups(engine: Engine, key: Any, image: Any) -> None:
    """A group at its bound is closed; later rows wait behind it, and nothing is refused or lost."""
    done = asyncio.Event()
    count = 2 * groups.GROUP_ROWS_MAX + 1
    for number in range(count):
        engine.put(key(number), image(number), sync=True, then=done.set if number == count - 1 else None)
    await done.wait()
    assert engine.syncs == 3
    assert sum(1 for _ in engine.scan(b"", b"\xff\xff")) == count


async def test_the_number_of_keys_is_estimated(engine: Engine, put_all: Any) -> None:
    await put_all(range(1000))
    assert 900 <= engine.approximate_keys() <= 1100
    assert engine.stored_bytes() >= 0
    assert engine.writable


async def test_meta_values_are_no_keys(engine: Engine, put_all: Any) -> None:
    for _ in range(3):
        await put_all(range(0))  # a meta value only
    assert engine.approximate_keys() == 0


async def test_few_keys_are_counted_once_however_often_they_were_written(engine: Engine, put_all: Any) -> None:
    for _ in range(5):
        await put_all(range(20))
    assert engine.approximate_keys() == 20


async def test_a_removed_row_is_gone_from_loads_and_scans_and_may_come_again(
    engine: Engine, store: Any, key: Any, image: Any
) -> None:
    """R35: step 3."""
    for number in range(3):
        await store(key(number), image(number))
    done = asyncio.get_running_loop().create_future()
    engine.remove(key(1), sync=True, then=lambda: done.set_result(None))
    await done
    assert engine.load(key(1)) is None
    assert [found for found, _ in engine.scan(b"", b"\xff")] == [key(0), key(2)]
    await store(key(1), image(9))
    assert engine.load(key(1)) == image(9)


async def test_removing_what_is_not_there_is_no_error(engine: Engine) -> None:
    done = asyncio.get_running_loop().create_future()
    engine.remove(b"\x00\x00default\0k", sync=False, then=None)
    engine.remove_meta("nothing", sync=True, then=lambda: done.set_result(None))
    await done
    assert engine.syncs == 1


async def test_the_later_of_put_and_remove_in_one_group_stands(engine: Engine, key: Any, image: Any) -> None:
    done = asyncio.get_running_loop().create_future()
    engine.put(key(1), image(1), sync=True, then=None)
    engine.remove(key(1), sync=True, then=None)
    engine.remove(key(2), sync=True, then=None)
    engine.put(key(2), image(2), sync=True, then=None)
    engine.put_meta("a", b"1", sync=True, then=None)
    engine.remove_meta("a", sync=True, then=lambda: done.set_result(None))
    await done
    assert (engine.load(key(1)), engine.load(key(2)), engine.load_meta("a")) == (None, image(2), None)


async def test_meta_values_are_scanned_by_prefix_in_order_and_without_rows(
    engine: Engine, store: Any, key: Any, image: Any
) -> None:
    await store(key(1), image(1))
    names = ["floor/00001", "floor/00002", "floor", "floos", "hint/n2/7/default\0ä", "\uffff"]
    done = asyncio.get_running_loop().create_future()
    for name in names:
        engine.put_meta(name, name.encode(), sync=False, then=None)
    engine.remove_meta("floor/00003", sync=True, then=lambda: done.set_result(None))
    await done
    assert list(engine.scan_meta("floor/")) == [("floor/00001", b"floor/00001"), ("floor/00002", b"floor/00002")]
    assert [name for name, _ in engine.scan_meta("")] == sorted(names, key=str.encode)
    assert list(engine.scan_meta("hint/n1")) == []


async def test_a_scan_of_meta_values_shows_them_as_they_were_when_it_began(engine: Engine) -> None:
    done, gone = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
    for name in ("x/1", "x/2"):
        engine.put_meta(name, b"", sync=False, then=None)
    engine.put_meta("x/3", b"", sync=True, then=lambda: done.set_result(None))
    await done
    scan = engine.scan_meta("x/")
    assert next(scan)[0] == "x/1"
    engine.remove_meta("x/2", sync=True, then=lambda: gone.set_result(None))
    await gone
    assert [name for name, _ in scan] == ["x/2", "x/3"]
