"""Random schedules with every fault of the model, judged by an oracle over all acceptors and by what clients saw.

CI runs a fixed set of seeds; more by hand: `python -c "import chaos; chaos.run(SEED)"` with `tests` on the path.  The
checkers are tried on broken clusters and broken histories, for one that cannot fail is a defect.
"""

from __future__ import annotations

from math import inf

import chaos
import pytest
from mutants import durability, outcomes, retries, rounds
from wgl import Event, Step, is_linearizable

CHUNK = 25


@pytest.mark.parametrize("start", range(0, 8 * CHUNK, CHUNK))
def test_no_schedule_breaks_a_promise(start: int) -> None:
    run_all(range(start, start + CHUNK))


def run_all(seeds: range) -> None:
    for seed in seeds:
        try:
            chaos.run(seed)
        except AssertionError as error:
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


def wrote(value: bytes, invoked: float, returned: float) -> Event:
    return Event(Step(True, value), invoked, returned)


def read(value: bytes | None, invoked: float, returned: float) -> Event:
    return Event(Step(False, saw=value), invoked, returned)


def swapped(needs: bytes | None, value: bytes, invoked: float, returned: float) -> Event:
    return Event(Step(True, value, True, needs), invoked, returned)


def refused(needs: bytes | None, invoked: float, returned: float) -> Event:
    return Event(Step(False, needs=needs, fails=True), invoked, returned)


@pytest.mark.parametrize(
    ("is_good", "history"),
    [
        (True, [wrote(b"a", 0, 1), read(b"a", 2, 3)]),
        (False, [wrote(b"a", 0, 1), read(None, 2, 3)]),
        (True, [wrote(b"a", 0, 3), read(None, 1, 2), read(b"a", 2.5, 4)]),
        (False, [wrote(b"a", 0, 5), read(b"a", 1, 2), read(None, 3, 4)]),
        (True, [wrote(b"a", 0, inf), read(None, 1, 2), read(b"a", 30, 40)]),
        (False, [wrote(b"a", 5, inf), read(b"a", 1, 2)]),
        (False, [wrote(b"a", 0, 1), swapped(b"a", b"b", 2, 9), swapped(b"a", b"c", 2, 9)]),
        (True, [wrote(b"a", 0, 1), swapped(b"a", b"b", 2, 9), refused(b"a", 2, 9), read(b"b", 10, 11)]),
        (False, [wrote(b"a", 0, 1), refused(b"a", 2, 3)]),
        (False, [wrote(b"a", 0, 1), wrote(b"b", 2, 3), read(b"a", 4, 5)]),
        (False, [swapped(None, b"a", 0, 1), swapped(None, b"b", 2, 3)]),
        (False, [read(b"never written", 0, 1)]),
    ],
)
def test_the_checker_tells_good_histories_from_bad_ones(is_good: bool, history: list[Event]) -> None:
    assert is_linearizable(history) is is_good
