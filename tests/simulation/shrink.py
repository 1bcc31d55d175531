"""Makes a failing scenario as small as it can while the same check still fails.

Decides: what is tried to be left out, and in which order: faults, clients, operations, then what the cluster has of
its own.  Leaves to others: running (`run`).

Leaving anything out changes every later draw of the scheduler, so a smaller scenario is tried under a few scheduler
seeds.  Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from simulation.run import Verdict, run
from simulation.scenario import Act, Cluster, Scenario

T = TypeVar("T")

SEEDS_EACH: Final = 3
_NEXT_SEED: Final = 1_000_003

OnProgress = Callable[[Scenario, int], None]


def shrink(failed: Verdict, runs_max: int = 400, on_progress: OnProgress = lambda scenario, runs: None) -> Verdict:
    """Return the verdict of the smallest scenario found that fails the same check.  `on_progress` hears of each
    improvement, and how many runs it took so far."""
    assert failed.problem is not None, "this scenario does not fail"
    return _Shrinking(failed, runs_max, on_progress).go()


class _Shrinking:
    """One search."""

    def __init__(self, failed: Verdict, runs_max: int, on_progress: OnProgress) -> None:
        assert failed.problem is not None
        self._best, self._check = failed, failed.problem.check
        self._runs, self._runs_max, self._on_progress = 0, runs_max, on_progress

    def go(self) -> Verdict:
        """Try to leave things out until nothing more can go."""
        is_better = True
        while is_better:
            is_better = False
            for smaller in (_fewer_faults, _fewer_clients, _fewer_acts, _plainer):
                is_better = self._pass(smaller) or is_better
        return self._best

    def _pass(self, smaller: Callable[[Scenario], Iterator[Scenario]]) -> bool:
        """Try each candidate of a kind, from the best so far again after each success; return whether any was one."""
        is_better, candidates = False, smaller(self._best.scenario)
        while (candidate := next(candidates, None)) is not None:
            if self._runs >= self._runs_max:
                return False
            if self._still_fails(candidate):
                is_better, candidates = True, smaller(self._best.scenario)
        return is_better

    def _still_fails(self, candidate: Scenario) -> bool:
        for number in range(SEEDS_EACH):
            self._runs += 1
            verdict = run(replace(candidate, seed=candidate.seed + number * _NEXT_SEED))
            if verdict.problem is not None and verdict.problem.check == self._check:
                self._best = verdict
                self._on_progress(verdict.scenario, self._runs)
                return True
        return False


def _without(things: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Yield the sequence without large parts of it first, then without single things."""
    size = len(things) // 2
    while size:
        for start in range(0, len(things), size):
            yield (*things[:start], *things[start + size :])
        size //= 2


def _fewer_faults(scenario: Scenario) -> Iterator[Scenario]:
    if scenario.faults:
        yield replace(scenario, faults=())
    for faults in _without(scenario.faults):
        yield replace(scenario, faults=faults)


def _fewer_clients(scenario: Scenario) -> Iterator[Scenario]:
    """Clients keep their numbers, which faults name: one that is left out has nothing to do."""
    for number, acts in enumerate(scenario.clients):
        if acts:
            yield _with_acts(scenario, number, ())


def _fewer_acts(scenario: Scenario) -> Iterator[Scenario]:
    for number, acts in enumerate(scenario.clients):
        for fewer in _without(acts):
            if fewer:
                yield _with_acts(scenario, number, fewer)


def _with_acts(scenario: Scenario, number: int, acts: tuple[Act, ...]) -> Scenario:
    clients = (*scenario.clients[:number], acts, *scenario.clients[number + 1 :])
    return replace(scenario, clients=clients)


def _plainer(scenario: Scenario) -> Iterator[Scenario]:
    """Leave out what the cluster has of its own: limits, wrong clocks, delays, padding."""
    plain, cluster = Cluster(), scenario.cluster
    if scenario.value_bytes:
        yield replace(scenario, value_bytes=0)
    for name in ("offsets_ms", "sync_ms", "delay_ms", "is_fifo", "durability", "mix"):
        if getattr(cluster, name) != getattr(plain, name):
            yield replace(scenario, cluster=replace(cluster, **{name: getattr(plain, name)}))
    for name in cluster.limits:
        fewer = {other: value for other, value in cluster.limits.items() if other != name}
        yield replace(scenario, cluster=replace(cluster, limits=fewer))
