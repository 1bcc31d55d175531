"""Every planted mistake is found within its budget of seeds: the simulator and its checkers can fail (docs/testing.md,
section 4)."""

from __future__ import annotations

import pytest
from mutants.registry import MUTANTS, Mutant
from simulation.campaign import campaign
from simulation.run import run
from simulation.swarm import Bias, draw

pytestmark = pytest.mark.patches


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_mistake_is_found(mutant: Mutant) -> None:
    outcomes = campaign(range(mutant.seeds), mutant=mutant.name)
    found = next((outcome for outcome in outcomes if outcome.problem is not None), None)
    assert found is not None, f"{mutant.name} ({mutant.rule}) survived {mutant.seeds} seeds"
    assert found.is_mistake_found, f"{mutant.name} does not fit the product: {found.problem}"


@pytest.mark.parametrize("bias", {repr(mutant.bias): mutant.bias for mutant in MUTANTS}.values())
def test_nothing_is_found_where_nothing_is_planted(bias: Bias) -> None:
    """What finds the mistakes is not that their runs are harder."""
    for seed in range(1000, 1002):
        assert run(draw(seed, bias)).problem is None, f"seed {seed}"


def test_every_mistake_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
