"""Suspicion by phi accrual: tables of samples and silences (Hayashibara et al. 2004)."""

from __future__ import annotations

import itertools
import math

import pytest

from kvnode.core.detector import THRESHOLD, Detector, phi_of, sigmas_of

STEADY = [1.0] * 20
JITTERY = [0.4, 1.6] * 10
SLOW = [3.0] * 20


def fed(intervals_s: list[float], *, interval_s: float = 1.0) -> tuple[Detector, float]:
    """Return a detector that has heard node 1 after each of these intervals, and the time of the last."""
    detector, now_s = Detector(3, interval_s), 100.0
    detector.heard(1, now_s)
    for pause_s in intervals_s:
        now_s += pause_s
        detector.heard(1, now_s)
    return detector, now_s


@pytest.mark.parametrize(
    ("sigmas", "phi"), [(-9.0, 0.0), (0.0, 0.30103), (1.281552, 1.0), (2.326348, 2.0), (3.090232, 3.0), (5.612001, 8.0)]
)
def test_phi_is_the_logarithm_of_the_chance_that_an_answer_is_even_later(sigmas: float, phi: float) -> None:
    """The quantiles of the normal distribution: at phi = 3 one silence in a thousand lasts longer."""
    assert phi_of(sigmas) == pytest.approx(phi, abs=1e-4)
    if phi:
        assert sigmas_of(phi) == pytest.approx(sigmas, abs=1e-3)


def test_phi_rises_without_a_step_far_out_where_the_error_function_ends() -> None:
    values = [phi_of(sigmas / 10) for sigmas in range(-100, 2000)]
    assert all(low <= high for low, high in itertools.pairwise(values))
    assert all(high - low < 9.0 for low, high in itertools.pairwise(values))
    assert math.isfinite(phi_of(1e6))


@pytest.mark.parametrize(
    ("intervals_s", "silence_s", "is_suspected"),
    [
        (STEADY, 1.5, False),
        (STEADY, 2.3, False),
        (STEADY, 2.5, True),
        (STEADY, 60.0, True),
        (JITTERY, 2.5, False),  # the same silence is usual here
        (JITTERY, 4.2, False),
        (JITTERY, 4.5, True),
        (SLOW, 4.0, False),
        (SLOW, 4.5, True),
        ([], 2.3, False),  # never heard twice: the nominal interval
        ([], 2.5, True),
    ],
)
def test_a_silence_is_judged_by_what_is_usual_for_the_node(
    intervals_s: list[float], silence_s: float, *, is_suspected: bool
) -> None:
    detector, last_s = fed(intervals_s)
    now_s = last_s + silence_s
    assert detector.suspects(now_s) == (0b010 if is_suspected else 0)
    assert (detector.phi(1, now_s) >= THRESHOLD) == is_suspected


def test_a_node_that_is_heard_again_is_trusted_again() -> None:
    detector, now_s = fed(STEADY)
    assert detector.suspects(now_s + 9.0)
    detector.heard(1, now_s + 9.0)
    assert not detector.suspects(now_s + 10.0)


def test_nothing_is_expected_of_a_node_that_was_never_heard_or_whose_link_has_ended() -> None:
    detector, now_s = fed(STEADY)
    detector.lost(1)
    assert detector.suspects(now_s + 1e6) == 0
    assert detector.phi(1, now_s + 1e6) == 0.0
    assert detector.phi(0, now_s) == 0.0


def test_an_outage_is_no_sample_of_the_rhythm() -> None:
    detector, now_s = fed(STEADY)
    detector.lost(1)
    detector.heard(1, now_s + 3600.0)
    assert detector.suspects(now_s + 3602.5) == 0b010


def test_a_node_that_stood_still_itself_blames_nobody() -> None:
    detector, now_s = fed(STEADY)
    detector.forgive(30.0)
    assert not detector.suspects(now_s + 31.0)
    assert detector.suspects(now_s + 33.0)


def test_old_samples_are_forgotten() -> None:
    detector, now_s = fed([5.0] * 100 + [1.0] * 64)
    assert detector.suspects(now_s + 2.5)


@pytest.mark.parametrize("interval_s", [0.05, 1.0, 60.0])
def test_suspicion_scales_with_the_interval_of_heartbeats(interval_s: float) -> None:
    detector, now_s = fed([interval_s] * 20, interval_s=interval_s)
    assert not detector.suspects(now_s + 2.3 * interval_s)
    assert detector.suspects(now_s + 2.5 * interval_s)
