"""The kernel of the simulation: virtual time, lives that end without a word, and that a seed decides everything."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from simulation.lives import Life
from simulation.loop import EPOCH_S, SimDefect, SimLoop, SimStuck

Main = Callable[[], Coroutine[Any, Any, Any]]


class Bench:
    """A loop with one life that runs."""

    def __init__(self, seed: int = 0, *, fifo: bool = True) -> None:
        self.loop = SimLoop(Random(seed), fifo=fifo)  # type: ignore[abstract]  # what it lacks raises
        self.life = self.new_life("main")

    def new_life(self, name: str) -> Life:
        return self.loop.new_life(name, Random(name))

    def run(self, main: Main) -> Any:
        return self.loop.run(self.life, main())


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- time


def test_time_passes_only_where_nobody_has_anything_to_do(bench: Bench) -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return bench.loop.time()

    assert bench.run(main) == pytest.approx(EPOCH_S + 3600, abs=0.001)
    assert bench.loop.steps < 10


def test_timers_fire_in_the_order_of_their_times_and_not_when_cancelled(bench: Bench) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        for name, delay_s in (("b", 2.0), ("never", 1.5), ("a", 1.0)):
            timer = bench.loop.call_later(delay_s, seen.append, name)
            if name == "never":
                timer.cancel()
        await asyncio.sleep(3)
        return seen

    assert bench.run(main) == ["a", "b"]


def test_a_timeout_of_asyncio_ends_what_takes_too_long(bench: Bench) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        assert bench.loop.time() == pytest.approx(EPOCH_S + 5, abs=0.001)

    bench.run(main)


# -- order


def order_of(seed: int, *, fifo: bool) -> list[int]:
    bench = Bench(seed, fifo=fifo)

    async def main() -> list[int]:
        seen: list[int] = []
        for number in range(20):
            bench.loop.call_soon(seen.append, number)
        await asyncio.sleep(1)
        return seen

    return list(bench.run(main))


def test_calls_of_one_life_run_in_their_order_as_asyncio_promises() -> None:
    assert order_of(1, fifo=True) == list(range(20))


def test_or_in_an_order_that_the_seed_decides() -> None:
    assert order_of(1, fifo=False) == order_of(1, fifo=False)
    assert order_of(1, fifo=False) != order_of(2, fifo=False)
    assert sorted(order_of(1, fifo=False)) == list(range(20))


def test_lives_take_turns_at_random_even_in_fifo_order(bench: Bench) -> None:
    seen: list[str] = []

    async def main() -> None:
        for name in "ab":
            life = bench.new_life(name)
            for _ in range(10):
                bench.loop.post(life, 0.0, seen.append, name)
        await asyncio.sleep(1)

    bench.run(main)
    assert sorted(seen) == ["a"] * 10 + ["b"] * 10 != seen


# -- lives


def test_what_a_life_makes_belongs_to_it_also_when_another_wakes_it(bench: Bench) -> None:
    other = bench.new_life("other")
    future = bench.loop.create_future()
    lives: list[Life] = []

    async def wait() -> None:
        await future
        lives.append(bench.loop.current)
        bench.loop.call_soon(lambda: lives.append(bench.loop.current))
        await asyncio.create_task(asyncio.sleep(0))
        lives.append(bench.loop.current)

    async def main() -> None:
        task = bench.loop.start_task(other, wait())
        await asyncio.sleep(1)
        future.set_result(None)
        await task

    bench.run(main)
    assert lives == [other] * 3


def test_a_killed_life_runs_no_finally_and_takes_no_further_step(bench: Bench) -> None:
    other = bench.new_life("other")
    seen: list[str] = []

    async def hold() -> None:
        try:
            bench.loop.call_later(2, seen.append, "timer")
            await asyncio.sleep(2)
            seen.append("went on")
        except asyncio.CancelledError:
            seen.append("was cancelled")
        finally:
            seen.append("finally")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hold())
            await hold()

    async def main() -> None:
        bench.loop.start_task(other, group())
        await asyncio.sleep(1)
        bench.loop.kill(other)
        await asyncio.sleep(10)

    bench.run(main)
    assert seen == []
    bench.loop.dispose()


def calls_before_a_crash_at(microseconds: int) -> int:
    bench = Bench()
    other, kernel = bench.new_life("other"), bench.loop.kernel
    seen: list[int] = []

    async def main() -> None:
        for number in range(20):
            bench.loop.post(other, EPOCH_S + 1, seen.append, number)
        bench.loop.post(kernel, EPOCH_S + 1 + microseconds / 1e6, bench.loop.kill, other)
        await asyncio.sleep(2)

    bench.run(main)
    return len(seen)


def test_a_crash_may_fall_between_any_two_calls_of_a_life() -> None:
    assert len({calls_before_a_crash_at(microseconds) for microseconds in range(0, 60, 2)}) > 15


def test_a_paused_life_stands_still_and_catches_up(bench: Bench) -> None:
    other = bench.new_life("other")

    async def main() -> float:
        task = bench.loop.start_task(other, asyncio.sleep(1))
        await asyncio.sleep(0.5)
        bench.loop.pause(other)
        await asyncio.sleep(4.5)
        assert not task.done()
        bench.loop.resume(other)
        await task
        return bench.loop.time()

    assert bench.run(main) == pytest.approx(EPOCH_S + 5, abs=0.001)


def test_dispose_ends_every_coroutine_even_those_that_will_not_go(bench: Bench) -> None:
    seen: list[str] = []

    async def clings() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(100)
            seen.append("past the wait")

    async def main() -> None:
        bench.loop.create_task(clings())
        await asyncio.sleep(1)

    bench.run(main)
    bench.loop.dispose()
    assert seen == []


# -- the end of a run


def test_a_run_in_which_nothing_can_happen_says_what_is_pending(bench: Bench) -> None:
    async def main() -> None:
        await bench.loop.create_future()

    with pytest.raises(SimStuck, match=r"nothing can happen any more; pending are main: .*main"):
        bench.run(main)
    bench.loop.dispose()


def test_a_life_that_spins_is_stopped(bench: Bench) -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    bench.loop.step_max = 10_000
    with pytest.raises(SimStuck, match="no end after"):
        bench.run(main)
    bench.loop.dispose()


def test_a_run_that_sleeps_for_ever_is_stopped(bench: Bench) -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(60)

    with pytest.raises(SimStuck, match="no end after"):
        bench.run(main)
    bench.loop.dispose()


def test_an_exception_that_nobody_catches_ends_the_run(bench: Bench) -> None:
    async def main() -> None:
        bench.loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(SimDefect, match="main: ZeroDivisionError") as caught:
        bench.run(main)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    bench.loop.dispose()


def test_an_exception_of_a_task_that_nobody_asks_for_ends_the_run(bench: Bench) -> None:
    async def fails() -> None:
        raise KeyError("lost")

    async def main() -> None:
        bench.loop.create_task(fails())
        await asyncio.sleep(1)

    with pytest.raises(SimDefect, match="lost"):
        bench.run(main)


def test_there_are_no_threads_sockets_signals_or_processes(bench: Bench) -> None:
    async def main() -> None:
        loop = bench.loop
        for call in (
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.run_in_executor(None, print),
            lambda: loop.add_signal_handler(15, print),
            lambda: loop.add_reader(0, print),
        ):
            with pytest.raises(NotImplementedError):
                call()

    bench.run(main)


# -- one seed, one run

_DIGEST = """
import sys
sys.path[:0] = sys.argv[1:]
from simulation.test_world import digest_under_faults
print(*[digest_under_faults(seed) for seed in (1, 2, 3)])
"""


def test_a_seed_gives_one_digest_in_every_process() -> None:
    """No order may come from addresses or from hashes of strings."""
    digests = set()
    for hash_seed in ("0", "1", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", _DIGEST, *sys.path]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
    assert len(set(digests.pop().split())) == 3
