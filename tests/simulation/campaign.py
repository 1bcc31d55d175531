"""Many seeds, in several processes, with or without a planted mistake: what `scripts/simulate.py` and CI share.

Decides: how seeds are dealt to processes, and what comes back of each.  Leaves to others: showing it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from mutants.registry import BY_NAME
from simulation.run import EXCEPTION, Problem, Verdict, run
from simulation.scenario import Scenario
from simulation.swarm import NO_BIAS, Bias, draw

CHUNK = 4
"""Seeds that a process takes at once."""


@dataclass(frozen=True)
class Outcome:
    """What is left of one run."""

    seed: int
    problem: Problem | None
    digest: str
    operations: int
    answered: int
    """How many of them were answered, be it with a refusal; the rest failed, or nobody knows."""
    steps: int
    virtual_s: float
    elapsed_s: float
    purged: int = 0
    """Rows of tombstones that were removed."""
    unjudged: int = 0

    @property
    def is_mistake_found(self) -> bool:
        """True if a check failed.  That a node died of an exception may only show that the patch does not fit the
        product any more, and would then go unnoticed for ever."""
        return self.problem is not None and not self.problem.check.startswith(EXCEPTION)


@contextmanager
def planted(mutant: str) -> Iterator[None]:
    """Plant a mistake by its name while the context lasts; none if the name is empty."""
    with pytest.MonkeyPatch.context() as patch:
        if mutant:
            BY_NAME[mutant].plant(patch)
        yield


def bias_of(mutant: str) -> Bias:
    """Return what the runs of a mistake have in common."""
    return BY_NAME[mutant].bias if mutant else NO_BIAS


def run_planted(scenario: Scenario, mutant: str = "") -> Verdict:
    """Run one scenario with a mistake planted afresh, so that no run remembers another."""
    with planted(mutant):
        return run(scenario)


def run_seed(seed: int, mutant: str = "") -> Outcome:
    """Draw and run one scenario."""
    started_s = time.perf_counter()
    verdict = run_planted(draw(seed, bias_of(mutant)), mutant)
    return Outcome(
        seed,
        verdict.problem,
        verdict.digest,
        len(verdict.history),
        verdict.count("ok"),
        verdict.steps,
        verdict.virtual_s,
        time.perf_counter() - started_s,
        verdict.purged,
        verdict.unjudged,
    )


def campaign(seeds: range, jobs: int = 1, mutant: str = "") -> Iterator[Outcome]:
    """Yield the outcome of each seed as it comes; with one job, in order.  Stop iterating to stop it."""
    one = partial(run_seed, mutant=mutant)
    if jobs == 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(one, seeds, CHUNK)
