"""Seeds that CI runs; `scripts/simulate.py` runs as many as wanted (docs/testing.md, section 3)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation.campaign import run_seed
from simulation.run import run
from simulation.swarm import STEADY, Bias, draw

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
    assert sum(outcome.answered for outcome in outcomes) > 20 * CHUNK, "the runs get too little done to show anything"


def test_where_nothing_goes_wrong_no_call_fails() -> None:
    """Nor is any outcome unknown; but for `update`, which may lose races until its time is up."""
    for seed in range(CHUNK):
        scenario = draw(seed, Bias(faults=(), is_steered=False))
        cluster = replace(scenario.cluster, offsets_ms=(), limits=dict(STEADY), sync_ms=0.0)
        verdict = run(replace(scenario, cluster=cluster))
        assert verdict.problem is None, f"seed {seed}"
        failed = [operation for operation in verdict.history if not operation.is_ok and operation.f != "incr"]
        assert not failed, f"seed {seed}: {failed[0]} ({failed[0].error})"
