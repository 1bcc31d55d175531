"""An event loop on virtual time: whole hosts take their turns on it, in an order that a seed decides.

Decides: which ready call runs next, and when time passes.  Leaves to others: what a connection does (`network`), what a
disk does (`disks`), who lives when (`world`).

- Every call, timer and task belongs to a *life*: one run of one process, found in the context in which it was made.  Of
  the lives that have something to do one is picked at random.  Within a life calls run in order, as asyncio promises,
  or (`fifo=False`) at random, which is more than a real loop may do and finds what leans on the order.
- Time passes by `step_s` with every call, and jumps to the next timer when nobody has anything to do.  So a crash may
  fall between any two calls.
- A life that was killed does nothing any more and is never told: its calls are dropped, its coroutines are kept as they
  stand until `dispose`, so that no `finally` runs, which is how a process ends that is killed.

Invariant: the same seed gives the same run, in every process.  Hence no order may come from addresses or from hashes of
strings (a task hashes to its number, since task groups hold tasks in sets), and no object may end by chance (during
`run` garbage is collected after so many calls and never in between).

Threads, signals, sockets and subprocesses raise NotImplementedError, as `asyncio.AbstractEventLoop` does.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar

from simulation.lives import LIFE, Life, SimHandle, SimTask

if TYPE_CHECKING:
    from simulation.network import SimNetwork

T = TypeVar("T")

EPOCH_S = 1000.0
"""Virtual time begins here: nothing may depend on it being small."""
STEP_S = 2e-6
"""What a call takes unless `SimLoop.step_s` says otherwise; in truth it is some 10 us."""
TASKS_KEPT_MIN = 256
"""Of a life's tasks those that are done are forgotten every so many."""
_LOOK_STEPS = 1 << 12
"""How many calls pass between two looks at the limits of a run."""
_COLLECT_STEPS = 1 << 18
"""How many calls pass between two collections of garbage; a multiple of `_LOOK_STEPS`."""
_MASK = (1 << 64) - 1


class SimError(Exception):
    """The run cannot go on; the text says why."""


class SimStuck(SimError):
    """The run does not end: nothing can happen any more, or too much has happened; the text says what is pending."""


class SimDefect(SimError):
    """An exception reached the loop of a life that has no use for it; its cause says which."""


class SimLoop(asyncio.AbstractEventLoop):
    """The loop of all lives."""

    def __init__(self, rng: random.Random, *, fifo: bool = False) -> None:
        self.fifo = fifo
        self.now_s = EPOCH_S
        self.step_s = STEP_S
        self.steps = 0
        self.step_max = 20_000_000
        self.end_s = EPOCH_S + 86_400.0
        """Limits of a run, looked at now and then."""
        self.trace = 0
        self.network: SimNetwork
        self.lives: list[Life] = []
        self.failure: SimError | None = None
        self._rng = rng
        self._runnable: list[Life] = []
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._timer_count = self._task_count = 0
        self._is_over = self._is_disposed = False
        self.current = self.kernel = self.new_life("kernel", rng)

    # -- lives

    def new_life(
        self, name: str, rng: random.Random, on_defect: Callable[[Life, BaseException], None] | None = None
    ) -> Life:
        """Return a new life.  Without `on_defect` an uncaught exception of it ends the run."""
        life = Life(name, len(self.lives), rng, on_defect or self.fail)
        self.lives.append(life)
        return life

    def kill(self, life: Life) -> None:
        """End a life where it stands, maybe in the middle of a call; it will not notice."""
        life.is_dead = True
        life.ready.clear()
        self._withdraw(life)

    def pause(self, life: Life) -> None:
        """Let a life stand still (SIGSTOP); what falls due for it waits."""
        life.is_paused = True
        self._withdraw(life)

    def resume(self, life: Life) -> None:
        """Let a paused life go on."""
        life.is_paused = False
        if life.ready and not life.is_dead and not life.is_runnable:
            life.is_runnable = True
            self._runnable.append(life)

    def _withdraw(self, life: Life) -> None:
        if life.is_runnable:
            life.is_runnable = False
            self._runnable.remove(life)

    def fail(self, life: Life, error: BaseException) -> None:
        """End the run because of a defect."""
        if self.failure is None:
            self.failure = SimDefect(f"an exception reached the loop of {life.name}: {error!r}")
            self.failure.__cause__ = error
        self._is_over = True

    # -- calls

    def post(self, life: Life, when_s: float, callback: Callable[..., object], *args: Any) -> SimHandle:
        """Call `callback` in the name of `life` at `when_s`."""
        handle = SimHandle(callback, args, life.context, life)
        if when_s <= self.now_s:
            self._enqueue(handle)
        else:
            self._timer_count = count = self._timer_count + 1
            heappush(self._timers, (when_s, count, handle))
        return handle

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        if context is None:
            life = self.current
            handle = SimHandle(callback, args, life.context, life)
        else:
            handle = SimHandle(callback, args, context, context[LIFE])
        self._enqueue(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        life = self.current if context is None else context[LIFE]
        handle = SimHandle(callback, args, context or life.context, life)
        self._timer_count = count = self._timer_count + 1
        heappush(self._timers, (when, count, handle))
        return handle

    def _enqueue(self, handle: SimHandle) -> None:
        life = handle.life
        if life.is_dead or self._is_disposed:
            return
        life.ready.append(handle)
        if not life.is_runnable and not life.is_paused:
            life.is_runnable = True
            self._runnable.append(life)

    # -- tasks and futures

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, context: Context | None = None, **options: Any
    ) -> SimTask[T]:
        life = self.current if context is None else context[LIFE]
        return self._new_task(life, coro, context=context, **options)

    def start_task(self, life: Life, coroutine: Coroutine[Any, Any, T], name: str | None = None) -> SimTask[T]:
        """Return a new task of `life`, whoever runs now."""
        return self._new_task(life, coroutine, name=name, context=life.context.copy())

    def _new_task(self, life: Life, coroutine: Coroutine[Any, Any, T], **options: Any) -> SimTask[T]:
        self._task_count = number = self._task_count + 1
        task = SimTask(coroutine, number, loop=self, **options)
        tasks = life.tasks
        tasks.append(task)
        if not len(tasks) % TASKS_KEPT_MIN:
            life.tasks = [task for task in tasks if not task.done()]
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    # -- running

    def run(self, life: Life, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run until `coroutine`, a task of `life`, is done, and return its result.

        Raises SimStuck, and SimDefect for an exception that nobody has caught.
        """
        self._is_over = False
        task = self.start_task(life, coroutine, "main")
        task.add_done_callback(self._finish, context=self.kernel.context)
        with self._running():
            self._turn()
        for each in self.lives:
            self._look_for_lost_exceptions(each)
        if self.failure is not None:
            raise self.failure
        return task.result()

    def before_kill(self, life: Life) -> None:
        """See what a life that is about to be killed would take with it: exceptions that nobody is about to ask for."""
        if not life.ready:
            self._look_for_lost_exceptions(life)

    def _look_for_lost_exceptions(self, life: Life) -> None:
        """Take tasks for failed whose exception nobody has asked for: they are not collected before the end."""
        for task in () if life.is_dead else life.tasks:
            if task.get_name() != "main" and task.done() and task._log_traceback:
                error = task.exception()
                assert error is not None
                self._on_exception(life, error)

    def _finish(self, _: object) -> None:
        self._is_over = True

    @contextmanager
    def _running(self) -> Generator[None, None, None]:
        """Be the running loop of this thread, with the garbage collector at rest but for `_look`."""
        hooks, was_collecting = sys.get_asyncgen_hooks(), gc.isenabled()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        gc.disable()
        try:
            yield
        finally:
            self.current = self.kernel
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            if was_collecting:
                gc.enable()

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._is_disposed:
            self.create_task(generator.aclose())

    def _turn(self) -> None:
        """Run calls until the run is over.  Everything passes here: it is kept flat."""
        timers, runnable, fifo, draw, step_s = self._timers, self._runnable, self.fifo, self._rng.random, self.step_s
        while not self._is_over:
            if not runnable:
                handle = self._pass_time()
                life = handle.life
                if life.is_dead or life.is_paused or (timers and timers[0][0] <= self.now_s):
                    self._enqueue(handle)
                    continue
            elif timers and timers[0][0] <= self.now_s:
                self._enqueue(heappop(timers)[2])
                continue
            else:
                life = runnable[int(draw() * len(runnable))] if len(runnable) > 1 else runnable[0]
                ready = life.ready
                if not fifo and len(ready) > 1:
                    ready.rotate(-int(draw() * len(ready)))
                handle = ready.popleft()
                if not ready:
                    life.is_runnable = False
                    runnable.remove(life)
                if handle.is_cancelled:
                    continue
            self.now_s += step_s
            self.steps += 1
            if not self.steps % _LOOK_STEPS:
                self._look()
            self.trace = hash((self.trace, life.number, self.now_s))
            self.current = life
            try:
                handle.context.run(handle.callback, *handle.args)
            except Exception as error:
                self._on_exception(life, error)

    def _pass_time(self) -> SimHandle:
        """Jump to the next timer and return it."""
        timers = self._timers
        while timers:
            when_s, _, handle = heappop(timers)
            if handle.is_cancelled:
                continue
            if when_s > self.now_s:
                self.now_s = when_s
                if when_s > self.end_s:
                    self._check_limits()
            return handle
        raise SimStuck(f"nothing can happen any more; pending are {self.pending()}")

    def _look(self) -> None:
        """Do what is due now and then: watch the limits, and collect garbage at moments that the seed decides."""
        if not self.steps % _COLLECT_STEPS:
            gc.collect()
        self._check_limits()

    def _check_limits(self) -> None:
        if self.steps > self.step_max or self.now_s > self.end_s:
            passed_s = self.now_s - EPOCH_S
            raise SimStuck(f"no end after {self.steps} calls and {passed_s:.1f} s; pending are {self.pending()}")

    def pending(self) -> str:
        """Return what the lives wait for, for a person."""
        tasks = [(life, task) for life in self.lives if not life.is_dead for task in life.tasks if not task.done()]
        return "; ".join(f"{life.name}: {task.get_name()} {task.get_coro()!r:.90}" for life, task in tasks[:40])

    def note(self, number: int) -> None:
        """Take something that happened into the digest."""
        self.trace = hash((self.trace, number))

    @property
    def digest(self) -> str:
        """A hash over every call so far: whose, when, and which bytes moved."""
        return f"{self.trace & _MASK:016x}"

    def dispose(self) -> None:
        """End every coroutine that still stands.  What its `finally` blocks do reaches nobody: the run is over."""
        self._is_disposed = True
        self._runnable.clear()
        self._timers.clear()
        for life in self.lives:
            life.is_dead = True
            for task in life.tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
            life.tasks.clear()
            life.ready.clear()

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._is_disposed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._on_exception(self.current, context.get("exception") or SimError(str(context.get("message"))))

    def _on_exception(self, life: Life, error: BaseException) -> None:
        if not life.is_dead and not self._is_disposed:
            life.on_defect(life, error)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return await self.network.connect(self.current, protocol_factory, (host, port))

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return self.network.listen(self.current, protocol_factory, (host, port))


def _close(coroutine: Any) -> None:
    """Close a coroutine, although its `finally` blocks may wait for things that will not come."""
    for _ in range(100):
        try:
            coroutine.close()
            return
        except BaseException:
            continue
