"""Seeds that CI runs; `scripts/simulate.py` runs as many as wanted (docs/testing.md, section 3)."""

from __future__ import annotations

import pytest
from simulation.campaign import run_seed

CHUNK = 25
CHUNKS = 16


@pytest.mark.parametrize("start", range(0, CHUNKS * CHUNK, CHUNK))
def test_no_seed_breaks_a_promise(start: int) -> None:
    outcomes = [run_seed(seed) for seed in range(start, start + CHUNK)]
    failed = [
        f"{outcome.problem.text} (scripts/simulate.py --seed {outcome.seed} --explain auto)"
        for outcome in outcomes
        if outcome.problem is not None
    ]
    assert not failed, "\n".join(failed)
    assert sum(outcome.operations for outcome in outcomes) > 20 * CHUNK, "the runs get too little done to show anything"
