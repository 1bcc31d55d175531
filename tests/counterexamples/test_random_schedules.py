"""Random schedules with every fault of the model, judged by an oracle over all acceptors and by what clients saw.

CI runs a fixed set of seeds; more by hand: `python -c "import chaos; chaos.run(SEED)"` with `tests` on the path.  The
checks are tried on broken clusters, for one that cannot fail is a defect.
"""

from __future__ import annotations

import chaos
import pytest
from mutants import durability, outcomes, purge, retries, rounds

from kvnode.core.register import InvariantViolation

CHUNK = 25


@pytest.mark.parametrize("start", range(0, 8 * CHUNK, CHUNK))
def test_no_schedule_breaks_a_promise(start: int) -> None:
    run_all(range(start, start + CHUNK))


@pytest.mark.parametrize("start", range(0, 24, 8))
def test_no_schedule_brings_deleted_data_back_or_leaves_tombstones(start: int) -> None:
    """R34-R38: time leaps past gc_grace between faults, and what was on its way comes late."""
    run_all(range(start, start + 8), reaps=True)


def run_all(seeds: range, *, reaps: bool = False) -> None:
    for seed in seeds:
        try:
            chaos.run(seed, reaps=reaps)
        except (AssertionError, InvariantViolation) as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.patches
@pytest.mark.parametrize(
    "mutant",
    [
        rounds.accepted_goes_before_committed,
        rounds.one_acknowledgement_is_enough,
        rounds.the_greatest_seen_is_returned,
        rounds.the_mark_is_lost,
        durability.cached_promises_survive,
        durability.the_disk_syncs_nothing,
        durability.answers_do_not_wait_for_the_disk,
        retries.nothing_is_remembered,
        outcomes.no_accept_is_in_doubt,
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_a_broken_cluster_is_caught(mutant, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        run_all(range(30))


@pytest.mark.patches
@pytest.mark.parametrize("mutant", [purge.nothing_is_settled, purge.most_are_all], ids=lambda mutant: mutant.__name__)
def test_a_broken_purge_is_caught(mutant, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        run_all(range(40), reaps=True)
