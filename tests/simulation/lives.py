"""What an event loop on virtual time is made of: lives, their calls and their tasks.

Decides: to whom a call belongs (`LIFE`, in the context in which it was made) and what makes a task the same in every
process.  Leaves to others: when anything runs (`loop`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

LIFE: ContextVar[Life] = ContextVar("life")


class Life:
    """One run of one process.  `on_defect` hears of exceptions that nobody has caught."""

    __slots__ = (
        "context",
        "is_dead",
        "is_paused",
        "is_runnable",
        "name",
        "number",
        "on_defect",
        "ready",
        "rng",
        "tasks",
    )

    def __init__(self, name: str, number: int, rng: random.Random, on_defect: Callable[[Life, BaseException], None]):
        self.name, self.number, self.rng, self.on_defect = name, number, rng, on_defect
        self.ready: deque[SimHandle] = deque()
        self.tasks: list[SimTask[Any]] = []
        self.is_dead = self.is_paused = self.is_runnable = False
        self.context = copy_context()
        self.context.run(LIFE.set, self)


class SimHandle(asyncio.TimerHandle):
    """A call that is due, now or later."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "life")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context, life: Life) -> None:
        self.callback, self.args, self.context, self.life = callback, args, context, life
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def __repr__(self) -> str:
        return f"<call of {self.callback!r:.120} by {self.life.name}>"


class SimTask(asyncio.Task[T]):
    """A task whose hash does not depend on where it lies in memory: sets of tasks have one order in every process."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], number: int, **options: Any) -> None:
        self.number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number
