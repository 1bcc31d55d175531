"""A scenario is data, and runs the same way wherever and however often it runs; what fails can be made smaller and
explained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.campaign import planted, run_planted
from simulation.explain import explain, key_of
from simulation.run import run
from simulation.scenario import Scenario
from simulation.shrink import shrink
from simulation.swarm import draw

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (1, 6, 9, 22)
MISTAKE = "one_acknowledgement_is_enough"


def digest_elsewhere(seed: int, hash_seed: str) -> str:
    """Return the digest of a seed as a process of its own finds it."""
    program = f"from simulation.campaign import run_seed; print(run_seed({seed}).digest)"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "client"), str(ROOT / "tests"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    first, second = run(draw(seed)), run(draw(seed))
    assert first.digest == second.digest
    assert first.history == second.history


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    here = run(draw(SEEDS[0])).digest
    assert {digest_elsewhere(SEEDS[0], "1"), digest_elsewhere(SEEDS[0], "2")} == {here}


@pytest.mark.parametrize("seed", range(100))
def test_a_scenario_survives_being_written_down(seed: int) -> None:
    scenario = draw(seed)
    assert Scenario.from_json(scenario.to_json()) == scenario


@pytest.mark.patches
def test_a_failure_is_made_smaller_and_explained() -> None:
    failed = next(verdict for seed in range(50) if (verdict := run_planted(draw(seed), MISTAKE)).problem)
    with planted(MISTAKE):
        smaller = shrink(failed, runs_max=150)
        assert failed.problem is not None
        assert smaller.problem is not None
        assert smaller.problem.check == failed.problem.check
        assert smaller.scenario.operations < failed.scenario.operations
        key = key_of(smaller.scenario, smaller.problem.text)
        lines = explain(smaller.scenario, key)
    assert {"client", "message", "disk", "verdict"} <= {line.sort for line in lines}
    assert lines[-1].what == smaller.problem.text


def test_who_listens_changes_nothing() -> None:
    scenario = draw(SEEDS[1])
    heard: list[tuple[object, ...]] = []
    assert run(scenario, lambda *facts: heard.append(facts)).digest == run(scenario).digest
    assert heard
