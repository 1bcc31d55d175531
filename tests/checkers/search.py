"""Is there an order of steps that explains every answer?  Wing and Gong's search with Lowe's memory of what was tried.

Decides: whether a register, which holds `initial` at first, can have gone through the steps one after the other, each
at one moment of its own time: every step that must have happened exactly once, every other at most once.  Leaves to
others: what an operation's step is (`checkers.steps`), and which part of a contradiction to show (`checkers.shrink`).

The search walks through configurations: which steps are done and what the register holds.  What keeps it near to linear
where writers write each value once:

- A step that only looks, and may look now, looks now: it changes nothing, so waiting cannot help.
- A value that one step only leaves cannot come back: nothing else may happen while somebody still has to see it.  And
  that step must have happened before the first who saw it was answered, known outcome or not.
- A write whose value nobody needs is done just before any other write that may happen then: nobody can tell.
- Of steps that do the same, the one with the least time is taken.

Each is an exchange of neighbours in an order that explains everything, which gives another one.  What remains can still
be exponential (the problem is NP-complete: Gibbons and Korach, "Testing shared memories", 1997), so the search is
bounded and says so when it gives up.

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017);
Gibbons and Korach (1997), for what unique values are worth; Horn and Kroening, "Faster linearizability checking via
P-compositionality" (2015).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import takewhile
from typing import Final, NamedTuple

from checkers.keyed import NEVER_NS
from checkers.operation import Value
from checkers.steps import Kind, Step

STEPS_MAX: Final = 200_000
"""Configurations looked at for one key: a few seconds.  Good histories need about one for each operation."""

LOOKS: Final = (Kind.OBSERVE, Kind.SWAP)
"""What can happen only while the register holds the value that it needs."""


class Verdict(Enum):
    """What a search found."""

    EXPLAINED = "explained"
    CONTRADICTED = "contradicted"
    TOO_HARD = "too many unknown outcomes"


class _Nobody(Enum):
    VALUE = "a value that nobody needs"


_State = Value | _Nobody


class _Configuration(NamedTuple):
    """What has happened: all musts below `base`, those of the bits of `mask` from there on, the mays of `used`."""

    base: int
    mask: int
    used: int
    state: _State
    fence: int


def explain(steps: Sequence[Step], initial: Value = None, steps_max: int = STEPS_MAX) -> tuple[Verdict, int]:
    """Return whether some order explains the steps, and how many configurations were looked at."""
    left = {initial, *(step.leaves for step in steps if step.kind > Kind.REFUTE)}
    is_certain = all(step.kind != Kind.ADD for step in steps)
    if is_certain and any(step.is_must and step.kind in LOOKS and step.needs not in left for step in steps):
        return Verdict.CONTRADICTED, 0
    return _Search(steps, initial).run(steps_max)


class _Search:
    """The tables of one history, and the walk."""

    def __init__(self, steps: Sequence[Step], initial: Value) -> None:
        self._initial = initial
        self._has_adds = any(step.kind == Kind.ADD for step in steps)
        self._once = set() if self._has_adds else left_once(steps, initial)
        musts, mays = sort_out(steps, self._once)
        self._musts = musts
        self._mays = mays
        self._has_floats = any(step.floats_until < NEVER_NS for step in (*musts, *mays))
        self._seers: dict[_State, list[int]] = defaultdict(list)
        for number, step in enumerate(musts):
            if step.kind in LOOKS:
                self._seers[step.needs].append(number)
        self._is_all_needed = self._has_adds or any(step.kind == Kind.REFUTE for step in musts)
        needed = {step.needs for step in (*musts, *mays) if step.kind != Kind.WRITE}
        self._needed_by_mays = {step.needs for step in mays if step.kind == Kind.SWAP}
        self._is_blind = [
            step.kind == Kind.WRITE and step.leaves not in needed and not self._is_all_needed for step in musts
        ]
        self._may_swaps: dict[_State, list[list[int]]] = defaultdict(list)
        self._may_always: list[list[int]] = []
        for group in _alike(mays):
            step = mays[group[0]]
            (self._may_swaps[step.needs] if step.kind == Kind.SWAP else self._may_always).append(group)

    def run(self, steps_max: int) -> tuple[Verdict, int]:
        """Walk until an order is found, none is left, or `steps_max` configurations have been looked at."""
        stack = [_Configuration(0, 0, 0, self._initial, 0)]
        visited: set[_Configuration] = set()
        looked = 0
        while stack:
            if looked == steps_max:
                return Verdict.TOO_HARD, looked
            looked += 1
            here, ready, horizon = self._look(stack.pop())
            if here.base == len(self._musts):
                return Verdict.EXPLAINED, looked
            moves = self._moves(here, ready, horizon)
            if len(moves) > 1:  # a walk without a choice is soon walked again, and needs no memory
                if here in visited:
                    continue
                visited.add(here)
            stack.extend(reversed(moves))
        return Verdict.CONTRADICTED, looked

    def _look(self, here: _Configuration) -> tuple[_Configuration, list[int], int]:
        """Let all look that may; return the configuration then, which changes may come next, and the horizon."""
        base, mask, state = here.base, here.mask, here.state
        musts = self._musts
        while True:
            ready, horizon = self._ready(base, mask)
            before = mask
            for number in ready:
                step = musts[number]
                if step.kind <= Kind.REFUTE and (step.needs == state) == (step.kind == Kind.OBSERVE):
                    mask |= 1 << (number - base)
            if mask == before:
                changes = [number for number in ready if musts[number].kind > Kind.REFUTE]
                return here._replace(base=base, mask=mask), changes, horizon
            base, mask = _advanced(base, mask)

    def _ready(self, base: int, mask: int) -> tuple[list[int], int]:
        """Return the undone musts that may be next: each began before the end of every other one that is undone."""
        musts, horizon = self._musts, NEVER_NS
        undone: list[int] = []
        for number in range(base, len(musts)):
            step = musts[number]
            if step.call > horizon:
                break
            if not mask & 1:
                undone.append(number)
                if step.by < horizon:
                    horizon = step.by
            mask >>= 1
        if len(undone) > 1 or (undone and musts[undone[0]].call > horizon):
            undone = [number for number in undone if musts[number].call <= horizon]
        return undone, horizon

    def _moves(self, here: _Configuration, ready: list[int], horizon: int) -> list[_Configuration]:
        """Return the configurations that one change leads to, those first that cannot wait."""
        state, musts = here.state, self._musts
        pending = self._undone_seers(here, state, 2) if state in self._once else []
        blind = [number for number in ready if self._is_blind[number]]
        moves = [
            self._after(here, musts[number], blind, number=number)
            for number in self._choices(ready)
            if self._is_possible(musts[number], here, pending, number)
        ]
        if pending or not self._mays:
            return moves
        optional = self._optional(here, horizon)
        return moves + [self._after(here, self._mays[number], blind, used=1 << number) for number in optional]

    def _undone_seers(self, here: _Configuration, state: _State, at_most: int) -> list[int]:
        found: list[int] = []
        for number in reversed(self._seers.get(state, ())):
            if number >= here.base and not here.mask >> (number - here.base) & 1:
                found.append(number)
                if len(found) == at_most:
                    break
        return found

    def _choices(self, ready: list[int]) -> list[int]:
        """Return the changes worth trying: of those with one effect, the one that has the least time."""
        if len(ready) == 1:
            return ready
        ready = sorted(ready, key=lambda number: self._musts[number].by)
        if self._has_floats:  # their fences differ
            return ready
        chosen: dict[tuple[Kind, Value, Value] | None, int] = {}
        for number in ready:
            step = self._musts[number]
            chosen.setdefault(None if self._is_blind[number] else (step.kind, step.needs, step.leaves), number)
        return list(chosen.values())

    def _is_possible(self, step: Step, here: _Configuration, pending: list[int], number: int) -> bool:
        if pending and pending != [number]:
            return False
        if step.floats_until < here.fence:
            return False
        return step.kind != Kind.SWAP or step.needs == here.state

    def _optional(self, here: _Configuration, horizon: int) -> list[int]:
        """Return the mays worth trying: somebody needs what they leave, and nothing with the same effect goes first."""
        chosen: list[int] = []
        for group in (*self._may_swaps.get(here.state, ()), *self._may_always):
            step = self._mays[group[0]]
            if step.leaves == here.state and step.kind != Kind.ADD:
                continue
            first = self._first(group, here, horizon)
            if first is not None and self._is_wanted(here, step):
                chosen.append(first)
        return chosen

    def _first(self, group: list[int], here: _Configuration, horizon: int) -> int | None:
        """Return the may of a group that has the least time left, if any is left and may have begun."""
        mays, used = self._mays, here.used
        if not self._has_floats:  # then they are taken in the order of their calls, so those taken are the first
            at = bisect_left(group, 1, key=lambda number: ~used >> number & 1)
            return group[at] if at < len(group) and mays[group[at]].call <= horizon else None
        left = takewhile(lambda number: mays[number].call <= horizon, group)
        floating = (n for n in left if not used >> n & 1 and mays[n].floats_until >= here.fence)
        return min(floating, key=lambda number: mays[number].floats_until, default=None)

    def _is_wanted(self, here: _Configuration, step: Step) -> bool:
        if self._is_all_needed or step.leaves in self._needed_by_mays:
            return True
        return bool(self._undone_seers(here, step.leaves, 1))

    def _after(
        self, here: _Configuration, step: Step, blind: list[int], *, number: int | None = None, used: int = 0
    ) -> _Configuration:
        """Return the configuration after one change, and after the writes that it hides."""
        base, mask = here.base, here.mask
        is_idle = self._has_floats and step.leaves is None and here.state is None  # a delete of nothing fences nothing
        fence = here.fence if is_idle else max(here.fence, step.fence)
        state: _State = step.leaves
        if step.kind == Kind.ADD:
            assert isinstance(here.state, int)
            assert isinstance(step.leaves, int)
            state = here.state + step.leaves
        if number is not None:
            mask |= 1 << (number - base)
            if self._is_blind[number] and not (self._has_floats and step.leaves is None):  # a later delete asks
                state = _Nobody.VALUE
        if step.kind == Kind.WRITE and not is_idle:
            for hidden in blind:
                if not self._has_floats or self._musts[hidden].fence <= fence:
                    mask |= 1 << (hidden - base)
        base, mask = _advanced(base, mask)
        return _Configuration(base, mask, here.used | used, state, fence)


def _alike(mays: Sequence[Step]) -> list[list[int]]:
    """Return the numbers of mays in groups that have the same effect, each in the order of their calls."""
    groups: dict[tuple[Kind, Value, Value, bool], list[int]] = defaultdict(list)
    for number, step in enumerate(mays):
        groups[step.kind, step.needs, step.leaves, step.fence > 0].append(number)
    return list(groups.values())


def _advanced(base: int, mask: int) -> tuple[int, int]:
    while mask & 1:
        mask >>= 1
        base += 1
    return base, mask


def left_once(steps: Iterable[Step], initial: Value) -> set[_State]:
    """Return the values that cannot come back: one step only leaves them, or none and the register begins with it."""
    times: dict[Value, int] = defaultdict(int, {initial: 1})
    for step in steps:
        if step.kind > Kind.REFUTE:
            times[step.leaves] += 1
    return {value for value, count in times.items() if count == 1}


def sort_out(steps: Iterable[Step], once: set[_State]) -> tuple[list[Step], list[Step]]:
    """Return the steps that must have happened, and those that may have and that somebody needs, each by invocation.

    What one step only can have left and somebody saw must have happened, before the answer to who saw it.
    """
    known = list(steps)
    writers = {step.leaves: at for at, step in enumerate(known) if step.kind > Kind.REFUTE and step.leaves in once}
    waiting = [at for at, step in enumerate(known) if step.is_must]
    while waiting:
        seer = known[waiting.pop()]
        at = writers.get(seer.needs) if seer.kind in LOOKS else None
        if at is not None and (not known[at].is_must or seer.by < known[at].by):
            known[at] = known[at]._replace(is_must=True, by=min(seer.by, known[at].by))
            waiting.append(at)
    musts = sorted((step for step in known if step.is_must), key=lambda step: step.call)
    return musts, _needed([step for step in known if not step.is_must], musts)


def _needed(mays: list[Step], musts: list[Step]) -> list[Step]:
    if any(step.kind in (Kind.ADD, Kind.REFUTE) for step in (*mays, *musts)):
        return sorted(mays, key=lambda step: step.call)
    while True:
        needed = {step.needs for step in (*musts, *mays) if step.kind != Kind.WRITE}
        kept = [step for step in mays if step.leaves in needed]
        if len(kept) == len(mays):
            return sorted(mays, key=lambda step: step.call)
        mays = kept
