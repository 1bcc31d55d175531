"""Exact schedules over a `World`: messages caught on their way and poured back later, proposals that die with their
coordinator; and scenarios that run twice, with their rule and without it.

A scenario states what must hold with `claim`.  Run without its rule, it must end in a broken claim or in an invariant
violation: any other exception says that the scenario itself is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
from world import Call, World

from kvclient.wire import messages as m
from kvnode.config import StoreConfig
from kvnode.core.register import InvariantViolation


class Broken(AssertionError):
    """A claim of a scenario does not hold."""


def claim(holds: object, what: str) -> None:
    """Raise Broken unless `holds`."""
    if not holds:
        raise Broken(what)


@dataclass(frozen=True)
class Case:
    """One counterexample: the rules that exclude it, the scenario, and the mutant that switches the rule off."""

    rules: str
    scenario: Callable[[], None]
    mutant: Callable[[pytest.MonkeyPatch], None]

    @property
    def name(self) -> str:
        """A name for the test: the scenario's and the mutant's."""
        return f"{self.scenario.__name__}-{self.mutant.__name__}"


def both_ways(cases: list[Case]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the two tests of a module's cases: each scenario holds, and breaks once its rule is switched off."""
    of_each_case = pytest.mark.parametrize("case", cases, ids=lambda case: case.name)

    @of_each_case
    def holds(case: Case) -> None:
        case.scenario()

    @pytest.mark.patches
    @of_each_case
    def breaks(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        case.mutant(monkeypatch)
        with pytest.raises((Broken, InvariantViolation)):
            case.scenario()

    return holds, breaks


@dataclass
class Caught:
    """Messages taken off their links while `is_catching`; `pour` puts them back, in their order."""

    world: World
    kinds: frozenset[int]
    source: int | None
    target: int | None
    messages: list[tuple[int, int, Any]] = field(default_factory=list)
    is_catching: bool = True

    def takes(self, source: int, target: int, message: Any) -> bool:
        """Take a message if it is one to be caught."""
        if not self.is_catching or (self.kinds and message[0] not in self.kinds):
            return False
        if self.source not in (None, source) or self.target not in (None, target):
            return False
        self.messages.append((source, target, message))
        return True

    def stop(self) -> None:
        """Let later messages pass; those caught stay caught."""
        self.is_catching = False

    def pour(self, *, target: int | None = None) -> None:
        """Put what was caught (for `target`, if given) onto its links, and let later messages pass."""
        self.is_catching = False
        rest = []
        for message in self.messages:
            if target in (None, message[1]):
                self.world.queues.setdefault(message[:2], deque()).append(msgpack.packb(message[2]))
            else:
                rest.append(message)
        self.messages = rest


def catch(world: World, *kinds: int, source: int | None = None, target: int | None = None) -> Caught:
    """Catch messages of these kinds (none: all) from `source` to `target` (None: anybody) from now on."""
    caught = Caught(world, frozenset(kinds), source, target)
    before = world.on_post
    world.on_post = lambda a, b, message: not caught.takes(a, b, message) and before(a, b, message)
    return caught


def propose_and_die(world: World, at: int, ask: Callable[[], Call]) -> Call:
    """Let `ask` (a mutation at node `at`) be accepted by that node alone, whose process then ends and starts anew."""
    accepts = catch(world, m.ACCEPT, source=at)
    call = ask()
    world.run()
    accepts.stop()
    assert accepts.messages, "the proposal was not made"
    assert call.answer is None, "the proposal was decided"
    world.crash(at)
    world.restart(at)
    return call


@contextmanager
def apart(world: World, *indexes: int) -> Iterator[None]:
    """Within the block these nodes are cut off from all others; what is sent meanwhile is lost."""
    pairs = [(one, other) for one in indexes for other in range(len(world.hosts)) if other not in indexes]
    for one, other in pairs:
        world.cut(one, other)
    yield
    for one, other in pairs:
        world.mend(one, other)


def trio(seed: int = 0, key: str = "k", *, q1: int = 2, q2: int = 2) -> tuple[World, int, int, int]:
    """Return a world of three nodes and the owners of `key`, primary first."""
    world = World(3, seed, store=StoreConfig("default", replicas=3, q1=q1, q2=q2))
    a, b, c = world.owners(key)
    return world, a, b, c


def put(world: World, value: bytes, at: int, key: str = "k", **options: Any) -> Call:
    """Run a strong put to its end; it must be applied."""
    call = world.put(key, value, at, **options)
    world.run()
    if call.answer is None:
        world.run(1.0)
    assert call.kind == m.APPLIED, call.answer
    return call


def finished(world: World, call: Call, within_s: float = 8.0) -> Call:
    """Run until a call is answered, and return it."""
    world.run()
    if call.answer is None:
        world.run(within_s)
    assert call.answer is not None, "no answer at all"
    return call


def settle(world: World, elapsed_s: float = 0.2) -> None:
    """Let the marks and repairs that are owed arrive."""
    world.run(elapsed_s)
    world.invariants()


def seen_by(world: World, at: int, key: str = "k") -> bytes | None:
    """Return what an eventual read of node `at` alone shows."""
    call = world.get(key, at, strong=False)
    world.run()
    return call.value
