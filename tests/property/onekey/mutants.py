"""Planted mistakes: each switches off one rule, and the model must notice (docs/testing.md, section 4).

`plant` may patch the code under test, and returns the settings of the schedules to run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from mutants import outcomes, overlay, retries, rounds
from property.onekey.node import Switches
from property.onekey.plan import draw_plan
from property.onekey.schedule import run

from kvclient.wire.values import NO_BALLOT, NO_SBALLOT, NO_VERSION
from kvnode.core import change, proposer
from kvnode.core import register as registers
from kvnode.core.quorum import Quorums
from kvnode.core.record import NO_RECORD
from kvnode.core.register import Register, Verdict
from kvnode.core.version import ballot_stamp, version_sballot, version_stamp
from kvnode.core.window import Window

Settings = dict[str, Any]


class Mutant(NamedTuple):
    """`budget`: schedules within which it must be caught.  `plan`: what its schedules have in common: the faults and
    operations that the mistake needs, more often than a plan drawn at random has them."""

    name: str
    rule: str
    budget: int
    plant: Callable[[ExitStack], Settings]
    plan: Mapping[str, Any] = MappingProxyType({})

    def run(self, seed: int) -> None:
        """Run one schedule with the mistake planted; raises what it finds."""
        with ExitStack() as stack:
            settings = self.plant(stack)
            plan = replace(draw_plan(random.Random(seed)), **self.plan)
            run(seed, **{"quorums": Quorums(3, 2, 2), "plan": plan, **settings})


def _base_by_version(stack: ExitStack) -> Settings:
    def greatest(*arguments: Any, key: Any = None) -> Any:
        if key is None:
            return max(*arguments)
        if len(arguments) == 1:
            return max(arguments[0], key=lambda pair: pair[1].version)
        return max(*arguments, key=key)

    stack.enter_context(patch.object(proposer, "max", greatest, create=True))
    return {}


def _unseen_unchecked(stack: ExitStack) -> Settings:
    real = Register.accept
    stack.enter_context(
        patch.object(
            Register, "accept", lambda self, ballot, record, base, nxt: real(self, ballot, record, NO_VERSION, nxt)
        )
    )
    return {}


def _mark_lost_drop_kept(stack: ExitStack) -> Settings:
    real = Register.commit

    def commit(self: Register, ballot: Any, record: Any) -> Verdict:
        image = self.image
        if image.accepted_ballot and image.accepted_ballot <= ballot and not record.body:
            self.image = image._replace(accepted_ballot=NO_BALLOT, accepted=NO_RECORD)
            self.shown = self.shown._replace(accepted_ballot=NO_BALLOT, accepted=NO_RECORD)
            return Verdict.DONE
        return real(self, ballot, record)

    stack.enter_context(patch.object(Register, "commit", commit))
    return {}


def _overlay_by_stamp(stack: ExitStack) -> Settings:
    def later(entry: Any, base: Any) -> bool:
        return version_stamp(entry[1:45]) > max(version_stamp(base), ballot_stamp(version_sballot(base) or NO_SBALLOT))

    stack.enter_context(
        patch.object(proposer, "entry_counts", lambda entry, base, absent: absent or later(entry, base))
    )
    stack.enter_context(patch.object(proposer, "entry_proves_stale", lambda entry, base: False))
    stack.enter_context(patch.object(registers, "entry_visible", lambda entry, base, settled: later(entry, base)))
    return {}


def _dedupe_off(stack: ExitStack) -> Settings:
    stack.enter_context(patch.object(Window, "find", lambda self, session, sequence: None))
    stack.enter_context(patch.object(Window, "is_answered", lambda self, session, sequence: False))
    return {}


def _refusal_unrecorded(stack: ExitStack) -> Settings:
    real = change._remember

    def remember(key: Any, operation: Any, result: int, version: Any) -> None:
        if result == change.windows.APPLIED:
            real(key, operation, result, version)
        else:
            key.must_accept = key.must_accept or not operation.is_first_try

    stack.enter_context(patch.object(change, "_remember", remember))
    return {}


def _shared(plant: Callable[[pytest.MonkeyPatch], None], **settings: Any) -> Callable[[ExitStack], Settings]:
    """Plant a mistake that the simulator has as well."""

    def planted(stack: ExitStack) -> Settings:
        plant(stack.enter_context(pytest.MonkeyPatch.context()))
        return settings

    return planted


def _settings(**settings: Any) -> Callable[[ExitStack], Settings]:
    return lambda stack: settings


def _small_accept_quorum(stack: ExitStack) -> Settings:
    return {"quorums": Quorums(3, 2, 1)}


# Plans: what a mistake needs to show itself
_DUELS: Settings = {
    "primary": 0.2,
    "cut": 0.3,
    "link_down": 0.3,
    "steps": 400,
    "write": 0.0,
    "ttl": 0.0,
    "spread_ms": 10,
}
_CALM: Settings = {"drop": 0.0, "crash": 0.0, "duplicate": 0.0, "spread_ms": 10, "steps": 400, "slow": -1, "focus": 0.0}
_ROUND_READS: Settings = {**_DUELS, **_CALM, "fast_read": 0.0, "reads": 0.5, "commit": 0.0, "tick": 0.0, "sync": 30.0}
_FAST_READS: Settings = {**_DUELS, **_CALM, "fast_read": 0.9, "reads": 0.5}
_WRITES: Settings = {"write": 1.0, "drop": 0.05, "steps": 300}
_RETRIES: Settings = {
    **_CALM,
    "retry_attempt": 3.0,
    "primary": 0.3,
    "reads": 0.0,
    "write": 0.0,
    "slow": 0,
    "timeout_ms": 5000,
    "cut": 0.0,
}
_LATE: Settings = {"retry_attempt": 1.0, "tick": 1.0, "spread_ms": 200_000, "max_offset_ms": 1_000_000, "reads": 0.1}
_DOUBT: Settings = {**_CALM, "give_up": 2.0, "primary": 0.3, "cut": 0.3, "link_down": 0.3}
_TIMEOUTS: Settings = {
    **_CALM,
    "primary": 0.5,
    "timeout": 2.0,
    "write": 0.0,
    "link_down": 0.3,
    "cut": 0.0,
    "reads": 0.0,
}
_CRASHES: Settings = {"crash": 1.0, "drop": 0.0, "steps": 300, "primary": 0.3}

MUTANTS = (
    Mutant(
        "prepare granted at equality, ballots reused",
        "R5, R9, M5",
        400,
        _shared(rounds.prepares_are_granted_at_equality, on=Switches(ballots_unique=False)),
        _CRASHES,
    ),
    Mutant("base chosen by version", "R15, M4a", 1500, _base_by_version, _ROUND_READS),
    Mutant(
        "refusal and read by round without evidence", "R17, M3, C8", 400, _shared(retries.promises_prove_everything)
    ),
    Mutant(
        "fast read of the maximum seen", "R20, M4b", 400, _shared(rounds.the_greatest_seen_is_returned), _FAST_READS
    ),
    Mutant("fast read passes over the overlay", "R20, M8d", 400, _shared(overlay.entries_prove_nothing), _WRITES),
    Mutant("read set too small", "R20, R26, M10a", 400, _shared(rounds.read_sets_are_too_small), _FAST_READS),
    Mutant("unseen overlay unchecked", "R10", 400, _unseen_unchecked, _WRITES),
    Mutant(
        "`next` replaced by a greater ballot", "R19", 400, _settings(on=Switches(uses_cached_exactly=False)), _DUELS
    ),
    Mutant(
        "cached promise kept after one ack",
        "R18, R19",
        2000,
        _settings(on=Switches(forgets_cached_after_timeout=False)),
        _TIMEOUTS,
    ),
    Mutant("commit mark lost, drop of accepted kept", "R12", 800, _mark_lost_drop_kept),
    Mutant("overlay ordered by stamp alone", "R7, R15, C4, M8f", 400, _overlay_by_stamp, _WRITES),
    Mutant("dedupe off", "R23, M1b", 100, _dedupe_off),
    Mutant("refusal of a later attempt unrecorded", "R23", 1500, _refusal_unrecorded, _RETRIES),
    Mutant("refusal of a late retry by the wall clock", "R24", 800, _shared(outcomes.late_refusals_are_final), _LATE),
    Mutant(
        "window entries dropped at the deadline",
        "R24",
        1000,
        _shared(retries.entries_are_dropped_at_the_deadline),
        _LATE,
    ),
    Mutant("first-incomplete mark unchecked", "R23", 1000, _shared(retries.marks_are_ignored), _RETRIES),
    Mutant("doubt cleared after one refusal", "R21", 1000, _shared(outcomes.one_refusal_clears_doubt), _DOUBT),
    Mutant("Q2 = 1 with Q1 = 2 of 3", "R26, M10c", 100, _small_accept_quorum),
    Mutant("promise not durable", "R9, R11, M2", 400, _settings(on=Switches(promise_is_durable=False)), _CRASHES),
    Mutant("accept acknowledged before its sync", "R10, R45", 100, _settings(on=Switches(acks_durable_only=False))),
    Mutant("value shown before its sync", "R6", 1000, _settings(on=Switches(shows_durable_only=False)), _CRASHES),
    Mutant(
        "repair of accepted entries", "R13, M9a", 400, _settings(on=Switches(repairs_chosen_only=False)), _FAST_READS
    ),
)
"""Not here, because no schedule of one key can catch it: a round that goes on although an entry proves it stale (R15).
Such a round's ballot lies below a chosen one that its quorum missed, so acceptors of that one refuse it (P1); the rule
saves a round trip.  The base of an eventual write (R7) needs two dead proposals in a row, and has its own script."""
